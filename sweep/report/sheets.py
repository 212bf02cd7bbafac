"""Sheets of a report, the same for terminal, Markdown, LaTeX and HTML; captions explain their marks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from models.catalog import DETECTORS
from sweep.leaderboard import papers
from sweep.leaderboard.audit import Audit
from sweep.leaderboard.board import Board, Grid, Leaderboard
from sweep.leaderboard.comparison import CellComparison, Comparison, full_name, short_name
from sweep.leaderboard.entry import METRICS, Entry
from sweep.leaderboard.headline import Lead
from sweep.leaderboard.runtime import Milliseconds, Runtime
from sweep.leaderboard.stats import ALPHA
from sweep.report.board_sheets import board_sheets
from sweep.report.paper_sheet import paper_sheet
from sweep.report.rank_sheet import rank_sheet
from sweep.report.sheet import (
    CLASS_MEAN,
    Sheet,
    SheetCell,
    averaged_over,
    board_title,
    explain_intervals,
    explain_marks,
    interval_text,
    line_label,
    mean_text,
    probability,
    value_text,
)
from sweep.spec.trial import Timing

WIDE_NZ = (
    "For Skip-GANomaly nz is only the length of the discriminator's feature vector: its U-Net has no such bottleneck."
)


def sheets(
    leaderboard: Leaderboard,
    audited: Sequence[Audit] = (),
    other: Leaderboard | None = None,
    timed: Sequence[Runtime] = (),
) -> Iterator[Sheet]:
    """Build the sheets: each board with its comparisons, papers and grids; then audits and runtimes.

    Args:
        leaderboard: leaderboard to show.
        audited: result of `sweep.leaderboard.audit.audits`.
        other: the same rows by the other metric that a printed value may be (see `sweep.report.files.companion`).
        timed: result of `sweep.leaderboard.runtime.runtimes`.
    """
    others = {(board.dataset, board.protocol): board for board in (other.boards if other else ())}
    for board in leaderboard.boards:
        if board.lines:
            yield from board_sheets(leaderboard, board)
        if any(cell.paper is not None for line in board.lines for cell in line.cells.values()):
            yield paper_sheet(leaderboard, board, other, others.get((board.dataset, board.protocol)))
        for grids in by_axis(board.grids):
            yield _grid_sheet(leaderboard, board, grids)
    yield from rank_sheet(leaderboard)
    for audit in audited:
        yield _audit_sheet(audit, METRICS[leaderboard.metric])
    if timed:
        yield _runtime_sheet(timed)


def by_axis(grids: Sequence[Grid]) -> list[list[Grid]]:
    """Group the grids by study and axis, in order."""
    groups: dict[tuple[str, str], list[Grid]] = {}
    for grid in grids:
        groups.setdefault((grid.study, grid.axis), []).append(grid)
    return list(groups.values())


def _grid_sheet(leaderboard: Leaderboard, board: Board, grids: Sequence[Grid]) -> Sheet:
    """Build a table of values by detector; if defaults differ, each detector's column marks its own."""
    study, axis = grids[0].study, grids[0].axis
    points = [{line.value: line for line in grid.lines} for grid in grids]
    values = sorted({value for of_grid in points for value in of_grid}, key=lambda v: (isinstance(v, str), v))
    shared = len({grid.default for grid in grids}) == 1
    lines = []
    for value in values:
        entries = []
        for grid, of_grid in zip(grids, points, strict=True):
            mark = " (default)" if not shared and value == grid.default else ""
            entries.append(_grid_entry(of_grid.get(value), mark))
        mark = " (default)" if shared and value == grids[0].default else ""
        lines.append((value_text(value) + mark, tuple(entries)))
    shown = [line for of_grid in points for line in of_grid.values()]
    averaged = averaged_over([c for c in board.classes if any(c in line.cells for line in shown)])
    captions = [
        f"{averaged}.  One hyperparameter varies at a time around the study's default.  A value chosen from this table "
        "would be chosen on the test set.",
        *explain_intervals(shown, leaderboard.metric),
        *explain_marks([line.mean for line in shown]),
    ]
    if axis == "nz" and any(grid.detector == "skip_ganomaly" for grid in grids):
        captions.append(WIDE_NZ)
    columns = tuple(f"{grid.detector} {grid.variant}" for grid in grids)
    title = f"{board_title(leaderboard, board)}, {study}: against {axis}"
    return Sheet(title, axis, columns, (("", tuple(lines)),), tuple(captions))


