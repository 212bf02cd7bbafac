"""A store with damaged objects: reading one raises an error that names the object and the fix."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.plan.expand import expand
from sweep.plan.status import read_status
from sweep.results import open_results
from sweep.store.ledger import Damaged
from sweep.store.records import seal
from tests.support.made_up import MadeUp

Change = Callable[[dict[str, Any]], object]
TRUNCATED, EMPTY, NO_RECORD, NO_TEXT = b'{"status": "ok', b"", b"{}", b"\xff\xfe"
NO_STATUS = b'{"key": "3f2a"}'


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path, abnormal=[0, 1], seeds=2)


def without(name: str) -> Change:
    def change(record: dict[str, Any]) -> None:
        del record[name]

    return change


def with_value(name: str, value: Any) -> Change:
    return lambda record: record.update({name: value})


def rewrite(made: MadeUp, key: str, change: Change) -> None:
    """Rewrite a result as a careful stranger would: with a hash of itself that fits."""
    path = f"trials/{key}/result.json"
    record = json.loads(made.store.get(path))
    change(record)
    made.store.put(path, json.dumps(seal(record)).encode())


STATUSES: list[Any] = ["fine", 1, None, ["ok"]]
NO_METRICS: list[Any] = ["none", [1], [{}], {"auroc": 1}, [{"selection": "last"}]]
NO_SECONDS: list[Any] = ["1", True, None, [1.0]]
NO_SPECS: list[Any] = [None, [], {"hyperparameters": None}, {"hyperparameters": {}}]
NO_VALIDATIONS: list[Any] = [[], {"lambda": [0.5], "auroc": []}, {"lambda": [], "auroc": []}]
GARBLED: list[Change] = [
    *(without(name) for name in ("key", "spec", "status", "metrics", "validation", "lam", "seconds")),
    *(with_value("status", value) for value in STATUSES),
    *(with_value("metrics", value) for value in NO_METRICS),
    *(with_value("seconds", value) for value in NO_SECONDS),
    *(with_value("spec", value) for value in NO_SPECS),
    *(with_value("validation", value) for value in NO_VALIDATIONS),
    with_value("peak_bytes", 10**30),
    with_value("attempts", "many"),
    with_value("lam", "half"),
    with_value("device", 7),
    with_value("files", {"scores.parquet": None}),
    with_value("key", "0" * 20),
]
DAMAGE = [
    TRUNCATED, EMPTY, NO_RECORD, NO_TEXT, NO_STATUS, b"[" * 5000 + b"]" * 5000, b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'{"status": ' + b"9" * 5000 + b"}", b'{"status": NaN}', b"[]", b"null", b'"ok"',
]  # fmt: skip


@pytest.mark.parametrize("data", DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_result_is_one_row_of_the_report_and_is_named_with_the_fix(made: MadeUp, data: bytes) -> None:
    key = made.planned[0].key
    made.store.put(f"trials/{key}/result.json", data)
    assert_damaged(made, key)


@pytest.mark.parametrize("change", GARBLED, ids=range(len(GARBLED)))
def test_a_result_that_lacks_or_garbles_a_field_is_damaged(made: MadeUp, change: Change) -> None:
    key = made.planned[0].key
    rewrite(made, key, change)
    assert_damaged(made, key)


def assert_damaged(made: MadeUp, key: str) -> None:
    """Assert that plan, status and report show this trial as damaged, and all others as they are."""
    status = read_status(expand(made.sweep, made.platform), made.ledger)
    report = made.reporting()
    fix = rf"trials/{key}/result\.json .* delete trials/{key} there and launch again"
    for found in (status.damaged, report.damaged):
        assert [*found] == [key]
        assert re.search(fix, str(found[key]))
    assert (status.count("trials"), status.count("done")) == (len(made.planned), len(made.planned))
    assert {row["status"] for row in report.rows if row["key"] == key} == {"damaged"}
    assert {row["status"] for row in report.rows if row["key"] != key} == {"ok"}
    with pytest.raises(Damaged, match=key):
        made.ledger.result(key)


def test_an_edited_result_is_found_by_its_hash(made: MadeUp) -> None:
    key = made.planned[0].key
    path = f"trials/{key}/result.json"
    record = json.loads(made.store.get(path))
    record["metrics"][0]["auroc"] = 0.999
    made.store.put(path, json.dumps(record).encode())
    assert_damaged(made, key)


def test_a_damaged_attempt_counts_as_one_that_failed(made: MadeUp) -> None:
    made.store.put("trials/k/attempts/0001.json", b"{")
    made.ledger.put_attempt("k", {"status": "preempted", "cause": "x", "launch": 1})
    first, second = made.ledger.attempts_of("k")
    assert first["status"] == "failed" and "attempts/0001.json" in first["cause"]
    assert second["status"] == "preempted"
    assert made.ledger.attempts(made.ledger.index(), ["k"]) == {"k": [first, second]}


FOREIGN = [
    "trials/README", "trials/notes/README", "trials/k/attempts/notes.txt", "trials/k/attempts/a/b.json",
    "trials/k/a/b/c/d", "sweeps/README", "sweeps/test/specs/notes.txt", "sweeps/test/specs/1/2.json",
    "sweeps/test/studies/s/asks/first.json", "sweeps/test/studies/s/asks/0/1.json",
    "sweeps/test/studies/s/prunes/x", "sweeps/test/studies/s/prunes/-1.json", "sweeps/x/specs/copy of 0001.json",
    "notes", "datasets/README",
]  # fmt: skip


def test_foreign_files_anywhere_in_the_store_change_nothing(made: MadeUp) -> None:
    before = made.reporting().rows
    made.launch()
    for path in FOREIGN:
        made.store.put(path, b"anything")
    assert made.reporting().rows == before
    assert (made.ledger.asks("s"), made.ledger.prunes("s"), len(made.ledger.specs())) == ({}, {}, 1)
    assert made.ledger.attempts_of("k") == []
    assert open_results(made.sweep.storage).sweep == "test"


def test_what_is_no_regular_file_is_no_object(made: MadeUp) -> None:
    folder = Path(made.store.url)
    for name in ("trials/k/result.json", "trials/pipe", "sweeps/test/specs/0002.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(folder / name)
    (folder / "trials/gone").symlink_to("nowhere")
    (folder / "trials/a\nb").write_bytes(b"x")
    assert not {"pipe", "gone", "a\nb"} & set(made.store.names("trials"))
    assert "k" not in made.ledger.index().finished
    assert made.ledger.result("k") is None
    assert made.ledger.specs() == []


def test_a_damaged_spec_is_not_a_trials(made: MadeUp) -> None:
    path = f"sweeps/{made.sweep.name}/specs/0001.json"
    made.store.put(path, TRUNCATED)
    with pytest.raises(Damaged, match=rf"{path} .* restore it from a copy"):
        made.ledger.specs()


def test_damaged_scores_are_named_wherever_they_are_read(made: MadeUp, tmp_path: Path) -> None:
    path = f"trials/{made.planned[0].key}/scores.parquet"
    made.store.put(path, made.store.get(path)[:300])
    found = made.reporting()
    with pytest.raises(Damaged, match=path):
        found.compare("ganomaly", "knn", Console(quiet=True), None, "")
    found.write(tmp_path / "out", "", "")
    assert path in str(found.damaged[made.planned[0].key])
    with pytest.raises(Damaged, match=path):
        made.bundle(tmp_path / "x.zip")
    made.launch()
    with pytest.raises(Damaged, match=path):
        open_results(made.sweep.storage).scores(made.planned[0].key)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 and no more", b"text"])
def test_damaged_figure_data_are_named(made: MadeUp, tmp_path: Path, data: bytes) -> None:
    path = f"trials/{made.planned[0].key}/figures.npz"
    made.store.put(path, data)
    with pytest.raises(Damaged, match=path):
        made.reporting().write(tmp_path / "out", "", "")
