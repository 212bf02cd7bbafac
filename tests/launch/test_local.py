"""One command from a YAML to a leaderboard, with all parts real: Ray, Optuna, Parquet, processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sweep.leaderboard.rows import COLUMNS
from tests.support.sweeps import (
    TIMEOUT,
    command,
    descendants,
    environment,
    logged,
    orphans,
    plan_of,
    results_of,
    sweep,
    wait_until,
    words_of,
    write_config,
)

pytestmark = pytest.mark.ray
QUICK = {"epochs": 1, "width": 4, "nz": 8}
FAULTS = {
    "Raises": ("failed", "ArithmeticError: this detector fails on purpose"),
    "Dies": ("failed", "the trial's process died"),
    "Segfaults": ("failed", "the trial's process died"),
    "RunsOutOfMemory": ("oom", "can't allocate memory"),
    "Hangs": ("hung", "no progress for 20 s"),
}


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Return a small sweep with every kind of study, launched to its end."""
    folder = tmp_path_factory.mktemp("launched")
    config = write_config(
        folder,
        [
            {
                "detectors": ["ganomaly", "pixel_mean", "tests.own_detector:DenoisingAutoencoder"],
                "abnormal": [0, 1],
                "seeds": 2,
                "hyperparameters": {"ganomaly": QUICK, "tests.own_detector:DenoisingAutoencoder": {"epochs": 1}},
            },
            {
                "kind": "search",
                "detectors": ["ganomaly"],
                "abnormal": [0, 1],
                "objective": "transfer",
                "hyperparameters": {"ganomaly": QUICK},
                "space": ["nz", "lambda"],
                "candidates": 3,
                "parallel": 1,
                "tuning_seeds": 6,
            },
            {
                "kind": "grid",
                "detectors": ["ganomaly"],
                "abnormal": [0],
                "hyperparameters": {"ganomaly": QUICK},
                "axes": {"nz": [4, 8]},
            },
        ],
    )
    return config, sweep("launch", config, "-y")


