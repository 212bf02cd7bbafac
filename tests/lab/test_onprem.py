"""A sweep on hosts over SSH: checked, launched, a host's power cut and come back, and nothing left on any of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.premises import SHARED, Premises, premises, wait
from tests.lab.sweeps import STEPS, logged

pytestmark = pytest.mark.timeout(1200)

HOSTS = ["alpha", "beta", "gamma"]
SECONDS = 400.0  # for Ray to come up on all of them, on a busy machine
LOG = "trained.log"
EPOCHS = 30
LAUNCH = ["python", "-m", "sweep", "launch", "onprem.yaml", "-y"]


@pytest.fixture
def place(lab_is_possible: None, tmp_path: Path) -> Iterator[Premises]:
    with premises(tmp_path, HOSTS, environment={"TRAINED_LOG": f"{SHARED}/{LOG}"}) as made:
        cluster = {
            "provider": "onprem", "hosts": HOSTS, "cpus": 1, "ssh_key": "~/.ssh/id_ed25519",
            "environment": made.environment,
        }  # fmt: skip
        config = {
            "cluster": cluster, "storage": f"{SHARED}/store", "data": {"size": 16},
            "trial": {"checkpoint_seconds": 2}, "sweep": logged(EPOCHS, pause=0.05, abnormal=4),
        }  # fmt: skip
        made.write("onprem.yaml", config)
        yield made


def steps(place: Premises) -> dict[str, list[int]]:
    """Steps that were trained, by trial."""
    found: dict[str, list[int]] = {}
    log = place.shared / LOG
    for line in log.read_text().splitlines() if log.exists() else ():
        trial, step = line.split()
        found.setdefault(trial, []).append(int(step))
    return found


def of_ray(place: Premises) -> dict[str, list[str]]:
    """Processes of Ray and of the sweep on each host."""
    return {name: place.processes(name, "ray|sweep") for name in HOSTS}


@pytest.mark.lab
def test_a_sweep_outlives_a_host_and_leaves_nothing_on_any(place: Premises, tmp_path: Path) -> None:
    checked = place.run("python", "-m", "sweep", "check", "onprem.yaml", "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    states = {finding["name"]: finding["state"] for finding in json.loads(checked.stdout)["findings"]}
    assert {states[f"{what} {host}"] for what in ("host", "environment", "store from") for host in HOSTS} == {"ok"}

    log = tmp_path / "launch.log"
    launch = place.start(*LAUNCH, output=log)

    def training(count: int) -> bool:
        assert launch.poll() is None, log.read_text()
        return len(steps(place)) >= count

    wait(lambda: training(2), SECONDS, log.read_text)
    assert not [line for line in of_ray(place)["alpha"] if "TrialActor" in line], "the head runs no trials"
    place.hosts["gamma"].cut_power()
    wait(lambda: training(3), SECONDS, log.read_text)  # beta went on
    place.turn_on("gamma")

    wait(lambda: launch.poll() is not None, SECONDS, log.read_text)
    assert launch.returncode == 0, log.read_text()
    plan = json.loads(place.run("python", "-m", "sweep", "status", "onprem.yaml", "--json").stdout)
    assert (plan["trials"], plan["done"], plan["failed"]) == (4, 4, 0)
    assert plan["head"]["preemptions"] >= 1 and plan["head"]["exit_code"] == 0
    trained = steps(place)
    assert len(trained) == 4 and all(max(seen) == EPOCHS * STEPS for seen in trained.values())
    assert sum(map(len, trained.values())) < 5 * EPOCHS * STEPS, "what was cut off went on from its resume state"
    assert of_ray(place) == {name: [] for name in HOSTS}
    left = place.run("bash", "-c", "ls -A ~/.cache/anomaly-sweep/clusters/*").stdout.split()
    assert left == ["launcher.log"]
    for host in place.hosts.values():
        found = host.run(["bash", "-c", "ls -A ~/.anomaly-sweep/*; ls -A ~ | grep ray_bootstrap"]).stdout.split()
        assert found in ([], ["supervisor.log"])


@pytest.mark.faults
def test_down_ends_a_sweep_in_order_and_a_launch_goes_on_with_it(place: Premises, tmp_path: Path) -> None:
    log = tmp_path / "launch.log"
    detached = place.run(*LAUNCH, "--detach", timeout=SECONDS)
    assert detached.returncode == 0, detached.stdout + detached.stderr
    wait(lambda: len(steps(place)) >= 2, SECONDS, lambda: str(of_ray(place)))
    down = place.run("python", "-m", "sweep", "down", "onprem.yaml", "-y", timeout=SECONDS)
    assert down.returncode == 0, down.stdout + down.stderr
    assert of_ray(place) == {name: [] for name in HOSTS}
    assert "nothing" in place.run("python", "-m", "sweep", "down", "onprem.yaml", "-y").stdout

    launch = place.start(*LAUNCH, output=log)
    wait(lambda: launch.poll() is not None, 2 * SECONDS, log.read_text)
    assert launch.returncode == 0, log.read_text()
    trained = steps(place)
    assert len(trained) == 4 and all(max(seen) == EPOCHS * STEPS for seen in trained.values())
    again = sum(len(seen) - len(set(seen)) for seen in trained.values())
    assert again == 0, "not a step was trained twice: resume states were written when it was taken down"
