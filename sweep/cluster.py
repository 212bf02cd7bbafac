"""What a cluster offers: what each trial is given, and how many run at once."""

from __future__ import annotations

import os
import subprocess
from typing import NamedTuple

from sweep.faults import UserError
from sweep.plan import Platform
from sweep.precision import AMPERE, multiplies_bf16, multiplies_tf32, resolve_precision
from sweep.providers import Aws, Local
from sweep.spec import Sweep
from sweep.trialspec import Numerics


class GPU(NamedTuple):
    """What nvidia-smi says of one: its name, and its compute capability, such as 9.0."""

    name: str
    capability: float


def platform(sweep: Sweep) -> Platform:
    """What a sweep's machines give each trial, and how many run at once.

    Raises:
        UserError: if more is asked for than there is.
    """
    if isinstance(sweep.cluster, Aws):
        from sweep.aws.instances import platform as of_aws  # no launch on this machine needs it

        return of_aws(sweep)
    return _this_machine(sweep, sweep.cluster)


def _this_machine(sweep: Sweep, cluster: Local) -> Platform:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = cores if cluster.cpus == "auto" else cluster.cpus
    found = gpus() if cluster.gpus != 0 and sweep.trial.gpus != 0 else []
    faults = []
    if asked > cores:
        faults.append(f"cluster.cpus: {asked} are asked for, this process may use {cores}")
    if cluster.gpus != "auto":
        if cluster.gpus > len(found) and sweep.trial.gpus != 0:
            faults.append(f"cluster.gpus: {cluster.gpus} are asked for, nvidia-smi lists {len(found)}")
        found = found[: cluster.gpus]
    share = (1.0 if found else 0.0) if sweep.trial.gpus == "auto" else float(sweep.trial.gpus)
    if share and not found:
        faults.append("trial.gpus: no GPU is there (nvidia-smi lists none); use --set trial.gpus=0")
    cpus = 1 if sweep.trial.cpus == "auto" else sweep.trial.cpus
    if cpus > asked:
        faults.append(f"trial.cpus: {cpus} are asked for, the cluster has {asked}")
    names = sorted({gpu.name for gpu in found})
    if len(names) > 1:
        faults.append(f"cluster.gpus: unlike GPUs ({', '.join(names)}); choose by CUDA_VISIBLE_DEVICES")
    capability = found[0].capability if share and found else None
    precision = resolve_precision(sweep.trial.precision, capability)
    if precision == "tf32" and not multiplies_tf32(capability):
        faults.append(
            f"trial.precision: tf32 needs a GPU of compute capability {AMPERE} or more; here float32, bf16 and auto run"
        )
    if faults:
        raise UserError(faults)
    slots = asked // cpus
    if share:
        slots = min(slots, int(len(found) / share))
    if sweep.exclusive:
        slots = 1
    slow = precision == "bf16" and not multiplies_bf16(capability)
    return Platform(
        device=names[0] if share else "cpu",
        numerics=Numerics(precision=precision, threads=cpus),
        slots=slots,
        cpus=cpus,
        gpus=share,
        caution="trial.precision: bf16 is slower than float32 here, for want of units for it" if slow else "",
    )


def gpus() -> list[GPU]:
    """GPUs that this process may use."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line.rpartition(",") for line in listed.splitlines() if line.strip()]
    found = [GPU(name.strip(), float(capability)) for name, _, capability in lines]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    chosen = [part for part in visible.split(",") if part.strip() not in ("", "-1")]
    return [found[int(part)] if part.isdigit() and int(part) < len(found) else found[0] for part in chosen]
