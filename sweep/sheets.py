"""What a report shows, whatever shows it: tables of texts with captions that explain their marks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from models.catalog import DETECTORS
from sweep.audit import Audit
from sweep.leaderboard import LOWER_IS_BETTER, METRICS, Board, Cell, Grid, Leaderboard, Line

CLASS_MEAN = "class mean"


@dataclass(frozen=True)
class Entry:
    """One cell as text."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Sheet:
    """One table: sections (heading, lines), each line a label and as many entries as columns.

    The first `lead` columns sum up the others.
    """

    title: str
    label: str
    columns: tuple[str, ...]
    sections: tuple[tuple[str, tuple[tuple[str, tuple[Entry, ...]], ...]], ...]
    captions: tuple[str, ...] = ()
    lead: int = 0


def sheets(leaderboard: Leaderboard, audited: Sequence[Audit]) -> Iterator[Sheet]:
    """Each board with what the papers say and its grids; then the audits."""
    for board in leaderboard.boards:
        if board.lines:
            yield _board_sheet(leaderboard, board)
        if any(cell.paper is not None for line in board.lines for cell in line.cells.values()):
            yield _paper_sheet(leaderboard, board)
        for grid in board.grids:
            yield _grid_sheet(leaderboard, board, grid)
    for audit in audited:
        yield _audit_sheet(audit, METRICS[leaderboard.metric])


def _board_sheet(leaderboard: Leaderboard, board: Board) -> Sheet:
    lines = board.lines
    extra: dict[str, list[Entry]] = {}
    if any(line.mean.diverged for line in lines):
        extra["diverged = chance"] = [Entry(_decimal(line.mean.counted), line.mean.best) for line in lines]
    if any(line.gap is not None for line in lines):
        extra["gap"] = [Entry("" if line.trivial else _decimal(line.gap, "+.3f")) for line in lines]
    if any(line.train_seconds is not None for line in lines):
        extra["train s"] = [Entry(_seconds(line.train_seconds)) for line in lines]
    shown = []
    for index, line in enumerate(lines):
        mark = "≈" if board.tested and line.contender and not line.mean.best else ""
        prefix = "" if line.ranked or line.mean.mean is None else "~"
        mean = Entry(prefix + _number(line.mean) + mark, line.mean.best)
        classes = [_entry(line.cells.get(abnormal)) for abnormal in board.classes]
        entries = (mean, *(column[index] for column in extra.values()), *classes)
        shown.append((line.trivial, (_label(line, lines), entries)))
    sections = tuple(
        (heading, tuple(line for is_trivial, line in shown if is_trivial == trivial))
        for heading, trivial in (("", False), ("trivial detectors", True))
    )
    return Sheet(
        _title(leaderboard, board),
        "detector",
        (CLASS_MEAN, *extra, *board.classes),
        tuple(section for section in sections if section[1]),
        tuple(_captions(leaderboard, board)),
        lead=1 + len(extra),
    )


def _paper_sheet(leaderboard: Leaderboard, board: Board) -> Sheet:
    lines = []
    for line in board.lines:
        cells = [line.mean, *(line.cells.get(abnormal, Cell()) for abnormal in board.classes)]
        if any(cell.paper is not None for cell in cells):
            texts = ["" if c.paper is None else f"{c.paper:.3f} ({_decimal(c.difference, '+.3f')})" for c in cells]
            lines.append((_label(line, board.lines), tuple(Entry(text) for text in texts)))
    caption = (
        "The paper's value, and ours minus it in brackets.  Not the same experiment: papers print the best "
        "epoch on the test set of one run, normalised with test batches' own statistics."
    )
    if any(line.detector in ("anogan", "egbad") and board.dataset == "mnist" for line in board.lines):
        caption += "  AnoGAN's and EGBAD's on MNIST are probably average precision."
    title = f"{_title(leaderboard, board)}, beside the papers"
    return Sheet(title, "detector", (CLASS_MEAN, *board.classes), (("", tuple(lines)),), (caption,))


