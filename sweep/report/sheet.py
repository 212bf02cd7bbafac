"""Sheet: a table of texts, and the functions that write boards, lines and numbers into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from models.catalog import DETECTORS
from sweep.leaderboard.board import Board, Leaderboard
from sweep.leaderboard.entry import METRICS, Cell, Entry

CLASS_MEAN = "class mean"
CLASS_GROUP = "abnormal class"


@dataclass(frozen=True)
class SheetCell:
    """One cell of a sheet.

    Attributes:
        text: displayed text.
        bold: True for the best of its column.
        line: name of the line whose trials the cell summarises; None if it summarises none.
        abnormal: abnormal class of these trials; None for all classes.
        hint: text that the page shows on hover, e.g. the sizes of the test set.
    """

    text: str
    bold: bool = False
    line: tuple[str, str, str, str] | None = None
    abnormal: str | None = None
    hint: str = ""


@dataclass(frozen=True)
class Sheet:
    """One table of a report.

    Attributes:
        title: text above the table.
        label: heading of the first column, which holds the labels of the lines.
        columns: headings of the other columns.
        sections: (heading, lines); a line is its label and one cell for each of `columns`.
        captions: texts below the table that explain its numbers and marks.
        lead: number of columns at the start that summarise the others.
        group: what each of the other columns is, e.g. "abnormal class".
    """

    title: str
    label: str
    columns: tuple[str, ...]
    sections: tuple[tuple[str, tuple[tuple[str, tuple[SheetCell, ...]], ...]], ...]
    captions: tuple[str, ...] = ()
    lead: int = 0
    group: str = ""


def averaged_over(classes: Sequence[str]) -> str:
    """Describe the numbers of a grid: "Class mean over 0, 1", or "Class 2 abnormal" for a single class."""
    return f"Class {classes[0]} abnormal" if len(classes) == 1 else f"Class mean over {', '.join(classes)}"


def board_title(leaderboard: Leaderboard, board: Board) -> str:
    """Return the title of a board's sheet, e.g. "digits D1: AUROC, last epoch, clean"."""
    evaluation = leaderboard.evaluation.replace("_", " ")
    how = f"{METRICS[leaderboard.metric]}, {leaderboard.selection} epoch, {evaluation}"
    return f"{board.dataset} {board.protocol}: {how}"


def line_label(line: Entry, lines: Sequence[Entry]) -> str:
    """Return the label of a line: detector, variant, setting and study.

    The variant is omitted if the detector has only one, and the study if no other line has the same label.
    "‡" marks supervised lines.
    """
    info = DETECTORS.get(line.detector)
    variant = "" if info is not None and len(info.variants) == 1 else line.variant
    alike = [other for other in lines if other.name[1:] == line.name[1:]]
    study = f"({line.study})" if len(alike) > 1 else ""
    parts = (line.detector, variant, line.setting, study)
    return " ".join(part for part in parts if part) + ("‡" if line.supervised else "")


def cell_text(cell: Cell) -> str:
    """Format a cell with the range of its seeds and its marks, e.g. "0.718 (0.443-0.912) (2/3)†".

    A deterministic detector has no seeds, and shows its interval instead.
    """
    text = decimal(cell.mean)
    if cell.n > 1:
        text += f" ({decimal(cell.least)}-{decimal(cell.most)})"
    elif cell.low is not None:
        text += f" {interval_text(cell.low, cell.high)}"
    return text + _marks(cell)


def mean_text(cell: Cell) -> str:
    """Format a class mean with its 95 % interval and its marks, e.g. "0.718 [0.521, 0.871] (2/3)†"."""
    text = decimal(cell.mean)
    return (text if cell.low is None else f"{text} {interval_text(cell.low, cell.high)}") + _marks(cell)


def interval_text(low: float | None, high: float | None, form: str = ".3f") -> str:
    """Format an interval, e.g. "[0.521, 0.871]"."""
    return f"[{decimal(low, form)}, {decimal(high, form)}]"


def _marks(cell: Cell) -> str:
    count = f" ({cell.n}/{cell.n_planned})" if cell.n < cell.n_planned else ""
    return count + ("†" if cell.diverged else "") + ("✗" if cell.failed else "") + ("§" if cell.stale else "")


def explain_marks(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield an explanation of each mark that occurs in the cells."""
    if any(cell.n < cell.n_planned for cell in cells):
        yield "(2/3): seeds with a value / seeds planned."
    if any(cell.mean is None for cell in cells):
        yield "- no value."
    if any(cell.stale for cell in cells):
        yield "§ a trial has only a result of older code or another arithmetic: not counted, and the trial runs again."
    if any(cell.failed for cell in cells):
        yield "✗ a trial failed."
    if any(cell.diverged for cell in cells):
        yield "† a trial diverged: the mean excludes it; ranking, tests and gap count it as chance."


def explain_intervals(lines: Sequence[Entry], metric: str) -> Iterator[str]:
    """Yield what the intervals of some lines are, and over how many seeds."""
    if counts := seeds_text(lines):
        yield (
            f"[low, high]: 95 % t-interval over {counts} on the logit scale; the class mean is averaged over classes "
            "within each seed first."
        )
    if any(line.first_seeds is not None for line in lines):
        yield (
            "The first seeds of a line decided how many more it got.  Its class mean has Stein's interval, which keeps "
            "their spread and degrees of freedom."
        )
    if any(line.exact and line.mean.n == 1 for line in lines):
        what = "[low, high] is DeLong's 95 % interval for the finite test set" if metric == "auroc" else "no interval"
        yield f"A deterministic detector (knn, pca, ...) has no seeds: {what}."
    if any(line.mean.n == 1 and not line.exact for line in lines):
        yield "A single seed has no interval."


def seeds_text(lines: Sequence[Entry]) -> str:
    """Return the number of seeds of the lines that have several, e.g. "5 seeds" or "3 to 5 seeds"; "" without any."""
    counts = sorted({cell.n for line in lines for cell in (line.mean, *line.cells.values()) if cell.n > 1})
    if not counts:
        return ""
    return f"{counts[0]} seeds" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} seeds"


def decimal(value: float | None, form: str = ".3f") -> str:
    """Format a number, by default with three decimals; "-" for None."""
    return "-" if value is None else format(value, form)


def probability(value: float) -> str:
    """Format a p-value: three decimals, or "<0.001"."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def value_text(value: object) -> str:
    """Format the value of a hyperparameter, e.g. 50.0 as "50"."""
    return f"{value:g}" if isinstance(value, float) else str(value)
