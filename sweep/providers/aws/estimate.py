"""Estimate how many workers a sweep needs, how long it takes on them, and what it costs.

Only the seconds of finished trials are measured; everything else is an estimate, and is labelled so.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sweep.console import duration
from sweep.plan.platform import Platform
from sweep.plan.status import SweepStatus
from sweep.providers.aws.instances import worker
from sweep.providers.aws.prices import Quote, quotes
from sweep.providers.base import section_of
from sweep.spec.cluster import Aws
from sweep.spec.sweep import Sweep

BOOT_SECONDS = 120  # time from the request for a machine until SSH works
READY_SECONDS = 30  # time to start Ray on a machine with a ready environment
ENVIRONMENT_SECONDS = 240  # additional time to install the pinned packages, 7 GB on disk
GRACE_SECONDS = 300  # trials stop so long before power-off: they write resume states, and the report is made
GRACE_SHARE = 0.2  # of the time that is left, if that is shorter than GRACE_SECONDS


@dataclass(frozen=True)
class Estimate:
    """Size, time and price of what is left to run.

    Attributes:
        trials: number of trials to run.
        gpu_hours: GPU-hours of the trials only.
        workers: fewest workers that meet `budget.max_hours`, at most `cluster.max_workers`.
        slots: trials at once on a worker.
        needed: fewest workers that meet `budget.max_hours`; None if no number does, because one trial takes too long.
        hours: hours from launch to end with `workers`, including boot and set-up.
        max_hours: hours of the budget.
        one_gpu: True if a single slot meets the budget.
        head, worker: prices of each, with their sources.
        spot_usd, on_demand_usd: dollars for all instances; None if a price is unknown.  Disks and traffic are not
            included.
    """

    trials: int
    gpu_hours: float
    workers: int
    slots: int
    needed: int | None
    hours: float
    max_hours: float
    one_gpu: bool
    head: Quote
    worker: Quote
    spot_usd: float | None
    on_demand_usd: float | None

    def to_json(self) -> dict[str, Any]:
        """Return what `plan --json` prints under "aws"."""
        return asdict(self)


def estimate(sweep: Sweep, status: SweepStatus) -> Estimate:
    """Estimate what is left to run."""
    cluster, max_hours = section_of(sweep, Aws), sweep.budget.max_hours
    assert max_hours is not None, "the YAML was validated"
    each = worker(sweep).platform
    jobs = [(line.to_run, line.seconds / line.to_run) for line in status.lines if line.to_run]
    seconds = sum(count * took for count, took in jobs)
    start = start_seconds(cluster)
    orderly = grace_seconds(max_hours * 3600 - _head_first(cluster))
    limit = max_hours * 3600 - start - orderly
    needed = fewest_slots(jobs, limit)
    workers_needed = None if needed is None else -(-needed // each.slots)
    most = 1 if sweep.exclusive else cluster.max_workers
    workers = min(most, workers_needed or most) if jobs else 0
    wall = start + makespan(jobs, workers * each.slots) if jobs else 0.0
    prices = quotes(cluster)
    head, of_worker = prices[cluster.head], prices[cluster.worker[0]]
    worker_hours = workers * (wall - _head_first(cluster)) / 3600 if jobs else 0.0
    return Estimate(
        trials=sum(count for count, _ in jobs),
        gpu_hours=seconds * each.gpus / 3600,
        workers=workers,
        slots=each.slots,
        needed=workers_needed,
        hours=wall / 3600,
        max_hours=max_hours,
        one_gpu=bool(jobs) and needed == 1 and each.gpus > 0,
        head=head,
        worker=of_worker,
        spot_usd=_dollars(head.on_demand, wall / 3600, of_worker.spot, worker_hours) if cluster.spot else None,
        on_demand_usd=_dollars(head.on_demand, wall / 3600, of_worker.on_demand, worker_hours),
    )


def start_seconds(cluster: Aws) -> float:
    """Return the seconds until the first worker runs trials: the head starts first, then all workers at once."""
    return 2 * _head_first(cluster)


def grace_seconds(left: float) -> float:
    """Return how many seconds before its machines power off a launch stops its trials.

    Args:
        left: seconds until the machines power off, when the head is up.
    """
    return min(GRACE_SECONDS, GRACE_SHARE * max(0.0, left))


def _head_first(cluster: Aws) -> float:
    return BOOT_SECONDS + READY_SECONDS + (0 if cluster.environment else ENVIRONMENT_SECONDS)


def makespan(jobs: Sequence[tuple[int, float]], slots: int) -> float:
    """Return the seconds until all trials are done, if the longest trials start first.

    Args:
        jobs: pairs (number of trials, seconds of each).
        slots: trials at once, at least 1.
    """
    free = [0.0] * min(slots, max(1, sum(count for count, _ in jobs)))
    for count, took in sorted(jobs, key=lambda job: -job[1]):
        for _ in range(count):
            heapq.heapreplace(free, free[0] + took)
    return max(free)


def fewest_slots(jobs: Sequence[tuple[int, float]], seconds: float) -> int | None:
    """Return the fewest slots with a makespan of at most `seconds`; None if no number of slots is enough."""
    if not jobs:
        return 0
    low, high = 1, sum(count for count, _ in jobs)
    if makespan(jobs, high) > seconds:
        return None
    while low < high:
        middle = (low + high) // 2
        if makespan(jobs, middle) <= seconds:
            high = middle
        else:
            low = middle + 1
    return low


def _dollars(head: float | None, head_hours: float, each: float | None, worker_hours: float) -> float | None:
    return None if head is None or each is None else head * head_hours + each * worker_hours


def lines(sweep: Sweep, found: Estimate, each: Platform) -> list[str]:
    """Return the estimate as lines of text.

    Args:
        sweep: sweep that is planned.
        found: its estimate.
        each: platform of one worker.
    """
    cluster = section_of(sweep, Aws)
    if not found.trials:
        return [f"aws {cluster.region}: nothing to run, no machine is needed"]
    types = " or ".join(cluster.worker)
    market = "spot, or on demand without spot capacity" if cluster.spot else "on demand"
    slots = f"{each.slots} slot{'s' if each.slots != 1 else ''} each" + (f" of {each.gpus:g} {each.device}" if
                                                                        each.gpus else "")  # fmt: skip
    plural = "s" if found.workers != 1 else ""
    text = [
        f"aws {cluster.region}: {found.workers} worker{plural} {types} ({market}; {slots}), head {cluster.head}",
        f"about {duration(found.hours * 3600)}, including {duration(start_seconds(cluster))} of boot and set-up; "
        f"budget.max_hours {found.max_hours:g}; {found.gpu_hours:.3g} GPU-hours of trials",
        _bill(cluster, found),
    ]
    if found.one_gpu:
        text.append("one GPU is enough to meet budget.max_hours")
    if found.needed is None:
        text.append("budget.max_hours is too short for any number of workers; unfinished trials can be resumed")
    elif found.needed > cluster.max_workers:
        text.append(
            f"budget.max_hours needs {found.needed} workers, cluster.max_workers is {cluster.max_workers}: "
            "the budget would stop the launch, which can be resumed"
        )
    return text + _budget(sweep, found)


def _bill(cluster: Aws, found: Estimate) -> str:
    amounts = [f"{_usd(found.on_demand_usd)} on demand"]
    sources = [found.head.on_demand_source, found.worker.on_demand_source]
    if cluster.spot:
        amounts.insert(0, f"{_usd(found.spot_usd)} as spot")
        sources.append(found.worker.spot_source)
    named = ", ".join(dict.fromkeys(source for source in sources if source != "unknown"))
    unknown = "" if "unknown" not in sources else "; give unknown prices in cluster.prices"
    where = f" (prices: {named}{unknown})" if named else " (no price is known: give cluster.prices)"
    return f"dollars of instances: {', '.join(amounts)}{where}; disks and traffic come on top"


def _usd(dollars: float | None) -> str:
    return "unknown" if dollars is None else f"about ${dollars:.2f}"


def _budget(sweep: Sweep, found: Estimate) -> list[str]:
    limit = sweep.budget.max_usd
    likely = found.on_demand_usd if found.spot_usd is None else found.spot_usd
    if limit is None:
        return []
    if likely is None:
        return [f"budget.max_usd {limit:g} cannot be enforced, because a price is unknown: give cluster.prices"]
    if likely > limit:
        return [f"above budget.max_usd {limit:g}"]
    if found.on_demand_usd is not None and found.on_demand_usd > limit:
        return [f"within budget.max_usd {limit:g} as spot, but above it if workers are on demand"]
    return [f"within budget.max_usd {limit:g}"]