def _grid_sheet(leaderboard: Leaderboard, board: Board, grid: Grid) -> Sheet:
    lines = []
    for line in grid.lines:
        default = " (default)" if line.value == grid.default else ""
        prefix = "" if line.ranked or line.mean.mean is None else "~"
        lines.append((f"{line.value}{default}", (Entry(prefix + _number(line.mean)),)))
    title = f"{_title(leaderboard, board)}, {grid.study}: {grid.detector} {grid.variant}"
    return Sheet(title, grid.axis, (CLASS_MEAN,), (("", tuple(lines)),))


def _audit_sheet(audit: Audit, metric: str) -> Sheet:
    shown = [line for line, _ in audit.lines]
    lines = [
        (_label(line, shown), tuple(Entry(_number(means[way]) if way in means else "·") for way in audit.ways))
        for line, means in audit.lines
    ]
    caption = (
        "Class means of the same trained detectors.  legacy: scored as published code does, BatchNorm normalising "
        "by each test batch of 64; ordered: normals first, so nearly every batch is of one kind and its statistics "
        "tell which; shuffled: in a random order.  oracle: the best epoch on the test set itself.  What the columns "
        "add to the first one is protocol, not detection."
    )
    columns = tuple(f"{evaluation.replace('_', ' ')}, {selection}" for evaluation, selection in audit.ways)
    return Sheet(
        f"{audit.dataset} {audit.protocol}: {metric}, audit", "detector", columns, (("", tuple(lines)),), (caption,)
    )


def _title(leaderboard: Leaderboard, board: Board) -> str:
    how = f"{METRICS[leaderboard.metric]}, {leaderboard.selection} epoch, {leaderboard.evaluation}"
    return f"{board.dataset} {board.protocol}: {how}"


def _captions(leaderboard: Leaderboard, board: Board) -> Iterator[str]:
    """What a reader of this board must know; marks are explained where they occur."""
    cells = [cell for line in board.lines for cell in (line.mean, *line.cells.values())]
    better = "lower" if leaderboard.metric in LOWER_IS_BETTER else "higher"
    yield (
        f"By abnormal class, mean ± half-width of the 95 % t-interval over seeds; {better} is better, the "
        "best bold.  Class mean: over classes within each seed, then mean ± over seeds."
    )
    if leaderboard.selection == "oracle":
        yield "oracle: the best epoch on the test set itself, hence too good."
    if any(line.gap is not None for line in board.lines):
        yield "gap: class mean minus that of the best trivial detector."
    if any(line.contender and not line.mean.best for line in board.lines):
        yield (
            "≈ not significantly worse than the best: paired t over classes, seeds averaged, Holm, 5 %; "
            "classes share training images, so p is approximate."
        )
    if any(cell.n < cell.n_planned for cell in cells):
        yield "(2/3): seeds there are of seeds planned."
    if any(not line.ranked for line in board.lines):
        yield "~ not ranked: no seed has a value in every class of the board."
    if any(cell.failed for cell in cells):
        yield "✗ a trial failed."
    if any(cell.diverged for cell in cells):
        yield "† a trial diverged: left out of the mean; chance where it is ranked, tested and in the gap."
    if any(line.supervised for line in board.lines):
        yield "‡ supervised: labels of the reported class chose its hyperparameters."


def _label(line: Line, lines: Sequence[Line]) -> str:
    """Detector, variant unless it has only one, setting, and the study where it takes that to tell."""
    info = DETECTORS.get(line.detector)
    variant = "" if info is not None and len(info.variants) == 1 else line.variant
    alike = [other for other in lines if other.name[1:] == line.name[1:]]
    study = f"({line.study})" if len(alike) > 1 else ""
    parts = (line.detector, variant, line.setting, study)
    return " ".join(part for part in parts if part) + ("‡" if line.supervised else "")


def _entry(cell: Cell | None) -> Entry:
    return Entry("·") if cell is None else Entry(_number(cell), cell.best)


def _number(cell: Cell) -> str:
    """E.g. "0.873 ± 0.021 (2/3)†"."""
    text = _decimal(cell.mean)
    if cell.half_width is not None:
        text += f" ± {cell.half_width:.3f}"
    if cell.n < cell.n_planned:
        text += f" ({cell.n}/{cell.n_planned})"
    return text + ("†" if cell.diverged else "") + ("✗" if cell.failed else "")


def _decimal(value: float | None, form: str = ".3f") -> str:
    return "-" if value is None else format(value, form)


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"
