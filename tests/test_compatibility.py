"""A store and a bundle of commit 62b10ff, before files moved, give the same numbers, and no trial runs again.

tests/golden/commit_62b10ff.zip has the YAML that was launched then, the store without the shards of digits (every
launch makes them again), the leaderboard.csv of the report, and the bundle.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from models.catalog import DETECTORS
from sweep.cli.session import Session
from sweep.leaderboard.rows import COLUMNS
from sweep.report.bundle import Bundle
from sweep.report.files import CSV_COLUMNS
from sweep.report.verify import LATER_COLUMNS, verify
from tests.support.sweeps import ROOT, sweep_in

WRITTEN = ROOT / "tests/golden/commit_62b10ff.zip"
NAMES = (
    "detector",
    "variant",
    "dataset",
    "protocol",
    "abnormal",
    "selection",
    "evaluation",
    "metric",
    "study",
    "setting",
)


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which commit 62b10ff was run; its YAML has a relative path to the store."""
    with zipfile.ZipFile(WRITTEN) as written:
        written.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> str:
    done = sweep_in(Path.cwd(), *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


REPLACED = {"ci_low", "ci_high", "behind", "behind_half_width", "effect", "p", "p_holm", "p_signed_rank"}
"""Columns of the old tests and intervals, which have others in their place."""


def cells(text: str) -> dict[tuple[str, ...], dict[str, str]]:
    return {tuple(line[name] for name in NAMES): line for line in csv.DictReader(text.splitlines())}


def test_nothing_is_left_to_run(old: Path) -> None:
    plan = json.loads(run("plan", "old.yaml", "--json"))
    assert plan["trials"] == plan["done"] == 10
    assert [plan[name] for name in ("to_run", "failed", "pruned", "stale")] == [0, 0, 0, 0]
    assert "digits" not in run("launch", "old.yaml", "-y").split("trials", maxsplit=1)[0], "nothing is put or started"


def test_every_cell_is_the_same(old: Path) -> None:
    run("report", "old.yaml", "-o", "new")
    before, now = cells(Path("leaderboard.csv").read_text()), cells(Path("new/leaderboard.csv").read_text())
    assert before.keys() == now.keys()
    for cell, line in before.items():
        kept = {column: value for column, value in line.items() if column not in REPLACED}
        assert {column: now[cell][column] for column in kept} == kept, cell
        assert now[cell]["low"] or int(line["n"]) < 2, "trials of before get the new intervals"


def test_the_bundle_is_verified(old: Path) -> None:
    found = verify(Bundle(Path("results.zip")))
    assert (found.trials, found.rows, found.differences) == (8, 29, ())
    assert found.notes == (
        f"not checked: {', '.join(sorted(LATER_COLUMNS))}, because an older version packed this bundle without them",
    )


def test_a_bundle_without_columns_that_came_later_is_verified_with_a_note(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COLUMNS, "of_a_later_version", float)
    monkeypatch.setattr("sweep.report.verify.LATER_COLUMNS", LATER_COLUMNS | {"of_a_later_version", "later"})
    monkeypatch.setattr("sweep.report.files.CSV_COLUMNS", (*CSV_COLUMNS, "later"))
    found = verify(Bundle(Path("results.zip")))
    assert found.differences == ()
    assert found.notes == (
        f"not checked: {', '.join(sorted(LATER_COLUMNS | {'of_a_later_version', 'later'}))}, "
        "because an older version packed this bundle without them",
    )


def test_a_bundle_that_somebody_has_taken_columns_out_of_is_not_verified(old: Path) -> None:
    """Its numbers are gone from leaderboard.csv, and bundle.json lists the new file."""
    columns = list(csv.reader((old / "leaderboard.csv").read_text().splitlines()))
    kept = "\n".join(",".join(line[:8]) for line in columns) + "\n"
    with zipfile.ZipFile("results.zip") as packed, zipfile.ZipFile("forged.zip", "w") as forged:
        body = json.loads(packed.read("bundle.json"))
        digest = hashlib.sha256(kept.encode()).hexdigest()
        body["files"]["leaderboard.csv"] = {"bytes": len(kept), "sha256": digest}
        for name in packed.namelist():
            data = {"leaderboard.csv": kept.encode(), "bundle.json": json.dumps(body).encode()}.get(name)
            forged.writestr(name, packed.read(name) if data is None else data)
    assert len(verify(Bundle(Path("forged.zip"))).differences) > 100


def test_a_dataset_is_whole_and_its_preparation_has_the_same_name(old: Path) -> None:
    assert "shapes s16-bilinear-1-c37da57a: ok" in run("data", "verify", "shapes", "old.yaml")


def test_results_of_an_older_revision_are_stale_and_nothing_is_refused(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ganomaly", "knn"):
        raised = dataclasses.replace(DETECTORS[name], revision=DETECTORS[name].revision + 1)
        monkeypatch.setitem(DETECTORS, name, raised)
    session = Session(Path("old.yaml"), [], as_launched=True)
    state = session.read_status()
    assert (state.count("trials"), state.count("stale"), state.count("to_run")) == (10, 6, 6)
    session.reporting().write(old / "new", "", "")
    lines = cells((old / "new/leaderboard.csv").read_text())
    stale = {line["detector"] for line in lines.values() if line["abnormal"] == "0" and int(line["stale"])}
    assert stale == {"ganomaly", "knn"}
    assert verify(Bundle(Path("results.zip"))).differences == ()
