"""Rows from plan and results: no planned trial is ever missing."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.leaderboard.rows import COLUMNS, build_rows
from sweep.plan.expand import Planned
from sweep.spec.trial import Numerics, TrialSpec, Validation
from sweep.trial.metrics import evaluate

DESIGNED = re.findall(
    r"\w+",
    "key sweep study detector variant revision dataset protocol abnormal split_seed seed selection "
    "evaluation epoch auroc ap fpr95 base_rate n_normal n_abnormal ties status attempts train_seconds "
    "images_per_second peak_bytes device numerics torch ray commit dirty fingerprint split_hash",
)


def planned(seed: int = 0, lam: float | None = 0.0, **fields: Any) -> Planned:
    spec = TrialSpec("ganomaly", 1, "repo_head", {"nz": 100, "lr": 2e-4}, "digits", "s32", "D1", 1, 1, "3", seed=seed)
    trial = Planned("bars", "error_bars", "ganomaly", "repo_head", "", "digits", "D1", "3", 0, seed, lam, spec)
    return replace(trial, **fields)


def result(trial: Planned, lam: float | None = 0.0, selections: tuple[str, ...] = ("last", "oracle")) -> dict[str, Any]:
    metrics = {"epoch": 3, "auroc": 0.75, "ap": 0.5, "fpr95": 0.25, "base_rate": 0.4}
    counts = {"n_normal": 6, "n_abnormal": 4, "ties": 0.0}
    return {
        "key": trial.key, "status": "ok", "lam": lam, "attempts": 0, "train_seconds": 1.5, "device": "cpu",
        "torch": "2.14.0", "fingerprint": "f", "split_hash": "h", "dirty": False, "commit": "c", "ray": None,
        "metrics": [{"selection": s, "evaluation": "clean", **metrics, **counts} for s in selections],
    }  # fmt: skip


def scores_table() -> pa.Table:
    """Return scores of two test epochs, and of a validation part whose rows must not count."""
    random = np.random.default_rng(0)
    size = 60
    return pa.table(
        {
            "label": pa.array(random.permutation(np.arange(size) % 2).astype("uint8")),
            "part": ["test"] * 40 + ["validation"] * 20,
            "evaluation": ["clean"] * size,
            "epoch": [3] * 20 + [2] * 20 + [3] * 20,
            "score": pa.array(random.normal(size=size)),
            "reconstruction": pa.array(random.normal(size=size).astype("float32")),
            "latent": pa.array(random.normal(size=size).astype("float32")),
        }
    )


def no_scores(key: str) -> pa.Table:
    raise AssertionError(f"scores of {key} were read, and nothing needs them")


def test_a_finished_trial_has_a_row_for_each_selection_with_its_numbers() -> None:
    trial = planned()
    rows = build_rows([trial], {trial.key: result(trial)}, sweep="local", scores=no_scores)
    assert [(row["selection"], row["evaluation"], row["status"]) for row in rows] == [
        ("last", "clean", "ok"),
        ("oracle", "clean", "ok"),
    ]
    row = rows[0]
    assert (row["key"], row["sweep"], row["study"]) == (trial.key, "local", "bars")
    assert (row["auroc"], row["epoch"], row["train_seconds"], row["split_hash"]) == (0.75, 3, 1.5, "h")
    assert (row["hp_nz"], row["hp_lr"], row["lam"]) == (100, 2e-4, 0.0)
    assert row["numerics"] == "float32, 1 thread"


def test_rows_have_the_designed_columns_first_and_hyperparameters_last() -> None:
    (row, _) = build_rows([planned()], {}, sweep="local", scores=no_scores)
    assert list(COLUMNS)[: len(DESIGNED)] == DESIGNED
    assert list(row) == [*COLUMNS, "hp_lr", "hp_nz"]


@pytest.mark.parametrize(
    ("attempts", "status"),
    [
        ([], "missing"),
        (["oom"], "failed"),
        (["failed", "preempted"], "missing"),
        (["preempted", "hung"], "failed"),
    ],
)
def test_a_trial_without_result_is_a_row_that_says_why(attempts: list[str], status: str) -> None:
    trial = planned()
    records = {trial.key: [{"status": name, "cause": "x"} for name in attempts]}
    rows = build_rows([trial], {}, sweep="local", scores=no_scores, attempts=records)
    assert len(rows) == 2
    for row in rows:
        assert (row["status"], row["attempts"], row["auroc"]) == (status, len(attempts), None)


def test_a_trial_that_only_an_older_revision_finished_is_stale() -> None:
    trial = planned()
    now = replace(trial, spec=replace(trial.spec, revision=3))
    for older in (1, 2):
        before = replace(trial.spec, revision=older)
        rows = build_rows([now], {}, sweep="local", scores=no_scores, finished={before.key})
        assert [(row["status"], row["auroc"]) for row in rows] == [("stale", None)] * 2
    assert {row["status"] for row in build_rows([trial], {}, sweep="local", scores=no_scores, finished={now.key})} == {
        "missing"
    }


@pytest.mark.parametrize(
    ("device", "gpus", "cost"),
    [
        ("cpu", None, {"cpu_hours": 1.0, "gpu_hours": None}),
        ("NVIDIA H100", 0.25, {"cpu_hours": None, "gpu_hours": 0.125}),
        ("NVIDIA H100", None, {"cpu_hours": None, "gpu_hours": 0.5}),
    ],
)
def test_cost_is_the_hours_of_what_the_trial_held(device: str, gpus: float | None, cost: dict[str, float]) -> None:
    spec = replace(planned().spec, device=device, numerics=Numerics(threads=2))
    trial = planned(spec=spec)
    record = result(trial) | {"seconds": 1800.0, "gpus": gpus, "parameters": 7}
    row = build_rows([trial], {trial.key: record}, sweep="local", scores=no_scores, usd_per_hour=3.0)[0]
    assert {name: row[name] for name in cost} == cost
    assert (row["usd"], row["parameters"], row["seconds"]) == (1.5, 7, 1800.0)
    assert build_rows([trial], {trial.key: record}, sweep="local", scores=no_scores)[0]["usd"] is None


def test_a_diverged_trial_has_rows_without_numbers() -> None:
    trial = planned()
    record = result(trial) | {"status": "diverged", "metrics": []}
    rows = build_rows([trial], {trial.key: record}, sweep="local", scores=no_scores)
    assert [(row["status"], row["auroc"]) for row in rows] == [("diverged", None)] * 2


def test_a_selection_that_a_result_lacks_is_missing() -> None:
    trial = planned()
    record = result(trial, selections=("last",))
    rows = build_rows([trial], {trial.key: record}, sweep="local", scores=no_scores)
    assert {row["selection"]: row["status"] for row in rows} == {"last": "ok", "oracle": "missing"}


def test_validation_adds_two_selections() -> None:
    trial = planned(spec=replace(planned().spec, validation=Validation()))
    rows = build_rows([trial], {}, sweep="local", scores=no_scores)
    assert [row["selection"] for row in rows] == ["last", "val", "val_normal", "oracle"]
    assert {row["stop_on"] for row in rows} == {"auroc"}


def test_a_result_from_before_a_selection_existed_has_no_row_for_it() -> None:
    trial = planned(spec=replace(planned().spec, validation=Validation()))
    record = result(trial, selections=("last", "val", "oracle"))
    rows = build_rows([trial], {trial.key: record}, sweep="local", scores=no_scores)
    assert [(row["selection"], row["status"]) for row in rows] == [("last", "ok"), ("val", "ok"), ("oracle", "ok")]


def test_candidates_of_a_search_make_no_row() -> None:
    assert build_rows([planned(reported=False)], {}, sweep="local", scores=no_scores) == []


def test_the_same_trial_in_two_settings_keeps_them_apart() -> None:
    trials = [planned(), planned(study="nz", kind="grid", setting="nz=100", axis="nz", value=100)]
    rows = build_rows(trials, {trials[0].key: result(trials[0])}, sweep="local", scores=no_scores)
    assert {(row["study"], row["setting"], row["axis"], row["status"]) for row in rows} == {
        ("bars", "", None, "ok"),
        ("nz", "nz=100", "nz", "ok"),
    }


@pytest.mark.parametrize("lam", [0.3, 1.0])
def test_another_lambda_is_judged_from_the_stored_test_scores_of_the_chosen_epoch(lam: float) -> None:
    trial, table = planned(lam=lam), scores_table()
    rows = build_rows([trial], {trial.key: result(trial)}, sweep="local", scores=lambda _: table)
    part = table.slice(0, 20)
    mixed = lam * part["reconstruction"].to_numpy() + (1 - lam) * part["latent"].to_numpy()
    expected = evaluate(part["label"].to_numpy(), mixed)
    for row in rows:
        assert (row["lam"], row["epoch"]) == (lam, 3)
        assert (row["auroc"], row["ap"], row["fpr95"]) == (expected.auroc, expected.ap, expected.fpr95)
        assert (row["n_normal"], row["n_abnormal"]) == (expected.n_normal, expected.n_abnormal)


@pytest.mark.parametrize("wanted", [None, 0.9])
def test_a_score_of_one_component_has_no_lambda(wanted: float | None) -> None:
    trial = planned(lam=wanted)
    rows = build_rows([trial], {trial.key: result(trial, lam=None)}, sweep="local", scores=no_scores)
    assert [(row["lam"], row["auroc"]) for row in rows] == [(None, 0.75)] * 2


@settings(deadline=None)
@given(st.permutations(range(6)), st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_every_planned_trial_is_there_whatever_the_order_of_plan_and_results(
    order: list[int], finished: set[int], tried: set[int]
) -> None:
    trials = [planned(seed) for seed in range(6)]
    results = {trials[seed].key: result(trials[seed]) for seed in order if seed in finished}
    attempts = {trials[seed].key: [{"status": "failed", "cause": "x"}] for seed in order if seed in tried}

    def rows(plan: list[Planned]) -> list[dict[str, Any]]:
        found = build_rows(plan, results, sweep="local", scores=no_scores, attempts=attempts)
        return sorted(found, key=lambda row: (row["seed"], row["selection"]))

    found = rows([trials[seed] for seed in order])
    assert found == rows(trials)
    for row in found:
        without = "failed" if row["seed"] in tried else "missing"
        assert row["status"] == ("ok" if row["seed"] in finished else without)
    assert len(found) == 12


def test_report_and_its_rooms_start_without_the_heavy_libraries() -> None:
    heavy = ["torch", "ray", "pandas", "scipy", "pyarrow", "numpy", "rich", "optuna", "pydantic", "boto3"]
    code = f"import sys, sweep.report; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
