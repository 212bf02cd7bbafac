"""Failures, and the state after each of them; after every one, nothing is left that costs money."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab.cloud import Cloud
from tests.lab.sweeps import CONFIG, ROLES, WORKER_ROLE, check, logged, trained, write_sweep

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

LAUNCH = ["python", "-m", "sweep", "launch", CONFIG, "-y"]
SECONDS = 300.0  # time for machines to come up, on a busy computer
ZONES = ["us-east-1a", "us-east-1b", "us-east-1c"]
WORKERS = ["g5.xlarge", "g6.xlarge"]  # as in the shipped YAML
GUARDS = 240.0  # time for the guards, with `SOON`, to power off their machines


@dataclass
class Launched:
    """A launch on the laptop.

    Attributes:
        process: process of the launch.
        log: file with its output.
    """

    process: subprocess.Popen[str]
    log: Path

    @property
    def printed(self) -> str:
        return self.log.read_text()

    def code(self, timeout: float = 600) -> int:
        return self.process.wait(timeout=timeout)


@pytest.fixture(autouse=True)
def as_before(cloud: Cloud) -> Iterator[None]:
    """Begin each test with an empty account, and undo its changes of the cloud at its end."""
    assert not any(cloud.left().values()), cloud.left()
    yield
    cloud.renew_credentials()
    for role in ROLES:
        cloud.allow_bucket(role)
    cloud.enough()
    cloud.laptop.cut_power()
    cloud.laptop.switch_on()
    cloud.laptop.run(["python", "-m", "sweep", "down", CONFIG, "-y"], timeout=300)


def configure(cloud: Cloud, name: str, epochs: int = 4, abnormal: int = 2, **sections: Any) -> None:
    """Write and check a sweep with its own name.

    Every test needs another value of `epochs`: trials with the same value would be done already.
    """
    write_sweep(cloud, sweep={**logged(epochs, abnormal=abnormal), "name": name}, **sections)
    check(cloud)


def launch(cloud: Cloud, folder: Path, *words: str) -> Launched:
    log = folder / f"launch-{len(list(folder.iterdir()))}.log"
    with log.open("w") as output:
        return Launched(cloud.laptop.start([*LAUNCH, *words], output), log)


@contextmanager
def edited(file: Path, text: str, by: str) -> Iterator[None]:
    """Replace a text in a file of the laptop's checkout."""
    before = file.read_text()
    assert before.count(text) == 1
    file.write_text(before.replace(text, by))
    try:
        yield
    finally:
        file.write_text(before)


def until_training(cloud: Cloud, launched: Launched) -> str:
    """Wait until a worker trains.  Returns its id."""

    def training() -> list[str]:
        assert launched.process.poll() in (None, 0), launched.printed  # it ends with 0 if it is detached
        return [worker for worker in cloud.running("worker") if trained(cloud, worker)]

    cloud.wait(training, SECONDS, "a worker trains")
    return training()[0]


def nothing_runs(cloud: Cloud) -> bool:
    left = cloud.left()
    return not (left["instances"] or left["machines"] or left["volumes"])


