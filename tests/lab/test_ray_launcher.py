"""Ray's launcher with the configuration of `sweep.providers.aws.ray_config`; SpotFirst requests on-demand machines."""

from __future__ import annotations

import pytest

from tests.lab.cloud import Cloud
from tests.lab.sweeps import CONFIG, check, write_sweep

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

MAKE = f"""
import pathlib, time
from rich.console import Console
from sweep.cli.session import Session
session = Session(pathlib.Path("{CONFIG}"), [])
session.provider.provision(session.read_status(), Console(), time.time() + 3600)
"""
DEMAND = """
import ray, sys
from ray.autoscaler.sdk import request_resources
ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
request_resources(bundles=[{"CPU": 4, "GPU": 1}] * int(sys.argv[1]))
"""
NODES = """
import ray
ray.init(address="auto", logging_level="ERROR", log_to_driver=False)
print(sum(node["Alive"] for node in ray.nodes()))
"""


# Replaces the supervisor's sign of life; without it the head powers itself off.
SUPERVISED = "nohup sh -c 'while touch /run/sweep/supervised; do sleep 2; done' >/dev/null 2>&1 &"


def on_head(cloud: Cloud, code: str, *arguments: object) -> str:
    """Run a Python script on the head as a driver of Ray.  Returns its output."""
    (head,) = cloud.running("head")
    setting = ["env", "RAY_AUTH_MODE=token", "PYTHONPATH=/home/ubuntu/anomaly-sweep"]
    return cloud.run(head, *setting, f"{cloud.environment}/bin/python", "-c", code, *arguments)


def test_without_spot_capacity_workers_come_on_demand_and_all_go(cloud: Cloud) -> None:
    write_sweep(cloud)
    check(cloud)
    done = cloud.laptop.run(["python", "-c", MAKE], timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [i["role"] for i in cloud.state()] == ["head"]
    cloud.run(cloud.running("head")[0], "bash", "-c", SUPERVISED)
    cloud.capacity("any", "any", "spot", 0)
    on_head(cloud, DEMAND, 2)
    cloud.wait(lambda: len(cloud.running("worker")) == 2, 120, "two workers are launched")
    cloud.wait(lambda: int(on_head(cloud, NODES)) == 3, 240, "Ray has three nodes")
    asked = [(e.subject, e.detail.partition(" ")[0]) for e in cloud.timeline.of("refused")]
    assert asked[0] == ("g5.xlarge", "spot") and asked[-1] == ("g6.xlarge", "spot")
    assert {(i["type"], i["market"]) for i in cloud.state() if i["role"] == "worker"} == {("g5.xlarge", "on-demand")}

    # The machines are as the generated configuration describes them.
    assert {instance["tags"]["anomaly-sweep"] for instance in cloud.state()} == {"lab"}
    guards = [cloud.run(i, "pgrep", "-fa", "/opt/sweep/guard.py") for i in cloud.running()]
    assert [sum(role in guard for guard in guards) for role in ("guard.py head", "guard.py worker")] == [1, 2]

    # A worker that powers itself off ends its instance, and is replaced while there is demand.
    first = cloud.running("worker")[0]
    cloud.shut_down(first)
    cloud.wait(lambda: first not in cloud.left()["instances"], 60, "the worker ends")
    cloud.wait(lambda: len(cloud.running("worker")) == 2, 120, "another comes")

    down = cloud.laptop.run(["python", "-m", "sweep", "down", CONFIG, "-y"], timeout=300)
    assert down.returncode == 0, down.stdout + down.stderr
    cloud.wait(lambda: not any(cloud.left().values()), 60, "nothing is left")
    assert cloud.timeline.of("denied") == [], "the head's role lacks a right"
