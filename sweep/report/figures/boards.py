"""Figures of a board's numbers: error bars by class, and a metric against a hyperparameter."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from sweep.console import printable
from sweep.leaderboard.board import Board, Grid, Leaderboard
from sweep.leaderboard.entry import METRICS, Cell
from sweep.report.figures.style import INK, LINES, WIDTH, Drawing, Look, assign_looks, canvas, legend, save
from sweep.report.sheet import averaged_over, board_title, line_label, value_text
from sweep.report.sheets import WIDE_NZ

Looks = Mapping[str, Look]
BARS = (
    "Mean over seeds with its 95 % t-interval on the logit scale, and each seed as a dot; a detector without seeds has "
    "DeLong's interval for the finite test set."
)
LABEL_INCHES = 0.25  # minimum distance between two tick labels


def error_bars(leaderboard: Leaderboard, board: Board, line_looks: Looks) -> Iterator[Drawing]:
    """Draw each class, and the class mean, with error bars over seeds."""
    lines = board.lines[:LINES]
    if not lines:
        return
    figure, [[axes]] = canvas(1, 1, WIDTH, 3.4)
    groups = [*board.classes, "class mean"]
    step = 0.8 / len(lines)
    for number, line in enumerate(lines):
        label = line_label(line, board.lines)
        cells = [*(line.cells.get(abnormal, Cell()) for abnormal in board.classes), line.mean]
        shift = (number - (len(lines) - 1) / 2) * step
        shown = [(at + shift + 0.4 * (at == len(groups) - 1), cell) for at, cell in enumerate(cells)]
        _points(axes, [(x, cell) for x, cell in shown if cell.mean is not None], line_looks[label], label, joined=False)
    axes.axvline(len(groups) - 1.3, color=INK, linewidth=0.8, alpha=0.5)
    axes.set_xticks([*range(len(groups) - 1), len(groups) - 0.6], [printable(group) for group in groups])
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("abnormal class")
    measure(axes, leaderboard.metric)
    legend(figure, axes)
    caption = f"{BARS}  Dashed: chance.{_left_out(len(board.lines))}"
    name = f"{board.dataset}-{board.protocol}-error-bars"
    yield save(name, f"{board_title(leaderboard, board)}: by abnormal class", caption, figure)


def against_hyperparameters(leaderboard: Leaderboard, board: Board) -> Iterator[Drawing]:
    """Draw one figure per grid study: a panel for each varied hyperparameter, a line for each detector."""
    studies: dict[str, dict[str, list[Grid]]] = {}
    for grid in board.grids:
        studies.setdefault(grid.study, {}).setdefault(grid.axis, []).append(grid)
    for study, axes_of in studies.items():
        yield _against(leaderboard, board, study, axes_of)


def _against(leaderboard: Leaderboard, board: Board, study: str, axes_of: Mapping[str, list[Grid]]) -> Drawing:
    names = dict.fromkeys(f"{g.detector} {g.variant}" for grids in axes_of.values() for g in grids)
    line_looks = assign_looks(names)
    columns = min(2, len(axes_of))
    rows = math.ceil(len(axes_of) / columns)
    figure, panels = canvas(rows, columns, WIDTH, 0.7 + 2.4 * rows, sharey=True)
    flat = [panel for row in panels for panel in row]
    for panel, (axis, grids) in zip(flat, axes_of.items(), strict=False):
        position = _scale(panel, [line.value for grid in grids for line in grid.lines], WIDTH / columns)
        for grid in grids[:LINES]:
            name = f"{grid.detector} {grid.variant}"
            measured = [(line.value, line.mean.mean, line.mean) for line in grid.lines if line.mean.mean is not None]
            _points(panel, [(position(value), c) for value, _, c in measured], line_looks[name], name, joined=True)
            for value, mean, _ in measured:
                if value == grid.default:
                    ring(panel, position(value), mean, line_looks[name])
        panel.set_xlabel(printable(axis))
    for panel in flat[len(axes_of) :]:
        panel.remove()
    for number, panel in enumerate(flat[: len(axes_of)]):
        measure(panel, leaderboard.metric, named=number % columns == 0, classes=True)
    entries = {label: handle for p in flat[: len(axes_of)] for handle, label in zip(*p.get_legend_handles_labels())}  # noqa: B905
    figure.legend(list(entries.values()), list(entries), loc="outside upper left", ncols=4, handlelength=3.0)
    included = {abnormal for grids in axes_of.values() for g in grids for line in g.lines for abnormal in line.cells}
    caption = (
        f"{averaged_over([c for c in board.classes if c in included])}.  {BARS}  "
        "One hyperparameter varies at a time around the default, which is ringed.  A value chosen from this figure "
        "would be chosen on the test set."
    )
    if "nz" in axes_of and any(grid.detector == "skip_ganomaly" for grid in axes_of["nz"]):
        caption += f"  {WIDE_NZ}"
    axes_named = ", ".join(axes_of)
    title = f"{board_title(leaderboard, board)}: against {axes_named}"
    return save(f"{board.dataset}-{board.protocol}-{study}", title, caption, figure)


def ring(axes: Axes, x: float, y: float, look: Look) -> None:
    """Draw a ring around one point of a line, such as its default."""
    axes.plot([x], [y], "o", markersize=12, fillstyle="none", color=look.colour)


def _points(axes: Axes, points: Sequence[tuple[float, Cell]], look: Look, label: str, *, joined: bool) -> None:
    if not points:
        return
    xs = [x for x, _ in points]
    means = [cell.mean or 0.0 for _, cell in points]
    seeds = [(x, value) for x, cell in points if cell.n > 1 for value in cell.values]
    if seeds:
        ours, values = zip(*seeds, strict=True)
        axes.plot(ours, values, ".", color=look.colour, alpha=0.35, markersize=4, zorder=1, clip_on=False)
    axes.errorbar(
        xs,
        means,
        yerr=intervals([cell for _, cell in points]),
        color=look.colour,
        marker=look.marker,
        linestyle=look.dash if joined else "none",
        elinewidth=1.1,
        label=printable(label),
    )


def intervals(cells: Sequence[Cell]) -> tuple[list[float], list[float]]:
    """Return the lengths of the error bars below and above the means; 0 without an interval."""
    below = [0.0 if cell.low is None or cell.mean is None else max(0.0, cell.mean - cell.low) for cell in cells]
    above = [0.0 if cell.high is None or cell.mean is None else max(0.0, cell.high - cell.mean) for cell in cells]
    return below, above


def measure(axes: Axes, metric: str, *, named: bool = True, classes: bool = False) -> None:
    """Label the y axis, limit it to the metric's range, and draw chance for AUROC."""
    if named:
        axes.set_ylabel(f"{METRICS[metric]}{', class mean' if classes else ''}")
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low), min(1.0, high))
    if metric == "auroc":
        axes.axhline(0.5, color=INK, linestyle=(0, (4, 3)), linewidth=0.9, alpha=0.7)