def _grid_entry(line: Entry | None, mark: str) -> SheetCell:
    if line is None:
        return SheetCell("·")
    return SheetCell(mean_text(line.mean) + mark, line=line.name)


def _audit_sheet(audit: Audit, metric: str) -> Sheet:
    shown = [line for line, _ in audit.lines]
    lines = [
        (
            line_label(line, shown),
            tuple(SheetCell(mean_text(means[way]) if way in means else "·") for way in audit.ways),
        )
        for line, means in audit.lines
    ]
    caption = (
        "Class means of the same trained detectors.  legacy: scored as published code does, where BatchNorm uses the "
        "statistics of each test batch of 64.  ordered: normal images first, so nearly every batch has one kind, and "
        "its statistics reveal which.  shuffled: in random order.  oracle: the best epoch on the test set itself.  "
        "Any gain over the first column comes from the protocol, not detection."
    )
    columns = tuple(f"{evaluation.replace('_', ' ')}, {selection}" for evaluation, selection in audit.ways)
    return Sheet(
        f"{audit.dataset} {audit.protocol}: {metric}, audit", "detector", columns, (("", tuple(lines)),), (caption,)
    )


def _runtime_sheet(timed: Sequence[Runtime]) -> Sheet:
    sizes = sorted({size for runtime in timed for size in runtime.times} | set(Timing().batch_sizes))
    sections: dict[str, list[tuple[str, tuple[SheetCell, ...]]]] = {}
    for runtime in timed:
        conditions = f"{runtime.dataset}, {runtime.size} x {runtime.size}, {runtime.hardware}, {runtime.numerics}"
        study = f", {runtime.study}" if len({other.study for other in timed}) > 1 else ""
        info = DETECTORS.get(runtime.detector)
        variant = "" if info is not None and len(info.variants) == 1 else f" {runtime.variant}"
        mark = {"failed": "✗", "stale": "§"}.get(runtime.status, "")
        times = [SheetCell(_milliseconds(runtime.times.get(size)) + mark) for size in sizes]
        paper = SheetCell("" if runtime.paper is None else f"{runtime.paper:g}")
        sections.setdefault(conditions + study, []).append((f"{runtime.detector}{variant}", (*times, paper)))
    columns = (*(f"batch {size}" for size in sizes), "paper, ms")
    shown = tuple((heading, tuple(lines)) for heading, lines in sections.items())
    return Sheet("Runtime: milliseconds to score an image", "detector", columns, shown, tuple(_runtime_captions(timed)))


def _runtime_captions(timed: Sequence[Runtime]) -> Iterator[str]:
    counts = sorted({times.n for runtime in timed for times in runtime.times.values()})
    if counts:
        yield (
            f"Median (quartiles) over {' or '.join(map(str, counts))} batches after warm-up: the time of a batch "
            "divided by its number of images.  Measured from pixels to scores in the host's memory, synchronised, "
            "including copies to and from a GPU.  BatchNorm in evaluation mode, one slot, no other trial of the sweep "
            "at the same time.  Networks have their initial weights, because training does not change the time."
        )
    printed = [runtime for runtime in timed if runtime.paper is not None]
    for source in dict.fromkeys(runtime.source for runtime in printed):
        ran = dict.fromkeys(f"{r.hardware} with torch {r.torch}" for r in printed if r.torch and r.source == source)
        names = dict.fromkeys(r.detector for r in printed if r.source == source)
        reasons = papers.runtime_differences(names, ", ".join(ran) or printed[0].hardware)
        yield f"paper: {papers.RUNTIME_SOURCES[source]}, not the same experiment.  {'.  '.join(reasons)}."
    if any(not runtime.times for runtime in timed):
        yield "- no result yet."
    if any(runtime.status == "failed" for runtime in timed):
        yield "✗ the trial failed."
    if any(runtime.status == "stale" for runtime in timed):
        yield "§ the trial has only a result of older code or another arithmetic, and runs again."


