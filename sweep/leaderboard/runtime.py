"""Milliseconds per image from runtime studies, next to the values that a paper printed."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import TYPE_CHECKING, Any

from sweep.leaderboard.papers import printed_runtime
from sweep.leaderboard.rows import status
from sweep.plan.status import SweepStatus
from sweep.store.ledger import Damaged, Ledger

if TYPE_CHECKING:
    from sweep.plan.expand import Planned


@dataclass(frozen=True)
class Milliseconds:
    """Milliseconds to score one image, in batches of one size: median and quartiles over `n` batches."""

    median: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Runtime:
    """One trial of a runtime study.

    Attributes:
        key, study, detector, variant, dataset: those of the trial.
        size: side of the images in pixels.
        hardware: name of the GPU or processor.  Before there is a result: the device of the plan, "cpu" or a GPU.
        numerics: arithmetic, including threads, as text.
        status: see `sweep.leaderboard.rows.build_rows`; only "ok" has times.
        times: by batch size.
        torch: version of torch that ran the trial; "" before there is a result.
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


def read_runtimes(
    status: SweepStatus, ledger: Ledger, damaged: MutableMapping[str, Damaged] | None = None
) -> list[Runtime]:
    """Return the runtimes of all runtime studies of a plan, including trials without a result.

    Args:
        status: plan with the state of its trials.
        ledger: records of the sweep.
        damaged: receives the error of each damaged result, by key.
    """
    planned = [p for p in status.planned if p.spec.timing is not None]
    results = ledger.results({p.key for p in planned} & status.finished, {} if damaged is None else damaged)
    return runtimes(planned, results, status.attempts, status.finished)


def runtimes(
    planned: Iterable[Planned],
    results: Mapping[str, Mapping[str, Any]],
    attempts: Mapping[str, Sequence[Mapping[str, Any]]],
    finished: Container[str],
) -> list[Runtime]:
    """Return one runtime for each trial of a runtime study, in the order of the plan.

    The arguments are those of `sweep.leaderboard.rows.build_rows`.
    """
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
                times={} if result is None else {t["batch_size"]: _summarise(**t) for t in result["timings"]},
                torch="" if result is None else result["torch"],
                paper=paper,
                source=source,
            )
        )
    return found


def _summarise(batch_size: int, seconds: Sequence[float]) -> Milliseconds:
    low, median, high = quantiles([1000 * taken / batch_size for taken in seconds], method="inclusive")
    return Milliseconds(median, low, high, len(seconds))
