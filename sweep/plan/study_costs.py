"""Costs of each study of a plan, and of other numbers of seeds, with the width of the intervals that they give."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.table import Table

from models import catalog as detectors
from sweep.console import duration
from sweep.plan.status import StatusRow, SweepStatus
from sweep.spec.study import Study
from sweep.spec.sweep import Sweep

HALF_WIDTHS = {3: 2.48, 5: 1.24, 10: 0.72}
"""Half-width of the 95 % t-interval of a mean over n seeds, in standard deviations of the seeds: t(n - 1) / sqrt(n)."""


@dataclass(frozen=True)
class StudyCost:
    """Cost of one study.

    Attributes:
        study: its name.
        trials, to_run: numbers of its trials.
        seconds: expected seconds of those to run, on all slots.
        usd: expected dollars of those to run; None if no price is known.
    """

    study: str
    trials: int
    to_run: int
    seconds: float
    usd: float | None


@dataclass(frozen=True)
class SeedCost:
    """Cost of a sweep with another number of seeds, as if nothing were done yet.

    Attributes:
        seeds: number of seeds.
        seconds: expected seconds of all trials, on all slots.
        usd: expected dollars; None if no price is known.
        half_width: half-width of the 95 % interval of a mean over seeds, in standard deviations of the seeds.
    """

    seeds: int
    seconds: float
    usd: float | None
    half_width: float


def study_costs(sweep: Sweep, status: SweepStatus, slots: int, usd: float | None) -> list[StudyCost]:
    """Return the cost of each study, in the order of the sweep.

    Args:
        sweep: sweep that is planned.
        status: its plan, compared with the store.
        slots: trials at once.
        usd: expected dollars of all trials to run; None if no price is known.  Studies share it by their seconds.
    """
    found = []
    whole = sum(row.seconds for row in status.lines)
    for name in dict.fromkeys((*(study.name for study in sweep.studies), *(row.study for row in status.lines))):
        rows = [row for row in status.lines if row.study == name]
        seconds = sum(row.seconds for row in rows)
        trials, to_run = (sum(getattr(row, count) for row in rows) for count in ("trials", "to_run"))
        share = None if usd is None else usd * seconds / whole if whole else 0.0
        found.append(StudyCost(name, trials, to_run, seconds / max(1, slots), share))
    return found


def seed_costs(sweep: Sweep, status: SweepStatus, slots: int, usd: float | None) -> list[SeedCost]:
    """Return what 3, 5 and 10 seeds cost; [] if no study is averaged over seeds.

    Args:
        sweep, status, slots, usd: as for `study_costs`.
    """
    studies = {study.name: study for study in sweep.studies if study.kind != "runtime"}
    rows = [row for row in status.lines if row.study in studies]
    if not any(_per_seed(row, studies[row.study]) for row in rows):
        return []
    left = sum(row.seconds for row in status.lines)
    price = None if usd is None or not left else usd / left
    found = []
    for seeds, half_width in HALF_WIDTHS.items():
        seconds = sum(_seconds(row, studies.get(row.study), seeds) for row in status.lines)
        dollars = None if price is None else price * seconds
        found.append(SeedCost(seeds, seconds / max(1, slots), dollars, half_width))
    return found


def _per_seed(row: StatusRow, study: Study) -> float:
    """Return how many reported trials of a row each seed has; 0 if its results do not depend on the seed."""
    if detectors.detector(row.detector).deterministic and study.split_seed != "follow":
        return 0.0
    return row.reported / len(study.seeds)


def _seconds(row: StatusRow, study: Study | None, seeds: int) -> float:
    """Return the expected seconds of all trials of a row on one slot, with a number of seeds."""
    each = row.seconds / row.to_run if row.to_run else row.seconds_each
    per_seed = 0.0 if study is None else _per_seed(row, study)
    if study is None or not per_seed:
        return each * row.trials
    return each * (row.trials - per_seed * len(study.seeds) + per_seed * seeds)


def studies_table(costs: Iterable[StudyCost], slots: int) -> Table:
    """Return the costs of studies for the terminal."""
    found = _table("study", "trials", "to run", _on(slots), "dollars")
    for cost in costs:
        time = duration(cost.seconds) if cost.to_run else "-"
        found.add_row(cost.study, f"{cost.trials:,}", f"{cost.to_run:,}", time, _dollars(cost.usd))
    return found


def seeds_table(costs: Iterable[SeedCost], slots: int) -> Table:
    """Return the costs of other numbers of seeds for the terminal."""
    found = _table("seeds", f"all trials {_on(slots)}", "dollars", "95 % interval of a mean")
    for cost in costs:
        width = f"± {cost.half_width:.2f} standard deviations"
        found.add_row(str(cost.seeds), duration(cost.seconds), _dollars(cost.usd), width)
    return found


def _on(slots: int) -> str:
    return f"on {slots} slot{'s' if slots != 1 else ''}"


def _table(first: str, *others: str) -> Table:
    found = Table(box=None, pad_edge=False, header_style="bold")
    found.add_column(first, no_wrap=True)
    for heading in others:
        found.add_column(heading, justify="right", no_wrap=True)
    return found


def _dollars(usd: float | None) -> str:
    return "-" if usd is None else f"${usd:,.2f}"