def done_again(cloud: Cloud) -> subprocess.CompletedProcess[str]:
    """Launch the same sweep again, to its end."""
    done = cloud.laptop.run(LAUNCH, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    cloud.wait(lambda: not any(cloud.left().values()), 60, "nothing is left")
    return done


def done_by_itself(cloud: Cloud) -> None:
    """Check that the sweep was finished without the laptop, and that `down` removes what the head could not remove."""
    status = cloud.laptop.run(["python", "-m", "sweep", "status", CONFIG, "--json"])
    assert status.returncode == 0, status.stderr
    status_now = json.loads(status.stdout)
    assert (status_now["done"], status_now["failed"]) == (2, 0) and status_now["head"]["exit_code"] == 0
    down = cloud.laptop.run(["python", "-m", "sweep", "down", CONFIG, "-y"], timeout=300)
    assert down.returncode == 0, down.stdout + down.stderr
    assert not any(cloud.left().values())


def test_without_capacity_for_a_head_nothing_is_made(cloud: Cloud, tmp_path: Path) -> None:
    configure(cloud, "no-capacity")
    cloud.capacity("any", "any", "on-demand", 0)
    launched = launch(cloud, tmp_path)
    assert launched.code() == 1
    assert "InsufficientInstanceCapacity" in launched.printed
    assert "Traceback" not in launched.printed
    assert not any(cloud.left().values())


def test_without_capacity_for_workers_a_launch_ends_and_says_why(cloud: Cloud, tmp_path: Path) -> None:
    configure(cloud, "no-worker", epochs=14)
    for worker in WORKERS:
        cloud.capacity("any", worker, "any", 0)
    with edited(
        cloud.laptop.checkout / "sweep/launch/head/status_writer.py",
        "STRANDED_SECONDS = 1800.0",
        "STRANDED_SECONDS = 60.0",
    ):
        launched = launch(cloud, tmp_path)
        assert launched.code() == 1, launched.printed
    assert "no worker yet: InsufficientInstanceCapacity" in launched.printed
    assert "trials have waited" in launched.printed and "Traceback" not in launched.printed
    cloud.wait(lambda: not any(cloud.left().values()), 60, "nothing is left")


def test_with_one_zone_left_workers_are_spot_there(cloud: Cloud, tmp_path: Path) -> None:
    configure(cloud, "one-zone", epochs=13, abnormal=1)
    *empty, left = ZONES
    for zone in empty:
        cloud.capacity(zone, "any", "spot", 0)
    before = {i["id"] for i in cloud.state()}
    launched = launch(cloud, tmp_path)
    assert launched.code() == 0, launched.printed
    workers = [i for i in cloud.state() if i["role"] == "worker" and i["id"] not in before]
    assert {(i["market"], i["zone"]) for i in workers} == {("spot", left)}
    cloud.wait(lambda: not any(cloud.left().values()), 60, "nothing is left")


def test_expired_credentials_are_told_before_anything_is_made(cloud: Cloud, tmp_path: Path) -> None:
    configure(cloud, "expired")
    cloud.expire_credentials()
    launched = launch(cloud, tmp_path)
    assert launched.code() == 1
    assert "ExpiredToken" in launched.printed
    assert "Traceback" not in launched.printed
    assert not any(cloud.left().values())


def test_workers_that_are_denied_the_bucket_fail_the_launch(cloud: Cloud, tmp_path: Path) -> None:
    configure(cloud, "denied")
    cloud.deny_bucket(WORKER_ROLE)
    launched = launch(cloud, tmp_path)
    assert launched.code() != 0
    assert re.search("denie|AccessDenied|may not", launched.printed), launched.printed
    assert [i for i in cloud.state() if i["role"] == "worker" and i["tags"]["anomaly-sweep"] == "denied"], (
        launched.printed
    )
    cloud.wait(lambda: not any(cloud.left().values()), 60, "nothing is left")


def test_a_budget_that_is_reached_ends_in_order(cloud: Cloud, tmp_path: Path) -> None:
    configure(cloud, "budget", epochs=1000, budget={"max_hours": 0.08})
    launched = launch(cloud, tmp_path)
    assert launched.code() == 3, launched.printed
    cloud.wait(lambda: not any(cloud.left().values()), 60, "nothing is left")


def test_of_two_launches_at_once_one_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    configure(cloud, "twice", epochs=8)
    first = launch(cloud, tmp_path)
    second = launch(cloud, tmp_path)
    codes = {first.code(), second.code()}
    refused = second if first.process.returncode == 0 else first
    assert codes == {0, 1}, first.printed + second.printed
    assert "Traceback" not in refused.printed
    assert len([i for i in cloud.state() if i["role"] == "head" and i["tags"]["anomaly-sweep"] == "twice"]) == 1
    cloud.wait(lambda: not any(cloud.left().values()), 60, "nothing is left")


def test_a_head_that_is_lost_is_made_anew_by_the_next_launch(cloud: Cloud, tmp_path: Path) -> None:
    configure(cloud, "head-lost", epochs=9)
    launched = launch(cloud, tmp_path)
    until_training(cloud, launched)
    (head,) = cloud.running("head")
    cloud.cut_power(head)
    assert launched.code() not in (0, 2, 3), launched.printed
    assert "Traceback" not in launched.printed
    done_again(cloud)


def test_with_head_and_laptop_lost_the_workers_go_by_themselves(cloud: Cloud, tmp_path: Path) -> None:
    configure(cloud, "both-lost", epochs=1000)
    launched = launch(cloud, tmp_path)
    until_training(cloud, launched)
    cloud.laptop.cut_power()
    assert launched.code() != 0
    (head,) = cloud.running("head")
    cloud.cut_power(head)
    cloud.wait(lambda: nothing_runs(cloud), GUARDS, "the workers power themselves off")
    assert cloud.timeline.of("shut itself down")


def test_a_laptop_that_is_closed_is_not_missed(cloud: Cloud, tmp_path: Path) -> None:
    configure(cloud, "closed", epochs=10)
    launched = launch(cloud, tmp_path)
    until_training(cloud, launched)
    cloud.laptop.cut_power()
    assert launched.code() != 0
    cloud.wait(lambda: nothing_runs(cloud), 600, "the head finishes, and ends everything")
    cloud.laptop.switch_on()
    done_by_itself(cloud)


def test_a_launch_that_is_left_by_ctrl_c_goes_on(cloud: Cloud, tmp_path: Path) -> None:
    configure(cloud, "left", epochs=11)
    launched = launch(cloud, tmp_path)
    until_training(cloud, launched)
    cloud.laptop.signal(launched.process, signal.SIGINT)
    launched.code(timeout=60)
    assert cloud.running("head"), "the head still runs"
    second = cloud.laptop.run(LAUNCH)
    assert second.returncode == 1 and "status lab.yaml --watch" in second.stderr, second.stdout + second.stderr
    cloud.wait(lambda: nothing_runs(cloud), 600, "the head finishes, and ends everything")
    done_by_itself(cloud)


@pytest.mark.parametrize("stage", ["head is launched", "code is copied", "Ray starts"])
def test_a_laptop_that_dies_while_machines_are_made_leaves_nothing_for_long(
    cloud: Cloud, tmp_path: Path, stage: str
) -> None:
    configure(cloud, f"died-{stage.split()[0].lower()}")
    launched = launch(cloud, tmp_path)
    seen = {"head is launched": "head exists", "code is copied": "copying", "Ray starts": "starting Ray"}[stage]
    cloud.wait(lambda: seen in launched.printed, SECONDS, stage)
    cloud.laptop.cut_power()
    assert launched.code() != 0
    cloud.wait(lambda: nothing_runs(cloud), 2 * GUARDS, "the head powers itself off")
    cloud.laptop.switch_on()
    down = cloud.laptop.run(["python", "-m", "sweep", "down", CONFIG, "-y"], timeout=300)
    assert down.returncode == 0, down.stdout + down.stderr
    assert not any(cloud.left().values()), "`down` also removes what costs nothing"


def test_down_ends_a_running_sweep_and_finds_nothing_the_second_time(cloud: Cloud, tmp_path: Path) -> None:
    configure(cloud, "down", epochs=1000)
    until_training(cloud, launch(cloud, tmp_path, "--detach"))
    down = ["python", "-m", "sweep", "down", CONFIG, "-y"]
    first = cloud.laptop.run(down, timeout=300)
    assert first.returncode == 0, first.stdout + first.stderr
    cloud.wait(lambda: not any(cloud.left().values()), 60, "nothing is left")
    assert cloud.laptop.run(down, timeout=300).returncode == 0


def test_a_network_that_is_cut_for_a_while_costs_no_result(cloud: Cloud, tmp_path: Path) -> None:
    configure(cloud, "network", epochs=12)
    launched = launch(cloud, tmp_path)
    worker = until_training(cloud, launched)
    cloud.cut_network(worker)
    cloud.wait(
        lambda: len(cloud.running("worker")) > 1 or worker not in cloud.running(), SECONDS, "Ray notices the loss"
    )
    if worker in cloud.running():
        cloud.join_network(worker)
    assert launched.code() == 0, launched.printed
    cloud.wait(lambda: not any(cloud.left().values()), 60, "nothing is left")
