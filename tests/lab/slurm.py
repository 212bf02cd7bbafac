"""Slurm on machines that exist: a controller, and a daemon on each node; Slurm 22.05 and munge of Debian.

The real machine, whose root all machines have, needs the packages slurmctld, slurmd, slurm-client and munge.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence

from tests.lab.machine import Machine

PROGRAMS = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client", "munged": "munge"}
UP_SECONDS = 60.0
CONFIG = """
ClusterName=lab
SlurmctldHost={controller}({address})
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdTimeout=20
KillWait={kill_wait}
OverTimeLimit=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
JobRequeue=1
"""
NODE = "NodeName={name} NodeAddr={address} CPUs={cpus} RealMemory=4000 State=UNKNOWN\n"
PARTITION = "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n"
START = """
set -e
umask 077
mkdir -p /run/munge /etc/munge /etc/slurm /var/spool/slurmctld /var/spool/slurmd /var/lib/munge /var/log/munge
install -m 400 /run/seed/munge.key /etc/munge/munge.key
chown -R munge: /run/munge /etc/munge /var/lib/munge /var/log/munge
chmod 755 /run/munge /etc/slurm
install -m 644 /run/seed/slurm.conf /run/seed/cgroup.conf /etc/slurm/
setpriv --reuid=munge --regid=munge --clear-groups munged
umask 022
for daemon in "$@"; do "$daemon"; done
"""


def seed(addresses: Mapping[str, str], *, cpus: int = 2, kill_wait: int = 5) -> dict[str, str]:
    """Return files for the seed of every machine.

    Args:
        addresses: addresses of the machines by hostname; the first one is the controller, and also a node.
        cpus: CPUs of each node.
        kill_wait: seconds between Slurm's SIGTERM and its SIGKILL.
    """
    (controller, address), *_ = addresses.items()
    nodes = "".join(NODE.format(name=name, address=where, cpus=cpus) for name, where in addresses.items())
    config = CONFIG.format(controller=controller, address=address, kill_wait=kill_wait)
    return {
        "slurm.conf": config.lstrip() + nodes + PARTITION,
        "cgroup.conf": "CgroupPlugin=cgroup/v1\n",  # if both versions are mounted, Slurm finds neither by itself
        "munge.key": secrets.token_hex(64),
    }


def start(machines: Sequence[Machine]) -> None:
    """Start Slurm on machines that are up and have the seed, the controller first.  Returns when all nodes are idle.

    Raises:
        RuntimeError: they do not come up.
    """
    for number, machine in enumerate(machines):
        daemons = ["slurmctld", "slurmd"] if number == 0 else ["slurmd"]
        done = machine.run(["bash", "-c", START, "start", *daemons], user="root")
        if done.returncode:
            raise RuntimeError(f"Slurm does not start on {machine.name}: {done.stdout}{done.stderr}")
    deadline = time.monotonic() + UP_SECONDS
    while states(machines[0]) != ["idle"] * len(machines):
        if time.monotonic() > deadline:
            log = machines[0].run(["tail", "-20", "/var/log/slurmctld.log"], user="root").stdout
            raise RuntimeError(f"Slurm's nodes do not come up: {states(machines[0])}\n{log}")
        time.sleep(0.2)


def states(controller: Machine) -> list[str]:
    """Return the states of all nodes as sinfo prints them, e.g. "idle"."""
    return controller.run(["sinfo", "--noheader", "--Node", "--format=%T"]).stdout.split()


def shorten_delay(controller: Machine) -> int:
    """Let jobs that were put back into the queue start in 5 s, instead of after Slurm's two minutes; call it once.

    Not at once: Slurm takes a start back that falls into the second of the update, and the job is then lost.

    Returns:
        Number of jobs that wait.  A job whose nodes still end its former run does not count as waiting.
    """
    waiting = controller.run(["squeue", "--noheader", "--states=PENDING", "--format=%i %T"]).stdout.splitlines()
    jobs = [line.split()[0] for line in waiting if line.endswith("PENDING")]
    for job in jobs:
        controller.run(["scontrol", "update", f"JobId={job}", "StartTime=now+5"], user="root")
    return len(jobs)
