"""A detector that misbehaves in its process harms no other trial: those are equal to the bit, and nothing is left."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.sweeps import ROOT, command, environment, plan_of, results_of, sweep, wait_until, write_config

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.environ.get("SWEEP_CI") != "1", reason="takes minutes; SWEEP_CI=1 runs it, as .ci/run does"),
]

MISBEHAVING = ("Spoils", "LeavesChildren", "ClosesFiles", "Floods")
FLOOD_BYTES = 150_000_000
MEMORY = 2 * 2**30  # bytes
ONE_SLOT = {"cluster": {"provider": "local", "cpus": 1}}


def studies(*names: str) -> list[dict[str, Any]]:
    """Return a study of GANomaly and the given detectors, whose trials take turns in one slot."""
    own = [f"tests.support.faulty_detectors:{name}" for name in names]
    small = {"epochs": 2, "width": 4, "nz": 8}
    return [
        {"detectors": ["ganomaly", *own], "abnormal": [0, 1], "hyperparameters": {"ganomaly": small}},
    ]


def scores_of_ganomaly(folder: Path) -> dict[str, tuple[bytes, Any]]:
    return {
        key: ((folder / f"store/trials/{key}/scores.parquet").read_bytes(), result["metrics"])
        for key, result in results_of(folder).items()
        if result["spec"]["detector"] == "ganomaly"
    }


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a launch of GANomaly alone."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    folder.mkdir()
    run = sweep("launch", write_config(folder, studies(), **ONE_SLOT), "-y")
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


def test_what_a_detector_does_to_its_process_reaches_no_other_trial(alone: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    config = write_config(tmp_path / "run", studies(*MISBEHAVING), **ONE_SLOT)
    children, flooded = tmp_path / "children", tmp_path / "flooded"
    run = sweep("launch", config, "-y", CHILDREN=str(children), FLOODED=str(flooded), FLOOD_BYTES=str(FLOOD_BYTES))
    assert run.returncode == 0, run.stdout + run.stderr
    assert plan_of(config)["failed"] == 0
    assert scores_of_ganomaly(tmp_path / "run") == scores_of_ganomaly(alone)
    started = [int(line) for line in children.read_text().splitlines()]
    assert started
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
    assert max(int(line) for line in flooded.read_text().splitlines()) < FLOOD_BYTES / 3, "old output is dropped"
    stored = [path for path in (tmp_path / "run/store/trials").rglob("*") if path.is_file()]
    assert all(path.stat().st_mode & 0o400 for path in stored), "what a trial stores can be read"


@pytest.fixture
def small_memory() -> Iterator[Path]:
    """Yield a file: a process whose id is written into it has MEMORY bytes, as in a container or job."""
    memory = Path("/sys/fs/cgroup/memory")
    version_1 = memory.is_dir()
    group = (memory if version_1 else Path("/sys/fs/cgroup")) / f"sweep-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if version_1 else "memory.max")).write_text(str(MEMORY))
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    yield group / "cgroup.procs"
    wait_until(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def test_a_trial_that_the_kernel_kills_for_its_memory_says_so_and_is_tried_again_alone(
    small_memory: Path, tmp_path: Path
) -> None:
    hoards = "tests.support.faulty_detectors:Hoards"
    config = write_config(
        tmp_path,
        [{"detectors": [hoards, "pixel_mean", "pca"], "abnormal": [0]}],
        trial={"retries": 1, "stop_after_failures": 0},
    )
    run = subprocess.run(
        ["sh", "-c", f'echo $$ > {small_memory}; exec "$@"', "sh", *command("launch", config, "-y")],
        # Ray's own memory monitor is off: it would be faster, and does not always win.
        env=environment(HOARD_BYTES=str(2 * MEMORY), RAY_memory_monitor_refresh_ms="0"),
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 2, run.stdout + run.stderr
    assert (plan_of(config)["done"], plan_of(config)["failed"]) == (2, 1)
    attempts = [json.loads(path.read_text()) for path in sorted((tmp_path / "store/trials").glob("*/attempts/*.json"))]
    assert [attempt["status"] for attempt in attempts] == ["oom", "oom"]
    assert all("the limit of this container or job, 2.0 GiB" in attempt["cause"] for attempt in attempts)
    finished = [path.stat().st_mtime for path in (tmp_path / "store/trials").glob("*/result.json")]
    assert max(finished) < attempts[1]["time"], "the second try waited until no other trial was left"
