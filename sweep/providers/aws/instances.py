"""What instance types have, and so what each trial is given on them."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml

from sweep.errors import UserError
from sweep.plan.platform import AMPERE, Platform, multiplies_bf16, multiplies_tf32, resolve_precision
from sweep.providers.aws import client
from sweep.spec.cluster import Aws
from sweep.spec.sweep import Sweep
from sweep.spec.trial import Numerics

OLDEST_CAPABILITY = 7.5  # of GPUs that PyTorch's wheels for CUDA 13 hold code for


@dataclass(frozen=True)
class Instance:
    """An instance type.

    Attributes:
        name: e.g. "g5.xlarge".
        vcpus, gpus: numbers of them.
        gpu: name as nvidia-smi prints it; "" without GPUs.
        capability: of the GPU, in CUDA's numbering; None where unknown or without GPUs.
    """

    name: str
    vcpus: int
    gpus: int = 0
    gpu: str = ""
    capability: float | None = None


@lru_cache(maxsize=1)
def table() -> Mapping[str, Any]:
    """The dated table that comes with the package: `as_of`, `region` and `types` with prices."""
    content = (importlib.resources.files("sweep.providers.aws") / "instances.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(content)
    return found


def instance(name: str, region: str) -> Instance:
    """What an instance type has: from the table, else as EC2 says.

    Raises:
        UserError: the table does not know it, and EC2 does not either or cannot be asked.
    """
    row = table()["types"].get(name)
    if row is not None:
        return Instance(name, **{key: value for key, value in row.items() if key not in ("on_demand", "spot")})
    try:
        (answer,) = client.client("ec2", region).describe_instance_types(InstanceTypes=[name])["InstanceTypes"]
    except client.errors(ValueError) as error:
        raise UserError(
            f"cluster: EC2 knows no instance type {name} in {region}, or cannot be asked ({client.error_text(error)}); "
            f"known without asking: {', '.join(table()['types'])}"
        ) from None
    gpus = answer.get("GpuInfo", {}).get("Gpus", [])
    count = sum(gpu["Count"] for gpu in gpus)
    names = " ".join(f"{gpu['Manufacturer']} {gpu['Name']}" for gpu in gpus)
    return Instance(name, answer["VCpuInfo"]["DefaultVCpus"], count, names)


@dataclass(frozen=True)
class Worker:
    """What each worker offers, whichever of the instance types it is.

    Attributes:
        types: in order of preference.
        cpus, gpus: of each; the fewest that any type has.
        device: "cpu", or the name of the GPU; of unlike GPUs all names.
        trial_cpus, trial_gpus: of one trial.
        slots: trials at once.
    """

    types: tuple[Instance, ...]
    cpus: int
    gpus: int
    device: str
    trial_cpus: int
    trial_gpus: float
    slots: int


def worker(sweep: Sweep) -> Worker:
    """What a worker of a sweep offers.

    Raises:
        UserError: naming every key by which trials would find no place.
    """
    cluster = sweep.cluster
    assert isinstance(cluster, Aws)
    types = tuple(instance(name, cluster.region) for name in cluster.worker)
    cpus, gpus = min(t.vcpus for t in types), min(t.gpus for t in types)
    problems = []
    if len({t.gpus for t in types}) > 1:
        counts = ", ".join(f"{t.name} has {t.gpus}" for t in types)
        problems.append(f"cluster.worker: all types must have as many GPUs, or the bill is for idle ones: {counts}")
    old = [t for t in types if t.capability is not None and t.capability < OLDEST_CAPABILITY]
    if old and sweep.trial.gpus != 0:
        problems += [
            f"cluster.worker: the {t.gpu} of {t.name} is too old for this PyTorch (CUDA capability {t.capability}, "
            f"at least {OLDEST_CAPABILITY} is needed); take e.g. g4dn, g5 or g6"
            for t in old
        ]
    share = (1.0 if gpus else 0.0) if sweep.trial.gpus == "auto" else float(sweep.trial.gpus)
    if share and not gpus:
        problems.append(f"trial.gpus: {', '.join(cluster.worker)} has no GPU; use --set trial.gpus=0")
    trial_cpus = 1 if sweep.trial.cpus == "auto" else sweep.trial.cpus
    if sweep.exclusive and len(types) > 1:
        problems.append(
            "cluster.worker: times of a runtime study compare on one type alone; choose one, e.g. "
            f"--set cluster.worker={cluster.worker[0]}"
        )
    if trial_cpus > cpus:
        problems.append(f"trial.cpus: {trial_cpus} are asked for, a worker has {cpus}")
    if problems:
        raise UserError(problems)
    slots = cpus // trial_cpus
    if share:
        slots = min(slots, int(gpus / share))
    if sweep.exclusive:
        slots = 1
    device = " or ".join(dict.fromkeys(t.gpu for t in types)) if share else "cpu"
    return Worker(types, cpus, gpus, device, trial_cpus, share, slots)


def platform(sweep: Sweep) -> Platform:
    """What trials run on with all of `cluster.max_workers`.

    Raises:
        UserError: as `worker`.
    """
    assert isinstance(sweep.cluster, Aws)
    each = worker(sweep)
    # Not this machine's processor but the workers' counts, and of a GPU that is not in the table nothing is known.
    capability = min((t.capability or 0.0 for t in each.types), default=0.0) if each.trial_gpus else 0.0
    precision = resolve_precision(sweep.trial.precision, capability)
    if precision == "tf32" and not multiplies_tf32(capability):
        raise UserError(f"trial.precision: tf32 needs GPUs of compute capability {AMPERE} or more, such as g5 or g6")
    slow = precision == "bf16" and not multiplies_bf16(capability)
    return Platform(
        device=each.device,
        numerics=Numerics(precision=precision, threads=each.trial_cpus),
        slots=1 if sweep.exclusive else each.slots * sweep.cluster.max_workers,
        cpus=each.trial_cpus,
        gpus=each.trial_gpus,
        caution="trial.precision: bf16 is slower than float32 there, for want of units for it" if slow else "",
    )
