"""kill -9 of the launch with all of Ray, at any moment; then the same command: no trial is lost or runs twice."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections import defaultdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.sweeps import (
    command,
    environment,
    kill_everything,
    logged,
    plan_of,
    results_of,
    sweep,
    wait_until,
    write_config,
)

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(os.environ.get("SWEEP_CI") != "1", reason="takes minutes; SWEEP_CI=1 runs it, as .ci/run does"),
]
LOGGED = "tests.support.faulty_detectors:Logged"
STORIES = 2  # seeds; each one kills at other moments


def studies() -> list[dict[str, Any]]:
    """Return fixed trials, a grid and a search, with a detector that logs what it trains."""
    base = logged(epochs=3, pause=0.02)
    return [
        {**base, "seeds": 2, "abnormal": [0, 1]},
        {**base, "kind": "grid", "axes": {"nz": [2, 4]}},
        {
            **base,
            "kind": "search",
            "abnormal": [0, 1],
            "objective": "transfer",
            "space": {"nz": {"low": 1, "high": 8}},
            "candidates": 3,
            "parallel": 1,
            "tuning_seeds": 4,
        },
    ]


def configure(folder: Path) -> Path:
    folder.mkdir()
    return write_config(folder, studies(), trial={"checkpoint_seconds": 0.2})


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the YAML of the same sweep, launched without disturbance."""
    config = configure(tmp_path_factory.mktemp("calm") / "run")
    run = sweep("launch", config, "-y")
    assert run.returncode == 0, run.stdout + run.stderr
    return config


@pytest.mark.parametrize("seed", range(STORIES))
def test_killed_at_any_moment_it_goes_on_to_the_same_end(calm: Path, seed: int, tmp_path: Path) -> None:
    config, log = configure(tmp_path / "run"), tmp_path / "trained.log"
    rng = random.Random(seed)
    deaths = []
    for _ in range(3):
        lines = count(log)
        process = subprocess.Popen(
            command("launch", config, "-y"),
            env=environment(TRAINED_LOG=str(log)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        moment = lines + rng.randrange(1, 250)
        wait_until(partial(has_lines_or_ended, log, moment, process))
        time.sleep(rng.random() * 0.2)
        deaths.append((finished_trials(tmp_path / "run"), count(log)))
        kill_everything(process)
    run = sweep("launch", config, "-y", TRAINED_LOG=str(log))
    assert run.returncode == 0, run.stdout + run.stderr
    assert plan_of(config)["to_run"] == 0
    assert_same_truth(tmp_path / "run", calm.parent)
    assert_nothing_finished_was_trained_again(log, tmp_path / "run", deaths)


def has_lines_or_ended(log: Path, lines: int, process: subprocess.Popen[bytes]) -> bool:
    return count(log) >= lines or process.poll() is not None


def count(log: Path) -> int:
    return len(log.read_bytes().splitlines()) if log.exists() else 0


def finished_trials(folder: Path) -> set[str]:
    return {path.parent.name for path in (folder / "store/trials").glob("*/result.json")}


def assert_same_truth(folder: Path, calm: Path) -> None:
    """Check that specs, status, splits, metrics, scores, candidates and prunes are exactly those of the calm run."""
    ours, theirs = results_of(folder), results_of(calm)
    assert ours.keys() == theirs.keys()
    for key, result in ours.items():
        for name in ("spec", "status", "split_hash", "metrics", "validation", "fingerprint"):
            assert result[name] == theirs[key][name], (key, name)
        scores = [(f / f"store/trials/{key}/scores.parquet").read_bytes() for f in (folder, calm)]
        assert scores[0] == scores[1], key
    records = [
        {
            p.relative_to(f / "store/sweeps/test/studies"): json.loads(p.read_text())
            for p in (f / "store/sweeps/test/studies").rglob("*.json")
        }
        for f in (folder, calm)
    ]
    assert records[0] == records[1]


def assert_nothing_finished_was_trained_again(log: Path, folder: Path, deaths: list[tuple[set[str], int]]) -> None:
    """Check the log of every trained step, which the test keeps outside of the store.

    A trial that had a result before a kill has no line after it.  A trial that was interrupted has each step at least
    once, and goes on from a resume state: not every restart begins from scratch.
    """
    lines = [tuple(map(int, line.split())) for line in log.read_text().splitlines()]
    steps: dict[int, list[tuple[int, int]]] = defaultdict(list)  # (position in the log, step) by trial
    for position, (identity, step) in enumerate(lines):
        steps[identity].append((position, step))
    last = {identity: max(step for _, step in done) for identity, done in steps.items()}
    for identity, done in steps.items():
        assert {step for _, step in done} == set(range(1, last[identity] + 1))
    for finished, position in deaths:
        complete = [d for i, d in steps.items() if any(p < position and s == last[i] for p, s in d)]
        assert len(complete) >= len(finished), "every finished trial has been trained"
        again = [d for d in complete if any(p >= position for p, _ in d)]
        assert len(again) <= len(complete) - len(finished), "no finished trial is trained again"
    resumed = [d for d in steps.values() for (_, a), (_, b) in pairwise(d) if 1 < b <= a]
    assert resumed or all(len(d) == last[i] for i, d in steps.items()), "interrupted trials resume"
