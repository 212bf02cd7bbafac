"""Checks of Slurm on its login node, one finding for each.  Nothing is submitted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sweep.errors import UserError
from sweep.providers.base import section_of
from sweep.providers.finding import Finding, check_shared_folder
from sweep.providers.slurm import jobs, scripts
from sweep.spec.cluster import Slurm
from sweep.spec.sweep import Sweep


def findings(sweep: Sweep) -> Iterator[Finding]:
    """Check Slurm's commands, the partition, the job as Slurm would take it, and folders that all nodes must share."""
    cluster = section_of(sweep, Slurm)
    try:
        [release, *_] = jobs.query("sbatch", "--version")
        partitions = dict(line.split(maxsplit=1) for line in jobs.query("sinfo", "--noheader", "--format=%R %l"))
    except UserError as error:
        yield Finding("slurm", "not ok", "; ".join(error.problems))
    else:
        yield Finding("slurm", "ok", release)
        yield from _job(sweep, cluster, partitions)
    environment = scripts.environment_of(cluster)
    if not (environment / "bin/ray").exists():
        fix = "--set cluster.environment=FOLDER with an environment made from pyproject.toml, e.g. by uv sync"
        yield Finding("environment", "not ok", f"{environment}/bin has no command ray", fix)
    else:
        yield check_shared_folder("environment", environment, "every node")
    yield check_shared_folder("folder", Path(cluster.folder), "every node")
    if not sweep.storage.startswith("s3://"):
        yield check_shared_folder("storage folder", Path(sweep.storage), "every node")


def _job(sweep: Sweep, cluster: Slurm, partitions: dict[str, str]) -> Iterator[Finding]:
    if cluster.partition is not None and cluster.partition not in partitions:
        legal = ", ".join(sorted(partitions)) or "none"
        text = f"you cannot use a partition {cluster.partition}; you can use: {legal}"
        yield Finding("partition", "not ok", text, f"--set cluster.partition={next(iter(partitions), 'NAME')}")
        return
    if cluster.partition is not None:
        yield Finding("partition", "ok", f"{cluster.partition}, walltime at most {partitions[cluster.partition]}")
    try:
        text = jobs.test(scripts.job(sweep, 1))
    except UserError as error:
        fix = "correct account, partition, qos, walltime, nodes, cpus or gpus of `cluster`"
        yield Finding("job", "not ok", "; ".join(error.problems), fix)
    else:
        yield Finding("job", "ok", f"Slurm would take it: {text.removeprefix('sbatch: ')}")
