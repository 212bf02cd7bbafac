"""One style for every figure: colours that the colour-blind tell apart, shapes that survive a grey print.

Colours are Okabe and Ito's without yellow and black, which vanish on white and on black paper.  Every
line has a marker and a dash of its own as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#010203"  # of text and axes; a page puts its own text colour in its place
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (3, 1)),
    (0, (8, 2)),
    ":",
    "-.",
)
NORMAL, ABNORMAL = COLOURS[0], COLOURS[1]
LINES = len(COLOURS)  # that one figure shows at most
WIDTH = 7.6  # inches of a figure across the page

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, read aloud
    "pdf.fonttype": 42,
    "text.parse_math": False,  # names come from users
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "legend.fontsize": 8.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 5.0,
    "errorbar.capsize": 2.0,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Look:
    """How one line is drawn, wherever it is drawn."""

    colour: str
    marker: str
    dash: Any


@dataclass(frozen=True)
class Drawing:
    """A finished figure.

    Attributes:
        name: file stem.
        title: what is shown, a few words.
        caption: how it was made and what it does not say.
        svg, pdf: files; equal bytes for equal contents.
    """

    name: str
    title: str
    caption: str
    svg: bytes
    pdf: bytes


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name in order: the first ones differ in everything, the next in shape."""
    found = {}
    for number, name in enumerate(dict.fromkeys(names)):
        shape = (number + 3 * (number // LINES)) % LINES
        found[name] = Look(COLOURS[number % LINES], MARKERS[shape], DASHES[shape])
    return found


@contextmanager
def use_style() -> Iterator[None]:
    """Our style, and nothing of the user's matplotlibrc."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def canvas(rows: int, columns: int, width: float, height: float, **shared: Any) -> tuple[Figure, list[list[Axes]]]:
    """A figure with rows x columns axes; within `styled`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    return figure, [list(row) for row in axes]


def save(name: str, title: str, caption: str, figure: Figure) -> Drawing:
    """Save a figure, within `styled`; no date, no random names, so equal figures are equal bytes."""
    stem = slug(name)
    with matplotlib.rc_context({"svg.hashsalt": stem}):
        svg, pdf = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Title": printable(title)})
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    return Drawing(stem, title, caption, svg.getvalue(), pdf.getvalue())


def legend(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """One legend above all axes; nothing where nothing has a label."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=3.0)


def slug(name: str) -> str:
    """A file name without surprises."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:120] or "figure"


def printable(text: str) -> str:
    """Without line breaks and what XML forbids."""
    return "".join(character if character.isprintable() else " " for character in text)
