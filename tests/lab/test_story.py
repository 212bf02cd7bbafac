"""A complete sweep on the fake of AWS: spot workers, a reclaimed one, a power cut, and nothing left at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.lab.cloud import Cloud
from tests.lab.sweeps import BUCKET, CONFIG, STEPS, check, logged, trained, write_sweep

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1200)]

LAUNCH = ["python", "-m", "sweep", "launch", CONFIG, "-y"]
SECONDS = 300.0  # time for machines to come up, on a busy computer
OBJECTS = f"""
import boto3
for page in boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket="{BUCKET}", Prefix="anomaly/sweeps/"):
    for found in page.get("Contents", []):
        print(found["Key"].removeprefix("anomaly/sweeps/"))
"""


def objects(cloud: Cloud) -> list[str]:
    """Return the paths below `sweeps/` in the bucket."""
    done = cloud.laptop.run(["python", "-c", OBJECTS])
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def nothing_is_left(cloud: Cloud) -> bool:
    return not any(cloud.left().values())


def test_a_sweep_outlives_an_interruption_and_a_power_cut_and_leaves_nothing(cloud: Cloud, tmp_path: Path) -> None:
    epochs = 200
    write_sweep(cloud, sweep=logged(epochs, pause=0.005, abnormal=8), budget={"max_hours": 0.4})
    check(cloud)
    plan = cloud.laptop.run(["python", "-m", "sweep", "plan", CONFIG, "--json"])
    assert json.loads(plan.stdout)["aws"]["workers"] == 2, plan.stdout
    log = tmp_path / "launch.log"
    with log.open("w") as output:
        launch = cloud.laptop.start(LAUNCH, output)

    def training(instance: str) -> bool:
        assert launch.poll() is None, log.read_text()
        return bool(trained(cloud, instance))

    def both_train() -> bool:
        assert launch.poll() is None, log.read_text()
        return sum(training(worker) for worker in cloud.running("worker")) == 2

    cloud.wait(both_train, SECONDS, "two workers train")
    assert {i["market"] for i in cloud.state() if i["role"] == "worker"} == {"spot"}
    warned, other = cloud.running("worker")

    cloud.notice(warned, seconds=60)
    cloud.wait(lambda: warned not in cloud.running(), 120, "the spot machine is taken away")
    cloud.wait(both_train, SECONDS, "another one trains in its place")
    cloud.cut_power(other)

    assert launch.wait(timeout=600) == 0, log.read_text()
    cloud.wait(lambda: nothing_is_left(cloud), 60, "nothing is left")
    assert any(path.endswith("/report/report.html") for path in objects(cloud))
    workers = [i["id"] for i in cloud.state() if i["role"] == "worker"]
    steps = trained(cloud, *workers)
    assert len(steps) == 8
    assert all(set(seen) == set(range(1, epochs * STEPS + 1)) for seen in steps.values())

    # Trials of the warned worker go on where they were; those of the worker without power, from the last resume state.
    interrupted = trained(cloud, warned)
    for trial, seen in interrupted.items():
        later = [step for worker in workers if worker != warned for step in trained(cloud, worker).get(trial, [])]
        assert not later or min(later) > max(seen) - 3, "steps were trained twice despite the notice"
    status = cloud.laptop.run(["python", "-m", "sweep", "status", CONFIG])
    assert status.returncode == 0, status.stderr
    assert "8" in status.stdout
    assert cloud.timeline.of("denied") == [], "a role lacks a right"


def test_without_spot_capacity_a_sweep_runs_on_demand(cloud: Cloud, tmp_path: Path) -> None:
    sweep = {
        "name": "on-demand",
        "study": "error_bars",
        "detectors": ["constant", "pixel_mean"],
        "datasets": ["digits"],
    }
    write_sweep(cloud, sweep={**sweep, "abnormal": [0], "seeds": 1})
    check(cloud)
    cloud.capacity("any", "any", "spot", 0)
    before = {i["id"] for i in cloud.state()}
    done = cloud.laptop.run(LAUNCH, timeout=600)
    cloud.capacity("any", "any", "spot", None)
    assert done.returncode == 0, done.stdout + done.stderr
    workers = [i for i in cloud.state() if i["role"] == "worker" and i["id"] not in before]
    assert workers
    assert {i["market"] for i in workers} == {"on-demand"}
    cloud.wait(lambda: nothing_is_left(cloud), 60, "nothing is left")
    assert any(path.startswith("on-demand/report/") for path in objects(cloud))