def _scale(axes: Axes, values: Sequence[Any], width: float) -> Any:
    """Scale the x axis (`width` inches wide) to the values, with a tick at each; return a function value -> x."""
    distinct = list(dict.fromkeys(values))
    numbers = [v for v in distinct if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(distinct):
        axes.set_xticks(range(len(distinct)), [printable(value_text(value)) for value in distinct])
        _reach(axes, range(len(distinct)))
        return distinct.index
    positive = [v for v in numbers if v > 0]
    if positive and max(positive) >= 10 * min(positive):
        if len(positive) == len(numbers):
            axes.set_xscale("log")
        else:
            axes.set_xscale("symlog", linthresh=min(positive))
    axes.set_xticks(sorted(numbers), _apart(axes, sorted(numbers), width))
    axes.set_xticks([], minor=True)
    _reach(axes, numbers)
    return float


def _apart(axes: Axes, numbers: Sequence[float], width: float) -> list[str]:
    """Return labels of ascending numbers; a label that would touch the next one shown is empty."""
    positions = axes.xaxis.get_transform().transform(np.array(numbers, dtype=float))
    reach = (positions[-1] - positions[0]) or 1.0
    labels, right = [""] * len(numbers), np.inf
    for at in reversed(range(len(numbers))):
        if (right - positions[at]) / reach * width >= LABEL_INCHES:
            labels[at], right = f"{numbers[at]:g}", positions[at]
    return labels


def _reach(axes: Axes, positions: Sequence[float]) -> None:
    """Extend the x axis to all values, including those without a result yet."""
    axes.update_datalim([(position, 0.0) for position in positions], updatey=False)


def _left_out(lines: int) -> str:
    return "" if lines <= LINES else f"  Only the best {LINES} of {lines} lines are drawn."
