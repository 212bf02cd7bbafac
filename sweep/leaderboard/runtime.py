"""Trials of runtime studies and their results -> milliseconds an image, beside what a paper printed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from sweep.leaderboard.papers import printed_runtime
from sweep.leaderboard.rows import status
from sweep.plan.status import SweepStatus
from sweep.store.ledger import Ledger

if TYPE_CHECKING:
    from sweep.plan.expand import Planned


@dataclass(frozen=True)
class Milliseconds:
    """To score one image, in batches of one size: median and quartiles over `n` batches."""

    median: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Runtime:
    """One trial of a runtime study.

    Attributes:
        key, study, detector, variant, dataset: of the trial.
        size: side of the images in pixels.
        hardware: name of the GPU or of the processor; "cpu" for one that is not known yet.
        numerics: arithmetic, threads included, as text.
        status: as `sweep.leaderboard.rows.gather` has it; only "ok" has times.
        times: by batch size.
        torch: version that it ran with, "" before it has.
        paper, source: milliseconds that a paper printed, and the key of their source.
    """

    key: str
    study: str
    detector: str
    variant: str
    dataset: str
    size: int
    hardware: str
    numerics: str
    status: str
    times: Mapping[int, Milliseconds]
    torch: str = ""
    paper: float | None = None
    source: str = ""


def read_runtimes(status: SweepStatus, ledger: Ledger) -> list[Runtime]:
    """Of every trial of a runtime study of a plan, holes included."""
    planned = [p for p in status.planned if p.spec.timing is not None]
    results = ledger.results({p.key for p in planned} & status.finished)
    return runtimes(planned, results, status.attempts, status.finished)


def runtimes(
    planned: Iterable[Planned],
    results: Mapping[str, Mapping[str, Any]],
    attempts: Mapping[str, Sequence[Mapping[str, Any]]],
    finished: Container[str],
) -> list[Runtime]:
    """One for each trial of a runtime study, in the order of the plan; the arguments are those of `gather`."""
    found = []
    for trial in planned:
        if trial.spec.timing is None:
            continue
        result = results.get(trial.key)
        paper, source = printed_runtime(trial.detector, trial.dataset) or (None, "")
        found.append(
            Runtime(
                key=trial.key,
                study=trial.study,
                detector=trial.detector,
                variant=trial.variant,
                dataset=trial.dataset,
                size=trial.spec.size,
                hardware=trial.spec.device if result is None else result["hardware"],
                numerics=str(trial.spec.numerics),
                status=status(trial.spec, result, attempts.get(trial.key, ()), finished),
                times={} if result is None else {t["batch_size"]: _of(**t) for t in result["timings"]},
                torch="" if result is None else result["torch"],
                paper=paper,
                source=source,
            )
        )
    return found


def _of(batch_size: int, seconds: Sequence[float]) -> Milliseconds:
    low, median, high = quantiles([1000 * taken / batch_size for taken in seconds], method="inclusive")
    return Milliseconds(median, low, high, len(seconds))
