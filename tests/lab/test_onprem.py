"""A sweep on hosts over SSH: check, launch, a power cut of a host and its return, and no files or processes left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.premises import SHARED, Premises, premises, wait
from tests.lab.sweeps import STEPS, logged

pytestmark = pytest.mark.timeout(1200)

HOSTS = ["alpha", "beta", "gamma"]
SECONDS = 400.0  # time for Ray to come up on all hosts, on a busy computer
LOG = "trained.log"
EPOCHS = 30
LAUNCH = ["python", "-m", "sweep", "launch", "onprem.yaml", "-y"]


@pytest.fixture
def site(lab_is_possible: None, tmp_path: Path) -> Iterator[Premises]:
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


def steps(site: Premises) -> dict[str, list[int]]:
    """Return the steps that were trained, by trial."""
    found: dict[str, list[int]] = {}
    log = site.shared / LOG
    for line in log.read_text().splitlines() if log.exists() else ():
        trial, step = line.split()
        found.setdefault(trial, []).append(int(step))
    return found


def sweep_processes(site: Premises) -> dict[str, list[str]]:
    """Return the processes of Ray and of the sweep on each host."""
    return {name: site.processes(name, "ray|sweep") for name in HOSTS}


@pytest.mark.lab
def test_a_sweep_outlives_a_host_and_leaves_nothing_on_any(site: Premises, tmp_path: Path) -> None:
    checked = site.run("python", "-m", "sweep", "check", "onprem.yaml", "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    states = {finding["name"]: finding["state"] for finding in json.loads(checked.stdout)["findings"]}
    assert {states[f"{what} {host}"] for what in ("host", "environment", "store from") for host in HOSTS} == {"ok"}

    log = tmp_path / "launch.log"
    launch = site.start(*LAUNCH, output=log)

    def training(count: int) -> bool:
        assert launch.poll() is None, log.read_text()
        return len(steps(site)) >= count

    wait(lambda: training(2), SECONDS, log.read_text)
    assert not [line for line in sweep_processes(site)["alpha"] if "TrialActor" in line], "the head runs no trials"
    site.hosts["gamma"].cut_power()
    wait(lambda: training(3), SECONDS, log.read_text)  # the host beta went on
    site.turn_on("gamma")

    wait(lambda: launch.poll() is not None, SECONDS, log.read_text)
    assert launch.returncode == 0, log.read_text()
    plan = json.loads(site.run("python", "-m", "sweep", "status", "onprem.yaml", "--json").stdout)
    assert (plan["trials"], plan["done"], plan["failed"]) == (4, 4, 0)
    assert plan["head"]["preemptions"] >= 1 and plan["head"]["exit_code"] == 0
    trained = steps(site)
    assert len(trained) == 4 and all(max(seen) == EPOCHS * STEPS for seen in trained.values())
    assert sum(map(len, trained.values())) < 5 * EPOCHS * STEPS, "the interrupted trial went on from its resume state"
    assert sweep_processes(site) == {name: [] for name in HOSTS}
    left = site.run("bash", "-c", "ls -A ~/.cache/anomaly-sweep/clusters/*").stdout.split()
    assert left == ["launcher.log"]
    for host in site.hosts.values():
        found = host.run(["bash", "-c", "ls -A ~/.anomaly-sweep/*; ls -A ~ | grep ray_bootstrap"]).stdout.split()
        assert found in ([], ["supervisor.log"])


@pytest.mark.faults
def test_down_ends_a_sweep_in_order_and_a_launch_goes_on_with_it(site: Premises, tmp_path: Path) -> None:
    log = tmp_path / "launch.log"
    detached = site.run(*LAUNCH, "--detach", timeout=SECONDS)
    assert detached.returncode == 0, detached.stdout + detached.stderr
    wait(lambda: len(steps(site)) >= 2, SECONDS, lambda: str(sweep_processes(site)))
    down = site.run("python", "-m", "sweep", "down", "onprem.yaml", "-y", timeout=SECONDS)
    assert down.returncode == 0, down.stdout + down.stderr
    assert sweep_processes(site) == {name: [] for name in HOSTS}
    assert "nothing" in site.run("python", "-m", "sweep", "down", "onprem.yaml", "-y").stdout

    launch = site.start(*LAUNCH, output=log)
    wait(lambda: launch.poll() is not None, 2 * SECONDS, log.read_text)
    assert launch.returncode == 0, log.read_text()
    trained = steps(site)
    assert len(trained) == 4 and all(max(seen) == EPOCHS * STEPS for seen in trained.values())
    again = sum(len(seen) - len(set(seen)) for seen in trained.values())
    assert again == 0, "no step was trained twice, because `down` let trials write their resume states"
