"""Sheet: a table of texts, and the functions that write boards, lines and numbers into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.catalog import DETECTORS
from sweep.leaderboard.board import METRICS, Board, Entry, Leaderboard

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
    """

    text: str
    bold: bool = False
    line: tuple[str, str, str, str] | None = None
    abnormal: str | None = None


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


def decimal(value: float | None, form: str = ".3f") -> str:
    """Format a number, by default with three decimals; "-" for None."""
    return "-" if value is None else format(value, form)


def probability(value: float) -> str:
    """Format a p-value: three decimals, or "<0.001"."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def value_text(value: object) -> str:
    """Format the value of a hyperparameter, e.g. 50.0 as "50"."""
    return f"{value:g}" if isinstance(value, float) else str(value)
