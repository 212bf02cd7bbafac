"""Sheets of one board: its numbers, its comparisons, and the error of its finite test set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweep.leaderboard.board import FEWEST_CLASSES, Board, Leaderboard, groups
from sweep.leaderboard.departures import board_captions
from sweep.leaderboard.entry import LOWER_IS_BETTER, METRICS, Cell, Entry
from sweep.report.cautions import cautions
from sweep.report.pretraining import pretraining_captions
from sweep.report.sheet import (
    CLASS_GROUP,
    CLASS_MEAN,
    Sheet,
    SheetCell,
    board_title,
    cell_text,
    decimal,
    explain_intervals,
    explain_marks,
    interval_text,
    line_label,
    mean_text,
    probability,
    seeds_text,
)

NO_TRAINING, FEWER_CLASSES, INCOMPLETE = "no training", "fewer classes", "incomplete, not ranked"
COMPARISON = ("leader ahead by", "95 %", "p Holm", "se seeds", "se test set", "verdict")
OVER_CLASSES = ("best minus this", "d_z", "classes won", "p", "p Holm", "p signed rank")


def board_sheets(leaderboard: Leaderboard, board: Board) -> Iterator[Sheet]:
    """Yield the sheets of a board with lines: numbers, comparison, other classes, finite test set.

    Args:
        leaderboard: leaderboard that is shown.
        board: one of its boards.
    """
    yield _board_sheet(leaderboard, board)
    if any(line.behind is not None for line in board.lines):
        yield _comparison_sheet(leaderboard, board)
    if any(line.over_classes is not None for line in board.lines):
        yield _over_classes_sheet(leaderboard, board)
    if any(line.mean.test_half_width is not None for line in board.lines):
        yield _test_set_sheet(leaderboard, board)


def _board_sheet(leaderboard: Leaderboard, board: Board) -> Sheet:
    lines = board.lines
    extra: dict[str, list[SheetCell]] = {}
    if any(not line.ranked for line in lines):
        extra["missing"] = [SheetCell(_missing(line)) for line in lines]
    for other in leaderboard.beside:
        means = {line.name: line.mean for found in _same_boards(other, board) for line in found.lines}
        title = METRICS[other.metric]
        extra[title] = [
            SheetCell(mean_text(m := means[n.name]), m.best) if n.name in means else SheetCell("·") for n in lines
        ]
    if any(line.mean.diverged for line in lines):
        extra["diverged = chance"] = [SheetCell(decimal(line.mean.counted), line.mean.best) for line in lines]
    if any(line.gap is not None for line in lines):
        extra["gap"] = [SheetCell("" if line.reference else decimal(line.gap, "+.3f")) for line in lines]
    if any(line.parameters is not None for line in lines):
        extra["parameters"] = [SheetCell("-" if n.parameters is None else f"{n.parameters:,}") for n in lines]
    if any(line.train_seconds is not None for line in lines):
        extra["train s"] = [SheetCell(_seconds(line.train_seconds)) for line in lines]
    if any(_cost(line) for line in lines):
        extra["cost"] = [SheetCell(_cost(line) or "-") for line in lines]
    sections: dict[str, list[tuple[str, tuple[SheetCell, ...]]]] = {
        heading: [] for heading in ("", NO_TRAINING, FEWER_CLASSES, INCOMPLETE)
    }
    whole = {line.name for line in next(iter(groups(lines)), ())}
    for index, line in enumerate(lines):
        mark = "≈" if line.contender and line.behind is not None else ""
        mean = SheetCell(mean_text(line.mean) + mark, line.mean.best, line.name)
        classes = [_entry(line, abnormal) for abnormal in board.classes]
        entries = (mean, *(column[index] for column in extra.values()), *classes)
        sections[_section(line, line.name in whole)].append((line_label(line, lines), entries))
    return Sheet(
        board_title(leaderboard, board),
        "detector",
        (CLASS_MEAN, *extra, *board.classes),
        tuple((heading, tuple(found)) for heading, found in sections.items() if found),
        tuple(_captions(leaderboard, board)),
        lead=1 + len(extra),
        group=CLASS_GROUP,
    )


def _same_boards(other: Leaderboard, board: Board) -> list[Board]:
    return [found for found in other.boards if (found.dataset, found.protocol) == (board.dataset, board.protocol)]


def _section(line: Entry, whole: bool) -> str:
    if not line.ranked:
        return INCOMPLETE
    if not whole:
        return FEWER_CLASSES
    return NO_TRAINING if line.reference else ""


def missing_trials(line: Entry) -> tuple[int, int]:
    """Return how many trials of a line have no result, and how many are planned."""
    planned = sum(cell.n_planned for cell in line.cells.values())
    return planned - sum(cell.n + cell.diverged for cell in line.cells.values()), planned


def _missing(line: Entry) -> str:
    missing, planned = missing_trials(line)
    if missing:
        return f"{missing} of {planned}"
    lost = [name for name, cell in line.cells.items() if not cell.n]
    return f"all diverged: {', '.join(lost)}" if lost else ""


def _entry(line: Entry, abnormal: str) -> SheetCell:
    cell = line.cells.get(abnormal)
    if cell is None:
        return SheetCell("·")
    return SheetCell(cell_text(cell), cell.best, line.name, abnormal, _hint(cell))


def _hint(cell: Cell) -> str:
    """Return the interval of a cell, and the sizes of its test set."""
    texts = [] if cell.low is None else [f"95 % {interval_text(cell.low, cell.high)}"]
    if cell.n_normal is not None and cell.n_abnormal is not None:
        texts.append(f"{cell.n_normal:,} normal and {cell.n_abnormal:,} abnormal test images")
    return ", ".join([*texts, f"{cell.n} of {cell.n_planned} seeds"])


def _captions(leaderboard: Leaderboard, board: Board) -> Iterator[str]:
    """Yield the captions of a board; each mark is explained only if it occurs."""
    cells = [cell for line in board.lines for cell in (line.mean, *line.cells.values())]
    better = "lower" if leaderboard.metric in LOWER_IS_BETTER else "higher"
    counts = seeds_text(board.lines)
    shown = f"mean over {counts} (lowest-highest)" if counts else "the value of a single seed"
    yield f"For each abnormal class: {shown}; {better} is better, the best is bold."
    yield from explain_intervals(board.lines, leaderboard.metric)
    if leaderboard.selection == "oracle":
        yield "oracle: the best epoch on the test set itself, so these numbers are too good, and are not compared."
    if any(line.gap is not None for line in board.lines):
        yield "gap: class mean minus that of the best detector without training."
    if any(line.contender and line.behind is not None for line in board.lines):
        yield ("≈ cannot be told from the best on these classes: seeds and finite test set, Holm-corrected, 5 % level.")
    yield from explain_marks(cells)
    if any(not line.ranked for line in board.lines):
        yield "incomplete: a planned trial has no result, or every seed of a class diverged; no rank, no comparison."
    if any(abnormal not in line.cells for line in board.lines for abnormal in board.classes):
        yield "· not part of the line's study."
    if any(_cost(line) for line in board.lines):
        yield (
            "parameters: number of trained parameters.  train s: mean training time of one trial in seconds.  cost: "
            "hours of CPU cores or GPUs, summed over the line's trials on this board.  It excludes failed attempts and "
            "the candidate trials of a search."
        )
    yield from pretraining_captions(board.lines)
    yield from cautions(board)
    yield from board_captions(board)
    yield from _sizes(board)


def _sizes(board: Board) -> Iterator[str]:
    """Yield the sizes of the test sets."""
    counts = [(cell.n_normal, cell.n_abnormal) for line in board.lines for cell in line.cells.values() if cell.n_normal]
    if counts:
        normal, abnormal = (_range([c for c in column if c is not None]) for column in zip(*counts, strict=True))
        yield f"Test images of a cell: {normal} normal, {abnormal} abnormal; the CSV has those of each cell."


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _comparison_sheet(leaderboard: Leaderboard, board: Board) -> Sheet:
    lines, leaders = [], dict[str, None]()
    for group in groups(board.lines):
        for line in group[1:]:
            if line.behind is None or line.p_holm is None:
                continue
            leaders[line_label(group[0], board.lines)] = None
            found = line.behind
            verdict = f"not told apart: {found.source}" if line.contender else "worse"
            texts = (
                f"{found.mean:+.3f}", interval_text(found.low, found.high, "+.3f"), probability(line.p_holm),
                f"{found.seeds:.4f}", f"{found.test:.4f}", verdict,
            )  # fmt: skip
            lines.append((line_label(line, board.lines), tuple(map(SheetCell, texts))))
    part = "" if leaderboard.metric == "auroc" else "  Only the seeds are counted: DeLong's error is one of AUROC."
    captions = (
        "Difference of the class means on these classes.  se seeds: standard error from the seeds of training.  se "
        "test set: DeLong's, from the finite test set, whose images both share.  95 %: with both.  p Holm: adjusted "
        f"for {_comparisons(lines)}.  not told apart: p Holm above 0.05, with the larger error; more of that would "
        f"help.{part}",
    )
    title = f"{board_title(leaderboard, board)}, {' and '.join(leaders)} against the others"
    return Sheet(title, "detector", COMPARISON, (("", tuple(lines)),), captions)


def _over_classes_sheet(leaderboard: Leaderboard, board: Board) -> Sheet:
    lines = []
    for line in board.lines:
        found = line.over_classes
        if found is None or line.over_classes_holm is None:
            continue
        effect = "-" if found.effect is None else f"{found.effect:+.2f}"
        won = f"{found.wins:g}/{found.n}"
        numbers = (probability(found.p), probability(line.over_classes_holm), probability(found.p_signed_rank))
        texts = (f"{found.mean:+.3f} ± {found.half_width:.3f}", effect, won, *numbers)
        lines.append((line_label(line, board.lines), tuple(SheetCell(text) for text in texts)))
    captions = (
        "Would the leader also be ahead on other classes?  Unit of analysis: the class, averaged over seeds; a "
        "diverged trial counts as chance.  best minus this: mean difference with its 95 % t-interval over classes.  "
        "d_z: Cohen's d for pairs, the mean difference divided by the standard deviation of the differences.  p: "
        f"paired t test.  p Holm: adjusted for {_comparisons(lines)} with the best.  p signed rank: Wilcoxon's exact "
        "signed-rank test.",
        "Caution: classes of one dataset are dependent: they share training and test images, and a class that is "
        "normal in one column is abnormal in another.  Treat p as approximate, and draw no conclusion about other "
        "datasets.",
    )
    return Sheet(
        f"{board_title(leaderboard, board)}, other classes", "detector", OVER_CLASSES, (("", tuple(lines)),), captions
    )


def _comparisons(lines: Sequence[object]) -> str:
    return f"{len(lines)} comparison{'s' if len(lines) > 1 else ''}"


def other_classes(board: Board) -> str:
    """Return why the question about other classes is not tested; "" if it is."""
    if any(line.over_classes is not None for line in board.lines):
        return ""
    return (
        f"not tested: {len(board.classes)} class{'es' if len(board.classes) > 1 else ''}, a test needs {FEWEST_CLASSES}"
    )


def _test_set_sheet(leaderboard: Leaderboard, board: Board) -> Sheet:
    lines = []
    for line in board.lines:
        cells = (line.mean, *(line.cells.get(abnormal, Cell()) for abnormal in board.classes))
        lines.append((line_label(line, board.lines), tuple(SheetCell(_width(cell.test_half_width)) for cell in cells)))
    caption = (
        "Uncertainty from the finite test set: half-width of DeLong's 95 % interval, separate from the interval over "
        "seeds.  Seeds and classes share test images.  Their errors are treated as fully correlated here, so each "
        "half-width is an upper bound."
    )
    title = f"{board_title(leaderboard, board)}, finite test set"
    return Sheet(title, "detector", (CLASS_MEAN, *board.classes), (("", tuple(lines)),), (caption,))


def _width(value: float | None) -> str:
    return "-" if value is None else f"±{value:.3f}"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"


def _cost(line: Entry) -> str:
    """Format the cost of a line, e.g. "1.2 GPU h, $0.87"; empty if nothing is known."""
    known = [(value, unit) for value, unit in ((line.gpu_hours, "GPU"), (line.cpu_hours, "CPU")) if value is not None]
    texts = [f"{_seconds(h)} {unit} h" if h >= 0.01 else f"{_seconds(3600 * h)} {unit} s" for h, unit in known]
    if line.usd is not None:
        texts.append("<$0.01" if 0 < line.usd < 0.005 else f"${line.usd:.2f}")
    return ", ".join(texts)
