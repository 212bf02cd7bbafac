"""How trials fit on machines that are not looked at but told of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweep.faults import UserError
from sweep.plan import Platform
from sweep.precision import AMPERE, multiplies_bf16, multiplies_tf32, resolve_precision
from sweep.spec import Sweep
from sweep.trialspec import Numerics


@dataclass(frozen=True)
class Host:
    """What one machine offers to trials: CPU cores, and GPUs."""

    cpus: int
    gpus: int = 0

    def slots(self, cpus: int, share: float) -> int:
        """Trials at once that need so many cores and such a share of a GPU."""
        by_cores = self.cpus // cpus
        return min(by_cores, int(self.gpus / share)) if share else by_cores


def fitted(sweep: Sweep, hosts: Sequence[Host], gpu: str, capability: float | None) -> Platform:
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
    faults = []
    if share and not any_gpus:
        faults.append("trial.gpus: the cluster offers no GPU; use --set trial.gpus=0, or say cluster.gpus")
    elif not slots:
        most = max((host.cpus for host in hosts), default=0)
        with_gpu = " beside a GPU" if share else ""
        faults.append(f"trial.cpus: {cpus} are asked for{with_gpu}, a machine of the cluster offers at most {most}")
    if precision == "tf32" and not multiplies_tf32(units):
        faults.append(
            f"trial.precision: tf32 needs GPUs of compute capability {AMPERE} or more, as cluster.capability says"
        )
    if faults:
        raise UserError(faults)
    slow = precision == "bf16" and not multiplies_bf16(units)
    return Platform(
        device=gpu if share else "cpu",
        numerics=Numerics(precision=precision, threads=cpus),
        slots=1 if sweep.exclusive else slots,
        cpus=cpus,
        gpus=share,
        caution="trial.precision: bf16 is slower than float32 where there are no units for it" if slow else "",
    )
