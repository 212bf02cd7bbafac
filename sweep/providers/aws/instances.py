"""Resources of instance types, and of the trials that run on them."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import yaml

from sweep.errors import UserError
from sweep.plan.platform import Host, Platform, fit
from sweep.providers.aws import client
from sweep.providers.base import section_of
from sweep.spec.cluster import Aws
from sweep.spec.sweep import Sweep

OLDEST_CAPABILITY = 7.5  # of GPUs that PyTorch's wheels for CUDA 13 support


@dataclass(frozen=True)
class Instance:
    """Resources of an instance type.

    Attributes:
        name: name, such as "g5.xlarge".
        vcpus, gpus: numbers of vCPUs and GPUs.
        gpu: name of the GPUs as nvidia-smi prints it; "" without GPUs.
        capability: CUDA compute capability of the GPUs; None if unknown or without GPUs.
    """

    name: str
    vcpus: int
    gpus: int = 0
    gpu: str = ""
    capability: float | None = None


@lru_cache(maxsize=1)
def table() -> Mapping[str, Any]:
    """Return the table of the package: its date `as_of`, its `region`, and `types` with prices."""
    content = (importlib.resources.files("sweep.providers.aws") / "instances.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(content)
    return found


def instance(name: str, region: str) -> Instance:
    """Return the resources of an instance type: from the table, or else from EC2.

    Raises:
        UserError: neither the table nor EC2 knows the type, or EC2 cannot be asked.
    """
    row = table()["types"].get(name)
    if row is not None:
        return Instance(name, **{key: value for key, value in row.items() if key not in ("on_demand", "spot")})
    try:
        (answer,) = client.client("ec2", region).describe_instance_types(InstanceTypes=[name])["InstanceTypes"]
    except client.errors(ValueError) as error:
        raise UserError(
            f"cluster: EC2 has no instance type {name} in {region}, or cannot be asked ({client.error_text(error)}); "
            f"known without asking: {', '.join(table()['types'])}"
        ) from None
    gpus = answer.get("GpuInfo", {}).get("Gpus", [])
    count = sum(gpu["Count"] for gpu in gpus)
    names = " ".join(f"{gpu['Manufacturer']} {gpu['Name']}" for gpu in gpus)
    return Instance(name, answer["VCpuInfo"]["DefaultVCpus"], count, names)


@dataclass(frozen=True)
class Worker:
    """Resources of every worker, for any of its instance types.

    Attributes:
        types: instance types, in order of preference.
        cpus, gpus: resources of a worker: the fewest of any type.
        platform: platform of the trials on one worker.
    """

    types: tuple[Instance, ...]
    cpus: int
    gpus: int
    platform: Platform


def worker(sweep: Sweep) -> Worker:
    """Return the resources of a sweep's workers.

    Raises:
        UserError: names every key that prevents trials from running.
    """
    cluster = section_of(sweep, Aws)
    types = tuple(instance(name, cluster.region) for name in cluster.worker)
    cpus, gpus = min(t.vcpus for t in types), min(t.gpus for t in types)
    problems = []
    if len({t.gpus for t in types}) > 1:
        counts = ", ".join(f"{t.name} has {t.gpus}" for t in types)
        problems.append(
            f"cluster.worker: all types must have the same number of GPUs, or you pay for idle ones: {counts}"
        )
    old = [t for t in types if t.capability is not None and t.capability < OLDEST_CAPABILITY]
    if old and sweep.trial.gpus != 0:
        problems += [
            f"cluster.worker: the {t.gpu} of {t.name} is too old for this PyTorch (CUDA capability {t.capability}, "
            f"at least {OLDEST_CAPABILITY} is needed); use e.g. g4dn, g5 or g6"
            for t in old
        ]
    if sweep.exclusive and len(types) > 1:
        problems.append(
            "cluster.worker: times of a runtime study can be compared on one type only; choose one, e.g. "
            f"--set cluster.worker={cluster.worker[0]}"
        )
    platform = fit(
        sweep,
        [Host(cpus, gpus)],
        gpu=" or ".join(dict.fromkeys(t.gpu for t in types)),
        capability=min(t.capability or 0.0 for t in types),  # 0 for a GPU that is not in the table
        no_gpu=f"{', '.join(cluster.worker)} has no GPU",
        no_tf32="use workers such as g5 or g6, or float32, bf16 or auto",
        problems=problems,
    )
    return Worker(types, cpus, gpus, platform)


def platform(sweep: Sweep) -> Platform:
    """Return the platform of the trials with all of `cluster.max_workers`.

    Raises:
        UserError: as `worker`.
    """
    each = worker(sweep).platform
    most = 1 if sweep.exclusive else section_of(sweep, Aws).max_workers
    return replace(each, slots=each.slots * most)
