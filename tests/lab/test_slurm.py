"""Slurm in the lab: it warns a job before its walltime, kills it, and runs it again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.lab import slurm
from tests.lab.machine import Image, Machine
from tests.lab.network import INSIDE, Network, remove_leftovers

pytestmark = pytest.mark.lab

SECONDS = 120.0
JOB = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --time=00:05:00 --signal=B:USR1@240 --requeue --output=/shared/job.log
trap 'echo warned; scontrol requeue $SLURM_JOB_ID; exit 0' USR1
srun hostname
[ "${SLURM_RESTART_COUNT:-0}" = 0 ] || { echo "again"; exit 0; }
for _ in $(seq 600); do sleep 1 & wait $!; done
"""


@pytest.fixture
def nodes(lab_is_possible: None, tmp_path: Path) -> Iterator[list[Machine]]:
    """Yield two machines with Slurm, and a folder that both have as /shared."""
    lacking = sorted({package for program, package in slurm.PROGRAMS.items() if shutil.which(program) is None})
    if lacking:
        unavailable(f"Debian packages are missing: {' '.join(lacking)}")
    remove_leftovers()
    network = Network()
    addresses = {f"node{n}": f"{INSIDE}.1.{n}" for n in (10, 11)}
    image = Image(hosts=[f"{address} {name}" for name, address in addresses.items()])
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    files = slurm.seed(addresses)
    machines = []
    for name, address in addresses.items():
        network.add_machine(name, address)
        machine = Machine(network, name, image, tmp_path, hostname=name, writable={shared: "/shared"}, seed=files)
        machines.append(machine)
    try:
        for machine in machines:
            machine.boot()
        for machine in machines:
            machine.wait()
        slurm.start(machines)
        yield machines
    finally:
        for machine in machines:
            machine.cut_power()
        network.close()


def test_a_job_that_is_warned_before_its_walltime_queues_itself_again(nodes: list[Machine], tmp_path: Path) -> None:
    (tmp_path / "shared/job.sh").write_text(JOB)
    sent = nodes[0].run(["sbatch", "--parsable", "/shared/job.sh"])
    assert sent.returncode == 0, sent.stderr
    log = tmp_path / "shared/job.log"
    deadline = time.monotonic() + SECONDS
    printed: list[str] = []
    hurried = 0
    while "again" not in printed:
        if "warned" in printed and not hurried:
            hurried = slurm.shorten_delay(nodes[0])
        if time.monotonic() > deadline:
            slurm_log = nodes[0].run(["tail", "--lines=40", "/var/log/slurmctld.log"], user="root").stdout
            pytest.fail(f"the job has not run again; it printed {printed}\n{slurm_log}")
        printed += [word for word in (log.read_text().split() if log.exists() else []) if word not in printed]
        time.sleep(0.2)
    assert "node11" in printed
    assert "warned" in printed
