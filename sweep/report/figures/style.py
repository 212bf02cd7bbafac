"""One style for every figure: colours for colour-blind readers, and shapes that survive a grey print.

The colours are those of Okabe and Ito without yellow and black, which are invisible on a white or a black page.
Every line also has its own marker and dash pattern.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sweep.console import printable

INK = "#010203"  # colour of text and axes; the HTML page replaces it by its own text colour
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
LINES = len(COLOURS)  # maximum number of lines in one figure
WIDTH = 7.6  # inches: a figure as wide as the page

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small files, searchable, readable by a screen reader
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
    """Colour, marker and dash pattern of one line, the same in every figure."""

    colour: str
    marker: str
    dash: Any


Curves = Mapping[str, Sequence[float]]  # values by epoch, by name; "epoch" itself is one of the names


@dataclass(frozen=True)
class Drawing:
    """A finished figure.

    Attributes:
        name: file name without its extension.
        title: a few words on what is shown.
        caption: how the figure was made, and its limits.
        svg, pdf: bytes of the files; equal figures give equal bytes.
        curves: of learning curves, the numbers behind them by trial key, for the page; None where there is no value.
    """

    name: str
    title: str
    caption: str
    svg: bytes
    pdf: bytes
    curves: Mapping[str, Mapping[str, Sequence[float | None]]] = field(default_factory=dict)

    def with_curves(self, curves: Mapping[str, Mapping[str, Sequence[float | None]]]) -> Drawing:
        """Return this figure with its numbers."""
        return replace(self, curves=curves)


def assign_looks(names: Iterable[str]) -> dict[str, Look]:
    """Assign a look to each name, in order.

    The first `LINES` differ in colour, marker and dash; later ones repeat the colours with other shapes.
    """
    assigned = {}
    for number, name in enumerate(dict.fromkeys(names)):
        shape = (number + 3 * (number // LINES)) % LINES
        assigned[name] = Look(COLOURS[number % LINES], MARKERS[shape], DASHES[shape])
    return assigned


@contextmanager
def use_style() -> Iterator[None]:
    """Use this style within the block, and ignore the user's matplotlibrc."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def canvas(rows: int, columns: int, width: float, height: float, **shared: Any) -> tuple[Figure, list[list[Axes]]]:
    """Make a figure with rows x columns axes; call within `use_style`.

    Args:
        rows, columns: numbers of panels.
        width, height: inches.
        shared: `sharex`, `sharey` of matplotlib's `subplots`.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    return figure, [list(row) for row in axes]


def save(name: str, title: str, caption: str, figure: Figure) -> Drawing:
    """Save a figure as SVG and PDF; call within `use_style`.

    The files have no date and no random ids, so equal figures give equal bytes.
    """
    stem = slug(name)
    with matplotlib.rc_context({"svg.hashsalt": stem}):
        svg, pdf = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Title": printable(title)})
        figure.savefig(pdf, format="pdf", metadata={"CreationDate": None})
    return Drawing(stem, title, caption, svg.getvalue(), pdf.getvalue())


def legend(figure: Figure, axes: Axes, columns: int = 4) -> None:
    """Put one legend above all axes, if anything has a label."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=3.0)


def slug(name: str) -> str:
    """Return a file name of at most 120 letters, digits, ".", "_" and "-"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:120] or "figure"
