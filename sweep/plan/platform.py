"""Resources of trials: device, arithmetic, CPU cores and GPU share of one trial, and the number of trials at once.

`fit` applies the same rules for every provider.  Nothing here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweep.errors import UserError
from sweep.spec.bf16_units import NO_UNITS, cpu_bf16_units
from sweep.spec.sweep import Sweep
from sweep.spec.trial import Numerics
from sweep.store.records import Shape, mismatch

AMPERE = 8.0  # first CUDA compute capability with hardware units for TF32 and bfloat16


_SHAPE: Shape = {
    "device": str, "slots": int, "cpus": int, "gpus": float, "caution?": str, "visible_gpus?": ([str], tuple),
    "numerics": {
        "precision": frozenset({"float32", "tf32", "bf16"}), "threads": int,
        "layout": frozenset({"channels_last", "contiguous"}),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Platform:
    """Resources of trials, resolved once for each launch.  Device and arithmetic are part of every key.

    Attributes:
        device: "cpu", or the name of the GPU.
        numerics: arithmetic of a trial.
        slots: number of trials that run at once.
        cpus: CPU cores of one trial.
        gpus: share of a GPU for one trial, in [0, 1].
        caution: lines that the user should read before a launch; "" for none.
        visible_gpus: GPUs to use on this machine, as CUDA_VISIBLE_DEVICES names them; () for all.
    """

    device: str
    numerics: Numerics
    slots: int
    cpus: int
    gpus: float
    caution: str = ""
    visible_gpus: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Platform:
        """Return the platform of a dictionary from `dataclasses.asdict`, also after JSON.

        Raises:
            ValueError, TypeError: it is not of this form.
        """
        if (problem := mismatch(fields, _SHAPE)) is not None:
            raise ValueError(problem)
        named = {**fields, "numerics": Numerics(**fields["numerics"])}
        visible = named.pop("cards", None) or named.get("visible_gpus", ())  # records before 2026-11 have `cards`
        return cls(**{**named, "visible_gpus": tuple(visible)})

    @property
    def whole_gpus(self) -> int:
        """Number of GPUs that all slots occupy together."""
        return math.ceil(self.slots / trials_per_gpu(self.gpus)) if self.gpus else 0


@dataclass(frozen=True)
class Host:
    """CPU cores and GPUs that one machine offers to trials."""

    cpus: int
    gpus: int = 0

    def slots(self, cpus: int, share: float) -> int:
        """Return how many trials run here at once, each with `cpus` cores and `share` of a GPU."""
        by_cores = self.cpus // cpus
        return min(by_cores, self.gpus * trials_per_gpu(share)) if share else by_cores


def trials_per_gpu(share: float) -> int:
    """Return how many trials with this share, in (0, 1], fit on one GPU; no trial spans two GPUs."""
    return int(1 / share + 1e-6)  # a share of 0.3333 means a third, although 1 / 0.3333 is a little more than 3


def fit(
    sweep: Sweep,
    hosts: Sequence[Host],
    gpu: str,
    capability: float | None,
    *,
    cpu_is_here: bool = False,
    no_gpu: str = "the cluster offers no GPU (cluster.gpus)",
    no_tf32: str = "set cluster.capability if the GPUs have it, or use float32, bf16 or auto",
    problems: Sequence[str] = (),
    cautions: Sequence[str] = (),
) -> Platform:
    """Distribute trials over machines.

    Args:
        sweep: sweep that is run.
        hosts: machines that run trials.
        gpu: name of their GPUs; "" if they have none.
        capability: CUDA compute capability of these GPUs; None if unknown.
        cpu_is_here: True if trials on a CPU run on this machine.  Only then is it known whether the CPU has units for
            bfloat16.
        no_gpu: the reason why there is no GPU, for the message to a user who requests one.
        no_tf32: the fix for a user who requests TF32 on a device without units for it.
        problems: problems that the provider found before.
        cautions: cautions that the provider found before.

    Returns:
        The platform with every machine in use.

    Raises:
        UserError: names every key that prevents trials from running.
    """
    found = list(problems)
    cpus = 1 if sweep.trial.cpus == "auto" else sweep.trial.cpus
    any_gpus = any(host.gpus for host in hosts)
    share = (1.0 if any_gpus else 0.0) if sweep.trial.gpus == "auto" else float(sweep.trial.gpus)
    slots = sum(host.slots(cpus, share) for host in hosts)
    most = max((host.cpus for host in hosts), default=0)
    if share and not any_gpus:
        found.append(f"trial.gpus: {no_gpu}; use --set trial.gpus=0")
    if cpus > most:
        found.append(f"trial.cpus: a trial needs {cpus} cores; a machine offers {most} at most")
    elif share and any_gpus and not slots:
        found.append(f"trial.cpus: a trial needs {cpus} cores next to a GPU; no machine with a GPU offers as many")
    units = (capability or 0.0) if share else (None if cpu_is_here else 0.0)
    precision = resolve_precision(sweep.trial.precision, units)
    if precision == "bf16" and not share and not cpu_is_here:
        found.append(
            "trial.precision: each kind of CPU gives other numbers in bf16, and the kind of the cluster's CPUs is not "
            "known here; use float32 or auto"
        )
    if precision == "tf32" and not multiplies_tf32(units):
        found.append(f"trial.precision: tf32 needs GPUs of compute capability {AMPERE} or more; {no_tf32}")
    if found:
        raise UserError(found)
    slow = "trial.precision: bf16 is slower than float32 without hardware units for it"
    if precision == "bf16" and not multiplies_bf16(units):
        cautions = [*cautions, slow]
    return Platform(
        device=gpu if share else "cpu",
        numerics=Numerics(precision, cpus, units=cpu_bf16_units() if precision == "bf16" and not share else ""),
        slots=1 if sweep.exclusive else slots,
        cpus=cpus,
        gpus=share,
        caution="\n".join(cautions),
    )


def resolve_precision(asked: str, capability: float | None) -> str:
    """Return the arithmetic for `asked`; for "auto": "bf16" if the device has units for it, else "float32".

    Args:
        asked: "auto", "float32", "tf32" or "bf16".
        capability: compute capability of the GPU that trains; None if this machine's CPU trains.
    """
    if asked != "auto":
        return asked
    return "bf16" if multiplies_bf16(capability) else "float32"


def multiplies_bf16(capability: float | None) -> bool:
    """Return True if the device has units for products in bfloat16; arguments as in `resolve_precision`."""
    return cpu_bf16_units() != NO_UNITS if capability is None else capability >= AMPERE


def multiplies_tf32(capability: float | None) -> bool:
    """Return True if the device has units for products in TF32; arguments as in `resolve_precision`."""
    return capability is not None and capability >= AMPERE
