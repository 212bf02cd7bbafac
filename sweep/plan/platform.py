"""How trials fit on machines that are not looked at but told of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.errors import UserError
from sweep.spec.sweep import Sweep
from sweep.spec.trial import Numerics


@dataclass(frozen=True)
class Host:
    """What one machine offers to trials: CPU cores, and GPUs."""

    cpus: int
    gpus: int = 0

    def slots(self, cpus: int, share: float) -> int:
        """Trials at once that need so many cores and such a share of a GPU."""
        by_cores = self.cpus // cpus
        return min(by_cores, int(self.gpus / share)) if share else by_cores


def fit(sweep: Sweep, hosts: Sequence[Host], gpu: str, capability: float | None) -> Platform:
    """What trials run on when all these machines are there.

    Args:
        sweep: what is run.
        hosts: those that run trials.
        gpu: name of their GPUs; "" where they have none.
        capability: CUDA compute capability of these; None where it is not known.

    Raises:
        UserError: naming every key by which trials would find no place.
    """
    cpus = 1 if sweep.trial.cpus == "auto" else sweep.trial.cpus
    any_gpus = any(host.gpus for host in hosts)
    share = (1.0 if any_gpus else 0.0) if sweep.trial.gpus == "auto" else float(sweep.trial.gpus)
    slots = sum(host.slots(cpus, share) for host in hosts)
    # Of these machines' processors nothing is known, and of GPUs what the file says.
    units = (capability or 0.0) if share else 0.0
    precision = resolve_precision(sweep.trial.precision, units)
    problems = []
    if share and not any_gpus:
        problems.append("trial.gpus: the cluster offers no GPU; use --set trial.gpus=0, or say cluster.gpus")
    elif not slots:
        most = max((host.cpus for host in hosts), default=0)
        with_gpu = " beside a GPU" if share else ""
        problems.append(f"trial.cpus: {cpus} are asked for{with_gpu}, a machine of the cluster offers at most {most}")
    if precision == "tf32" and not multiplies_tf32(units):
        problems.append(
            f"trial.precision: tf32 needs GPUs of compute capability {AMPERE} or more, as cluster.capability says"
        )
    if problems:
        raise UserError(problems)
    slow = precision == "bf16" and not multiplies_bf16(units)
    return Platform(
        device=gpu if share else "cpu",
        numerics=Numerics(precision=precision, threads=cpus),
        slots=1 if sweep.exclusive else slots,
        cpus=cpus,
        gpus=share,
        caution="trial.precision: bf16 is slower than float32 where there are no units for it" if slow else "",
    )


@dataclass(frozen=True)
class Platform:
    """What trials run on, resolved once for a launch and recorded in every key.

    Attributes:
        device: "cpu", or the name of the GPU.
        numerics: arithmetic.
        slots: trials at once.
        cpus, gpus: of one trial.
        caution: what whoever asked for this should know; "" for nothing.
        cards: the GPUs to use on this machine, as CUDA_VISIBLE_DEVICES has them; () for all there are.
    """

    device: str
    numerics: Numerics
    slots: int
    cpus: int
    gpus: float
    caution: str = ""
    cards: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Platform:
        """Inverse of `dataclasses.asdict`, also after JSON."""
        typed = {"numerics": Numerics(**fields["numerics"]), "cards": tuple(fields.get("cards", ()))}
        return cls(**{**fields, **typed})


AMPERE = 8.0  # compute capability from which on NVIDIA GPUs multiply TF32 and bfloat16


_CPU_UNITS = frozenset({"avx512_bf16", "amx_bf16"})  # flags of /proc/cpuinfo


_KERNELS = ("BF16", "FP16", "AMX", "AVX10", "ALL", "DEFAULT")  # within an ISA that has those units, by oneDNN's names


def resolve_precision(asked: str, capability: float | None) -> str:
    """`asked` itself, or what "auto" stands for: "bf16" where the device multiplies it, else "float32".

    Args:
        asked: "auto", "float32", "tf32" or "bf16".
        capability: compute capability of the GPU that trains, None where it is the CPU.
    """
    if asked != "auto":
        return asked
    return "bf16" if multiplies_bf16(capability) else "float32"


def multiplies_bf16(capability: float | None) -> bool:
    """Whether the device has units for products in bfloat16; the arguments are those of `resolve_precision`."""
    return cpu_multiplies_bf16() if capability is None else capability >= AMPERE


def multiplies_tf32(capability: float | None) -> bool:
    """Whether the device has units for products in TF32; the arguments are those of `resolve_precision`."""
    return capability is not None and capability >= AMPERE


def cpu_multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor has units for bfloat16 that torch's CPU library, oneDNN, may use.

    ONEDNN_MAX_CPU_ISA keeps it from instructions that are there; it is respected.  Where there is no
    /proc/cpuinfo, the answer is no.
    """
    most = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    if not any(name in most for name in _KERNELS):
        return False
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return not _CPU_UNITS.isdisjoint(flags)