def test_a_launch_ends_in_a_leaderboard(launched: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, run = launched
    assert run.returncode == 0, run.stderr
    for name in ("ganomaly", "pixel_mean", "DenoisingAutoencoder", "searched", "class mean"):
        assert name in run.stdout
    assert "Traceback" not in run.stdout + run.stderr
    assert run.stderr == "", "no output of Ray itself"


def test_after_a_launch_everything_is_accounted_for(
    launched: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    plan = plan_of(launched[0])
    assert plan["to_run"] == 0
    assert plan["trials"] == plan["done"] + plan["failed"] + plan["pruned"]
    assert plan["failed"] == 0
    assert set(plan["detectors"]) == {"ganomaly", "pixel_mean", "tests.own_detector:DenoisingAutoencoder"}


def test_the_same_launch_again_runs_nothing_and_says_the_same(
    launched: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    config, first = launched
    before = _written(config)
    again = sweep("launch", config, "-y")
    assert again.returncode == 0
    assert _written(config) == before
    board = first.stdout[first.stdout.index("digits D1") :]
    assert again.stdout.endswith(board)


def _written(config: Path) -> dict[Path, int]:
    trials = config.parent / "store/trials"
    return {path: path.stat().st_mtime_ns for path in trials.rglob("*") if path.is_file()}


def test_a_search_records_its_candidates_and_reports_on_fresh_seeds(
    launched: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder = launched[0].parent
    asks = list((folder / "store/sweeps/test/studies").glob("*/asks/*.json"))
    assert len(asks) == 2 * 3
    seeds = Counter(r["spec"]["seed"] >= 1000 for r in results_of(folder).values())
    assert seeds[True] >= 2 * 3 * 4
    for result in results_of(folder).values():
        if result["spec"]["seed"] >= 1000:
            assert result["metrics"] == []
            assert result["spec"]["protocol"] == "D1v"
        else:
            assert result["spec"]["protocol"] == "D1"


def test_the_report_is_written_with_the_columns_that_are_promised(
    launched: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    run = sweep("report", launched[0], "-o", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "leaderboard.csv", "leaderboard.json", "leaderboard.md", "leaderboard.tex", "results.parquet",
        "report.html", "figures",
    }  # fmt: skip
    drawn = {path.name for path in (tmp_path / "out/figures").iterdir()}
    assert {"digits-D1-error-bars.svg", "digits-D1-error-bars.pdf"} <= drawn
    table = pq.read_table(tmp_path / "out/results.parquet")
    assert table.column_names[: len(COLUMNS)] == list(COLUMNS)
    assert "hp_nz" in table.column_names
    assert set(table["status"].to_pylist()) == {"ok"}
    with open(tmp_path / "out/leaderboard.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["detector"] for row in rows} >= {"ganomaly", "pixel_mean"}
    assert {row["selection"] for row in rows} == {"last", "oracle"}


def test_a_trial_can_be_looked_at(launched: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    key = next(iter(results_of(launched[0].parent)))
    shown = sweep("trial", launched[0], key[:8])
    assert shown.returncode == 0, shown.stderr
    assert key in shown.stdout
    found = json.loads(sweep("trial", launched[0], key, "--json").stdout)
    assert found["key"] == key


def test_nothing_is_left_behind(launched: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    trials = launched[0].parent / "store/trials"
    assert not list(trials.glob("*/checkpoint"))
    wait_until(lambda: not orphans())


def test_each_failure_is_an_attempt_with_its_cause_and_the_sweep_goes_on(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        [
            {
                "detectors": [f"tests.support.faulty_detectors:{name}" for name in FAULTS] + ["pixel_mean"],
                "abnormal": [0],
                "hyperparameters": {},
            },
        ],
        trial={"retries": 1, "hang_seconds": 20, "stop_after_failures": 0},
    )
    run = sweep("launch", config, "-y")
    assert run.returncode == 2, run.stdout + run.stderr
    plan = plan_of(config)
    assert (plan["done"], plan["failed"], plan["to_run"]) == (1, len(FAULTS), 0)
    causes: dict[str, list[tuple[str, str]]] = {}
    specs = {p.parent.parent.name: p for p in (tmp_path / "store/trials").glob("*/attempts/0001.json")}
    status = json.loads(sweep("status", config, "--json").stdout)
    assert len(specs) == len(FAULTS)
    for path in (tmp_path / "store/trials").glob("*/attempts/*.json"):
        record = json.loads(path.read_text())
        causes.setdefault(record["key"], []).append((record["status"], record["cause"]))
        assert record["log"], "the log is not empty"
    found = sorted(attempts[0] for attempts in causes.values())
    for name, (kind, cause) in FAULTS.items():
        assert any(k == kind and cause in c for k, c in found), (name, found)
    assert all(len(attempts) == 2 for attempts in causes.values()), "each trial had a second attempt"
    assert sum(len(keys) for keys in status["failures"].values()) == len(FAULTS)
    key = next(iter(causes))
    assert f"trial '{config}' {key} --log" in run.stdout or key in run.stdout
    log = sweep("trial", config, key, "--log")
    assert causes[key][0][1] in " ".join(log.stdout.split())
    assert "attempt 2" in log.stdout


def test_a_sweep_whose_first_trials_all_fail_alike_stops_and_says_so(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        [{"detectors": ["tests.support.faulty_detectors:Raises"], "abnormal": "all", "seeds": 9}],
        trial={"retries": 0, "stop_after_failures": 3},
    )
    run = sweep("launch", config, "-y")
    assert run.returncode == 1
    assert "trials failed alike: ArithmeticError" in run.stderr
    assert 3 <= plan_of(config)["failed"] < 10


def test_a_trial_that_rays_memory_monitor_kills_fails_alone(tmp_path: Path) -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    threshold = min(0.9, 1 - free / total + 0.12)  # about a tenth of the memory above the present use
    config = write_config(
        tmp_path,
        [{"detectors": ["tests.support.faulty_detectors:Hoards", "pixel_mean", "pca"], "abnormal": [0]}],
        trial={"retries": 0, "stop_after_failures": 0},
    )
    run = sweep(
        "launch", config, "-y",
        RAY_memory_usage_threshold=f"{threshold:.3f}", RAY_memory_monitor_refresh_ms="100",
        HOARD_BYTES=str(int(0.5 * total)),
    )  # fmt: skip
    assert run.returncode == 2, run.stdout + run.stderr
    plan = plan_of(config)
    assert (plan["done"], plan["failed"]) == (2, 1)
    (attempt,) = [json.loads(p.read_text()) for p in (tmp_path / "store/trials").glob("*/attempts/*.json")]
    assert attempt["status"] == "oom"
    assert "memory monitor" in attempt["cause"]


def test_ctrl_c_writes_resume_states_and_ends_and_the_same_command_goes_on(tmp_path: Path) -> None:
    config = write_config(tmp_path, [logged(epochs=20, pause=0.05)])
    log = tmp_path / "trained.log"
    extra = environment(TRAINED_LOG=str(log))
    process = subprocess.Popen(command("launch", config, "-y"), env=extra, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: log.exists() and len(log.read_text().splitlines()) > 30, process)
    started = b"".join(words_of(pid) for pid in descendants(process.pid))
    assert b"raylet" in started
    for idle in (
        b"dashboard/dashboard.py",
        b"monitor.py",
        b"log_monitor.py",
        b"dashboard/agent.py",
        b"runtime_env/agent",
    ):
        assert idle not in started, "it is not needed, and would cost a second at every start"
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in output
    assert list((tmp_path / "store/trials").glob("*/checkpoint/latest.json"))
    assert not list((tmp_path / "store/trials").glob("*/attempts/*")), "a stop is no failure"
    again = sweep("launch", config, "-y", TRAINED_LOG=str(log))
    assert again.returncode == 0, again.stderr
    steps = Counter(log.read_text().splitlines())
    assert len(steps) == 20 * 20
    repeated = sum(count - 1 for count in steps.values())
    assert repeated <= 60, "only steps after the last resume state are trained again"


def test_ctrl_c_while_data_are_put_ends_at_once_and_the_same_command_goes_on(tmp_path: Path) -> None:
    config = write_config(tmp_path, [logged(epochs=1, pause=0.0)])
    process = subprocess.Popen(command("launch", config, "-y"), env=environment(), stdout=subprocess.PIPE, text=True)
    wait_until((tmp_path / "store/sweeps/test/lease").exists, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 130, output
    assert "stopped; the same command goes on where it was\n" in output
    assert "Traceback" not in output
    wait_until(lambda: not orphans())
    again = sweep("launch", config, "-y")
    assert again.returncode == 0, again.stderr


def test_a_second_launch_of_a_running_sweep_is_refused_with_its_owner(tmp_path: Path) -> None:
    config = write_config(tmp_path, [logged(epochs=100, pause=0.1)])
    first = subprocess.Popen(command("launch", config, "-y"), env=environment(USER="ada"), stdout=subprocess.DEVNULL)
    try:
        wait_until((tmp_path / "store/sweeps/test/specs/0001.json").exists, first)
        second = sweep("launch", config, "-y")
        assert second.returncode == 1
        assert "ada@" in second.stderr
        assert "sweep.name" in second.stderr
    finally:
        first.send_signal(signal.SIGINT)
        first.send_signal(signal.SIGINT)
        first.wait(timeout=60)


def test_a_budget_of_time_stops_the_sweep_resumable(tmp_path: Path) -> None:
    config = write_config(tmp_path, [logged(epochs=1000, pause=0.1)], budget={"max_hours": 20 / 3600})
    run = sweep("launch", config, "-y")
    assert run.returncode == 3, run.stdout + run.stderr
    assert "budget.max_hours" in run.stdout
    assert plan_of(config)["to_run"] == 1


def test_the_same_sweep_runs_on_object_storage(tmp_path: Path, seaweed_url: str) -> None:
    study = {"detectors": ["ganomaly", "pca"], "abnormal": [0], "hyperparameters": {"ganomaly": QUICK}}
    config = write_config(tmp_path, [study], storage=seaweed_url)
    run = sweep("launch", config, "-y")
    assert run.returncode == 0, run.stdout + run.stderr
    plan = plan_of(config)
    assert (plan["done"], plan["to_run"]) == (2, 0)
    report = sweep("report", config, "-o", tmp_path / "out")
    assert report.returncode == 0, report.stderr
    assert set(pq.read_table(tmp_path / "out/results.parquet")["status"].to_pylist()) == {"ok"}
    assert not (tmp_path / "store").exists()


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path) -> None:
    config = write_config(tmp_path, [logged(epochs=1000, pause=2.0)])
    process = subprocess.Popen(command("launch", config, "-y"), env=environment(), stdout=subprocess.PIPE, text=True)
    started = tmp_path / "store/sweeps/test/specs/0001.json"
    wait_until(lambda: started.exists() and len(descendants(process.pid)) > 5, process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode != 0
    assert "Traceback" not in output
    wait_until(lambda: not orphans())
