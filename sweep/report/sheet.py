"""A table of texts, and how boards, lines and numbers are written in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.catalog import DETECTORS
from sweep.leaderboard.board import METRICS, Board, Entry, Leaderboard

CLASS_MEAN = "class mean"
CLASS_GROUP = "abnormal class"


@dataclass(frozen=True)
class SheetCell:
    """One cell as text.

    Attributes:
        line, abnormal: the line and class whose trials it sums up; no class for all of them, no line for none.
    """

    text: str
    bold: bool = False
    line: tuple[str, str, str, str] | None = None
    abnormal: str | None = None


@dataclass(frozen=True)
class Sheet:
    """One table: sections (heading, lines), each line a label and as many entries as columns.

    The first `lead` columns sum up the others, each of which is a `group`, e.g. an abnormal class.
    """

    title: str
    label: str
    columns: tuple[str, ...]
    sections: tuple[tuple[str, tuple[tuple[str, tuple[SheetCell, ...]], ...]], ...]
    captions: tuple[str, ...] = ()
    lead: int = 0
    group: str = ""


def averaged_over(classes: Sequence[str]) -> str:
    """What a number of a grid is about: "Class mean over 0, 1", or "Class 2 abnormal" where there is but one."""
    return f"Class {classes[0]} abnormal" if len(classes) == 1 else f"Class mean over {', '.join(classes)}"


def board_title(leaderboard: Leaderboard, board: Board) -> str:
    """E.g. "digits D1: AUROC, last epoch, clean"."""
    evaluation = leaderboard.evaluation.replace("_", " ")
    how = f"{METRICS[leaderboard.metric]}, {leaderboard.selection} epoch, {evaluation}"
    return f"{board.dataset} {board.protocol}: {how}"


def line_label(line: Entry, lines: Sequence[Entry]) -> str:
    """Detector, variant unless it has only one, setting, and the study where it takes that to tell."""
    info = DETECTORS.get(line.detector)
    variant = "" if info is not None and len(info.variants) == 1 else line.variant
    alike = [other for other in lines if other.name[1:] == line.name[1:]]
    study = f"({line.study})" if len(alike) > 1 else ""
    parts = (line.detector, variant, line.setting, study)
    return " ".join(part for part in parts if part) + ("‡" if line.supervised else "")


def decimal(value: float | None, form: str = ".3f") -> str:
    """Three digits; "-" for none."""
    return "-" if value is None else format(value, form)


def probability(value: float) -> str:
    """A p-value."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def value_text(value: object) -> str:
    """A hyperparameter's value, e.g. "50" of 50.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)
