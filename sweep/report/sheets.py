"""Sheets of a report, the same for terminal, Markdown, LaTeX and HTML; captions explain their marks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from models.catalog import DETECTORS
from sweep.leaderboard import papers
from sweep.leaderboard.audit import Audit
from sweep.leaderboard.board import LOWER_IS_BETTER, METRICS, Board, Cell, Entry, Grid, Leaderboard
from sweep.leaderboard.comparison import CellComparison, Comparison, full_name, short_name
from sweep.leaderboard.runtime import Milliseconds, Runtime
from sweep.report.paper_sheet import paper_sheet
from sweep.report.pretraining import pretraining_captions
from sweep.report.sheet import (
    CLASS_GROUP,
    CLASS_MEAN,
    Sheet,
    SheetCell,
    averaged_over,
    board_title,
    decimal,
    line_label,
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
            yield _board_sheet(leaderboard, board)
        if any(line.mean.test_half_width is not None for line in board.lines):
            yield _test_set_sheet(leaderboard, board)
        if any(line.behind is not None for line in board.lines):
            yield _comparison_sheet(leaderboard, board)
        if any(cell.paper is not None for line in board.lines for cell in line.cells.values()):
            yield paper_sheet(leaderboard, board, other, others.get((board.dataset, board.protocol)))
        for grids in by_axis(board.grids):
            yield _grid_sheet(leaderboard, board, grids)
    for audit in audited:
        yield _audit_sheet(audit, METRICS[leaderboard.metric])
    if timed:
        yield _runtime_sheet(timed)


def _board_sheet(leaderboard: Leaderboard, board: Board) -> Sheet:
    lines = board.lines
    extra: dict[str, list[SheetCell]] = {}
    if any(line.mean.diverged for line in lines):
        extra["diverged = chance"] = [SheetCell(decimal(line.mean.counted), line.mean.best) for line in lines]
    if any(line.gap is not None for line in lines):
        extra["gap"] = [SheetCell("" if line.trivial else decimal(line.gap, "+.3f")) for line in lines]
    if any(line.parameters is not None for line in lines):
        extra["parameters"] = [SheetCell("-" if n.parameters is None else f"{n.parameters:,}") for n in lines]
    if any(line.train_seconds is not None for line in lines):
        extra["train s"] = [SheetCell(_seconds(line.train_seconds)) for line in lines]
    if any(_cost(line) for line in lines):
        extra["cost"] = [SheetCell(_cost(line) or "-") for line in lines]
    shown = []
    for index, line in enumerate(lines):
        mark = "≈" if board.tested and line.contender and not line.mean.best else ""
        prefix = "" if line.ranked or line.mean.mean is None else "~"
        mean = SheetCell(prefix + _number(line.mean) + mark, line.mean.best, line.name)
        classes = [_entry(line, abnormal) for abnormal in board.classes]
        entries = (mean, *(column[index] for column in extra.values()), *classes)
        shown.append((line.trivial, (line_label(line, lines), entries)))
    sections = tuple(
        (heading, tuple(line for is_trivial, line in shown if is_trivial == trivial))
        for heading, trivial in (("", False), ("trivial detectors", True))
    )
    return Sheet(
        board_title(leaderboard, board),
        "detector",
        (CLASS_MEAN, *extra, *board.classes),
        tuple(section for section in sections if section[1]),
        tuple(_captions(leaderboard, board)),
        lead=1 + len(extra),
        group=CLASS_GROUP,
    )


def _test_set_sheet(leaderboard: Leaderboard, board: Board) -> Sheet:
    lines = []
    for line in board.lines:
        cells = (line.mean, *(line.cells.get(abnormal, Cell()) for abnormal in board.classes))
        lines.append((line_label(line, board.lines), tuple(SheetCell(_width(cell.test_half_width)) for cell in cells)))
    caption = (
        "Uncertainty from the finite test set: half-width of DeLong's 95 % interval, separate from the interval over "
        "seeds.  Seeds and classes share test images.  Their errors are treated as fully correlated, so each "
        "half-width is an upper bound."
    )
    title = f"{board_title(leaderboard, board)}, finite test set"
    return Sheet(title, "detector", (CLASS_MEAN, *board.classes), (("", tuple(lines)),), (caption,))


COMPARISON = ("best minus this", "d_z", "classes won", "p", "p Holm", "p signed rank")


def _comparison_sheet(leaderboard: Leaderboard, board: Board) -> Sheet:
    best = next(line for line in board.lines if line.ranked)
    lines = []
    for line in board.lines:
        found = line.behind
        if found is None or line.p_holm is None:
            continue
        effect = "-" if found.effect is None else f"{found.effect:+.2f}"
        won = f"{found.wins:g}/{found.n}"
        numbers = (probability(found.p), probability(line.p_holm), probability(found.p_signed_rank))
        texts = (f"{found.mean:+.3f} ± {found.half_width:.3f}", effect, won, *numbers)
        lines.append((line_label(line, board.lines), tuple(SheetCell(text) for text in texts)))
    captions = (
        "Unit of analysis: the class, averaged over seeds; a diverged trial counts as chance.  best minus this: mean "
        "difference with its 95 % t-interval over classes.  d_z: Cohen's d for pairs, the mean difference divided by "
        "the standard deviation of the differences.  p: paired t test.  p Holm: adjusted for "
        f"{len(lines)} comparison{'s' if len(lines) > 1 else ''} with the best.  p signed rank: Wilcoxon's exact "
        "signed-rank test, which needs 6 classes to reach 5 %.",
        "Caution: classes of one dataset are dependent: they share training and test images, and a class that is "
        "normal in one column is abnormal in another.  Treat p as approximate, and draw no conclusion about other "
        "datasets.",
    )
    title = f"{board_title(leaderboard, board)}, {line_label(best, board.lines)} against the others"
    return Sheet(title, "detector", COMPARISON, (("", tuple(lines)),), captions)


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
        f"{averaged}: mean ± half-width of the 95 % t-interval over seeds.  One hyperparameter varies at a time "
        "around the study's default.  A value chosen from this table would be chosen on the test set.",
        *_marks(shown, [line.mean for line in shown]),
    ]
    if axis == "nz" and any(grid.detector == "skip_ganomaly" for grid in grids):
        captions.append(WIDE_NZ)
    columns = tuple(f"{grid.detector} {grid.variant}" for grid in grids)
    title = f"{board_title(leaderboard, board)}, {study}: against {axis}"
    return Sheet(title, axis, columns, (("", tuple(lines)),), tuple(captions))


def _grid_entry(line: Entry | None, mark: str) -> SheetCell:
    if line is None:
        return SheetCell("·")
    prefix = "" if line.ranked or line.mean.mean is None else "~"
    return SheetCell(prefix + _number(line.mean) + mark, line=line.name)


def _audit_sheet(audit: Audit, metric: str) -> Sheet:
    shown = [line for line, _ in audit.lines]
    lines = [
        (line_label(line, shown), tuple(SheetCell(_number(means[way]) if way in means else "·") for way in audit.ways))
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


def _captions(leaderboard: Leaderboard, board: Board) -> Iterator[str]:
    """Yield the captions of a board; each mark is explained only if it occurs."""
    cells = [cell for line in board.lines for cell in (line.mean, *line.cells.values())]
    better = "lower" if leaderboard.metric in LOWER_IS_BETTER else "higher"
    yield (
        f"For each abnormal class: mean ± half-width of the 95 % t-interval over seeds; {better} is better, the best "
        "is bold.  Class mean: averaged over classes within each seed, then mean ± half-width over seeds."
    )
    if any(cell.n == 1 and cell.half_width is None for cell in cells):
        yield "Without ±: one seed, so no interval.  A deterministic detector (knn, pca, ...) runs once."
    if leaderboard.selection == "oracle":
        yield "oracle: the best epoch on the test set itself, so these numbers are too good."
    if any(line.gap is not None for line in board.lines):
        yield "gap: class mean minus that of the best trivial detector."
    yield from pretraining_captions(board.lines)
    if any(line.contender and not line.mean.best for line in board.lines):
        yield (
            "≈ not significantly worse than the best: paired t test over classes, averaged over seeds, "
            "Holm-corrected, 5 % level.  Classes share images, so p is approximate."
        )
    yield from _marks(board.lines, cells)
    if any(abnormal not in line.cells for line in board.lines for abnormal in board.classes):
        yield "· not part of the line's study."
    if any(_cost(line) for line in board.lines):
        yield (
            "parameters: number of trained parameters.  train s: mean training time of one trial in seconds.  cost: "
            "hours of CPU cores or GPUs, summed over the line's trials on this board.  It excludes failed attempts and "
            "the candidate trials of a search."
        )
    if any(line.supervised for line in board.lines):
        yield "‡ supervised: the hyperparameters were chosen with labels of the reported class."


def _marks(lines: Sequence[Entry], cells: Sequence[Cell]) -> Iterator[str]:
    """Yield an explanation of each mark of a number that occurs."""
    if any(cell.n < cell.n_planned for cell in cells):
        yield "(2/3): seeds with a value / seeds planned."
    if any(cell.n == 0 for cell in cells):
        yield "- no result yet."
    if any(not line.ranked and line.mean.mean is not None for line in lines):
        yield "~ not ranked: no seed has a value in every class."
    if any(cell.stale for cell in cells):
        yield "§ a trial has only a result of older code or another arithmetic: not counted, and the trial runs again."
    if any(cell.failed for cell in cells):
        yield "✗ a trial failed."
    if any(cell.diverged for cell in cells):
        yield "† a trial diverged: the mean excludes it; ranking, tests and gap count it as chance."


def _entry(line: Entry, abnormal: str) -> SheetCell:
    cell = line.cells.get(abnormal)
    return SheetCell("·") if cell is None else SheetCell(_number(cell), cell.best, line.name, abnormal)


def _number(cell: Cell) -> str:
    """Format a cell with its interval and marks, e.g. "0.873 ± 0.021 (2/3)†"."""
    text = decimal(cell.mean)
    if cell.half_width is not None:
        text += f" ± {cell.half_width:.3f}"
    if cell.n < cell.n_planned:
        text += f" ({cell.n}/{cell.n_planned})"
    return text + ("†" if cell.diverged else "") + ("✗" if cell.failed else "") + ("§" if cell.stale else "")


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"


def _width(value: float | None) -> str:
    return "-" if value is None else f"±{value:.3f}"


def _cost(line: Entry) -> str:
    """Format the cost of a line, e.g. "1.2 GPU h, $0.87"; empty if nothing is known."""
    known = [(value, unit) for value, unit in ((line.gpu_hours, "GPU"), (line.cpu_hours, "CPU")) if value is not None]
    texts = [f"{_seconds(h)} {unit} h" if h >= 0.01 else f"{_seconds(3600 * h)} {unit} s" for h, unit in known]
    if line.usd is not None:
        texts.append("<$0.01" if 0 < line.usd < 0.005 else f"${line.usd:.2f}")
    return ", ".join(texts)


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
    captions = [
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