def _milliseconds(times: Milliseconds | None) -> str:
    """Format median and quartiles, e.g. "2.79 (2.71 to 2.95)"."""
    if times is None:
        return "-"
    three = (times.median, times.low, times.high)
    median, low, high = (f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".") for value in three)
    return f"{median} ({low} to {high})"


def comparison_sheet(comparison: Comparison, how: str) -> Sheet:
    """Build the table of a comparison of two detectors.

    Args:
        comparison: result of `sweep.leaderboard.comparison.compare` for one dataset and protocol.
        how: epoch and evaluation, for the title, e.g. "last epoch, clean".
    """
    alike = comparison.first[1:] == comparison.second[1:]
    first, second = (full_name(name) if alike else short_name(name) for name in (comparison.first, comparison.second))
    columns = (first, second, "difference", "± test set", "p test set", "p Holm", "± seeds", "p seeds")
    lines = [(abnormal, _entries(cell)) for abnormal, cell in comparison.cells.items()]
    if comparison.mean is not None:
        lines.append((CLASS_MEAN, _entries(comparison.mean)))
    captions = [] if comparison.lead is None else [_lead(comparison.lead, first, second)]
    captions += [
        "(n): number of seeds.  test set: DeLong's test of the two AUROCs from per-sample scores, averaged over seeds, "
        "95 %; it tests whether these trained detectors differ.  p Holm: p test set, adjusted for "
        f"{len(comparison.cells)} classes.  seeds: Welch's t test, 95 %; it tests whether the difference would remain "
        "after new training.  In the test set of the class mean, an image counts once, with all its roles.",
    ]
    if comparison.classes is not None:
        c = comparison.classes
        effect = "none, all differences are equal" if c.effect is None else f"{c.effect:+.2f}"
        captions.append(
            f"Over {c.n} classes: difference {c.mean:+.3f} ± {c.half_width:.3f} (95 % t-interval); d_z (Cohen's d for "
            f"pairs): {effect}; classes won: {c.wins:g}; paired t test: p {probability(c.p)}; signed-rank test: p "
            f"{probability(c.p_signed_rank)}.  Caution: classes of one dataset are dependent, so p is approximate."
        )
    if not comparison.cells:
        captions.append("No abnormal class has results of both detectors on the same split.")
    title = f"{comparison.dataset} {comparison.protocol}: AUROC, {how}, {first} against {second}"
    return Sheet(title, "abnormal", columns, (("", tuple(lines)),), tuple(captions))


def _lead(lead: Lead, first: str, second: str) -> str:
    """Return the answer of the board: seeds and finite test set together."""
    better, worse = (first, second) if lead.mean >= 0 else (second, first)
    told = "is better than" if lead.p <= ALPHA else "cannot be told from"
    lead = lead.of_better
    return (
        f"On these classes {better} {told} {worse}: class mean {lead.mean:.3f} higher, 95 % "
        f"{interval_text(lead.low, lead.high)}, p {probability(lead.p)} (seeds and finite test set together; standard "
        f"errors {lead.seeds:.4f} and {lead.test:.4f})."
    )


def _entries(cell: CellComparison) -> tuple[SheetCell, ...]:
    means = (
        f"{cell.first:.3f} ({cell.n_first})",
        f"{cell.second:.3f} ({cell.n_second})",
        f"{cell.difference.mean:+.3f}",
    )
    tested = (f"±{cell.difference.half_width:.3f}", probability(cell.difference.p))
    adjusted = "" if cell.p_holm is None else probability(cell.p_holm)
    seeds = ("-", "-") if cell.seeds is None else (f"±{cell.seeds.half_width:.3f}", probability(cell.seeds.p))
    return tuple(map(SheetCell, (*means, *tested, adjusted, *seeds)))
