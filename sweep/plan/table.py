"""The plan as a table: what would run, what is done, and how long the rest takes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice

from rich.console import Group
from rich.table import Table
from rich.text import Text

from sweep.console import duration
from sweep.plan.expand import PlannedSearch
from sweep.plan.platform import Platform
from sweep.plan.search import Search
from sweep.plan.status import COUNTS, StatusRow, SweepStatus
from sweep.spec.sweep import Sweep
from sweep.store.ledger import Damaged

SHOWN_DAMAGED = 5  # damaged results that are listed


def table(
    sweep: Sweep,
    platform: Platform,
    status: SweepStatus,
    unreached: str = "",
    machines: Sequence[str] = (),
    costs: Sequence[Table] = (),
) -> Group:
    """Return a sweep's plan, compared with its store, for the terminal.

    Args:
        sweep, platform, status: what is planned; the platform has no slots if no machine exists now.
        unreached: why the store did not answer; "" if it did.
        machines: lines on the machines that would be made; they replace the time on existing machines.
        costs: tables of what studies and seeds cost (`sweep.plan.study_costs`).
    """
    counts = {name: status.count(name) for name in COUNTS}
    numbers = [f"{counts['done']:,} done"]
    numbers += [f"{counts[name]:,} {name}" for name in ("failed", "pruned") if counts[name]]
    numbers.append(f"{counts['to_run']:,} to run")
    sums = ", done: unknown" if unreached else f" = {' + '.join(numbers)}"
    heading = f"{sweep.name}: {counts['trials']:,} trials{sums}"
    parts: list[Text | Table] = [Text(heading, style="bold"), _lines(status)]
    parts += [Text(_search(planned, search), style="dim") for planned, search in status.searches]
    if counts["stale"]:
        parts.append(
            Text(f"stale: {counts['stale']} trials have results of an older revision of the code; they run again")
        )
    if counts["other_arithmetic"]:
        parts.append(
            Text(
                f"{counts['other_arithmetic']} trials have results in another arithmetic than {platform.numerics}: in "
                "bf16, CPUs of different kinds give different numbers.  They run again"
            )
        )
    if status.damaged:
        parts += [Text(line, style="red") for line in damage_lines(status.damaged.values())]
    if status.may_come:
        parts.append(
            Text(f"up to {status.may_come:,} more trials: the first seeds decide how many, and plan says so then")
        )
    if unreached:
        parts.append(Text(f"counted as if nothing were done: {unreached}", style="yellow"))
    if machines:
        parts += [Text(line) for line in machines]
    elif counts["to_run"]:
        parts.append(Text(_time_left(status, platform)))
    parts += [part for cost in costs for part in (Text(), cost)]
    return Group(*parts)


def damage_lines(damaged: Collection[Damaged]) -> list[str]:
    """Return lines on damaged results, for the terminal."""
    first = [str(error) for error in islice(damaged, SHOWN_DAMAGED)]
    left = len(damaged) - len(first)
    return [*first, f"and {left:,} more damaged results; `python -m sweep verify STORAGE` lists all"] if left else first


def _time_left(status: SweepStatus, platform: Platform) -> str:
    """Return a line on how long the trials to run will take."""
    if not platform.slots:
        return "no machine exists for it now"
    basis = "measured" if all(line.measured for line in status.lines if line.to_run) else "estimated"
    left = duration(status.seconds_left(platform.slots))
    return f"about {left} on {slots(platform)} in {platform.numerics.precision} ({basis})"


def slots(platform: Platform) -> str:
    """Return the slots of a platform as text, such as "2 slots of 1 CPU core"."""
    what = f"{platform.gpus:g} {platform.device}" if platform.gpus else f"{platform.cpus} CPU core"
    plural = "s" if not platform.gpus and platform.cpus > 1 else ""
    return f"{platform.slots} slot{'s' if platform.slots != 1 else ''} of {what}{plural}"


def _search(planned: PlannedSearch, search: Search) -> str:
    """Return a line on the progress of a search, and its choice."""
    first = planned.tuning[0]
    classes = ",".join(dict.fromkeys(p.abnormal for p in planned.reports))
    pruned = sum(candidate.pruned is not None for candidate in search.candidates)
    asked = f"{len(search.candidates)}/{search.spec.candidates} candidates asked, {pruned} pruned"
    text = f"search {first.study} for {first.detector} on {first.dataset} {classes}: {asked}"
    frozen = search.frozen() if search.finished else None
    if frozen is None:
        return text
    params = {**frozen[0], **({} if frozen[1] is None else {"lambda": frozen[1]})}
    return f"{text}; chose " + ", ".join(f"{name}={_short(value)}" for name, value in params.items())


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _lines(status: SweepStatus) -> Table:
    found = Table(box=None, pad_edge=False, header_style="bold")
    found.add_column("study", no_wrap=True)
    found.add_column("detector", overflow="fold", min_width=24)
    found.add_column("dataset", no_wrap=True)
    for heading in ("trials", "done", "failed", "pruned", "to run", "s each", "in all"):
        found.add_column(heading, justify="right", no_wrap=True)
    for line in status.lines:
        detector = f"{line.detector} {line.variant}"
        counts = (line.trials, line.done, line.failed, line.pruned, line.to_run)
        found.add_row(line.study, detector, line.dataset, *(f"{c:,}" if c else "-" for c in counts), *_time(line))
    return found


def _time(line: StatusRow) -> tuple[str, str]:
    each = f"{line.seconds_each:.1f}" if line.measured else f"~{line.seconds_each:.1f}"
    return each, duration(line.seconds) if line.to_run else "-"
