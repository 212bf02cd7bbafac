"""Learning curves: loss terms and AUROC by epoch, drawn from the history.parquet that each trial stored."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from sweep.console import printable
from sweep.leaderboard.board import Board, Leaderboard
from sweep.leaderboard.entry import NAME, Entry
from sweep.leaderboard.rows import Row
from sweep.report.figures.samples import Read
from sweep.report.figures.style import COLOURS, DASHES, INK, WIDTH, Curves, Drawing, canvas, save
from sweep.report.sheet import line_label
from sweep.store.ledger import reading

MOST_FILES = 240  # maximum number of history.parquet files that are read for one board
MOST_POINTS = 60  # maximum number of epochs of a trial that are drawn
LINES = 4  # maximum number of lines with a panel
AUROC = {"test_auroc": "test", "validation_auroc": "validation"}
VALIDATION_LOSS = "validation_loss"
LOWEST_LOSS = 1e-6  # the loss axis is logarithmic


def learning_curves(
    leaderboard: Leaderboard, board: Board, rows: Sequence[Row], lines: Sequence[Entry], read: Read
) -> Iterator[Drawing]:
    """Draw loss terms and AUROC against the epoch, a row of two panels for each trained detector.

    Args:
        leaderboard, board: the board whose lines are drawn.
        rows: rows of `sweep.leaderboard.rows.build_rows`.
        lines: lines of the board that may be drawn, in order.
        read: returns the object of the store at a path, or None if there is none.
    """
    trials = _load(leaderboard, board, rows, lines, read)
    shown = {label: of_line for label, of_line in trials.items() if of_line}
    if not shown:
        return
    drawn = list(shown.items())[:LINES]
    figure, panels = canvas(len(drawn), 2, WIDTH, 0.4 + 1.9 * len(drawn))
    for (label, of_line), (losses, aurocs) in zip(drawn, panels, strict=True):
        histories = list(of_line.values())
        _losses(losses, histories)
        _aurocs(aurocs, histories)
        losses.set_title(f"{printable(label)}: loss terms")
        aurocs.set_title("AUROC")
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    caption = (
        "Thick: mean over the line's trials, which differ in class and seed.  Thin: each trial's AUROC.  The axis of "
        "losses is logarithmic.  An epoch chosen from the test curve would be chosen on the test set."
    )
    if len(shown) > len(drawn):
        caption += f"  Drawn: {len(drawn)} of {len(shown)} trained lines."
    title = f"{board.dataset} {board.protocol}: learning curves"
    made = save(f"{board.dataset}-{board.protocol}-learning-curves", title, caption, figure)
    yield made.with_curves({key: _rounded(history) for of_line in shown.values() for key, history in of_line.items()})


def _load(
    leaderboard: Leaderboard, board: Board, rows: Sequence[Row], lines: Sequence[Entry], read: Read
) -> dict[str, dict[str, Curves]]:
    """Return the histories of the lines' trials by line and key; the first seeds if there are too many files."""
    wanted = {line.name: line_label(line, board.lines) for line in lines}
    chosen = [
        row
        for row in rows
        if (row["dataset"], row["protocol"]) == (board.dataset, board.protocol)
        and (row["selection"], row["evaluation"]) == (leaderboard.selection, leaderboard.evaluation)
        and row["status"] in ("ok", "diverged")
        and tuple(row[column] for column in NAME) in wanted
        and row.get("hp_epochs")  # others have no history
    ]
    chosen.sort(key=lambda row: (row["split_seed"], row["seed"]))
    found: dict[str, dict[str, Curves]] = {label: {} for label in wanted.values()}
    for row in chosen[:MOST_FILES]:
        history = read_history(row["key"], read)
        if history is not None:
            found[wanted[tuple(row[column] for column in NAME)]][row["key"]] = history
    return found


def read_history(key: str, read: Read) -> Curves | None:
    """Return the curves of a trial by name, with "epoch" first: loss terms, AUROCs and the validation loss.

    Counters, such as how often a discriminator was drawn again, are left out.  None without a stored history.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = f"trials/{key}/history.parquet"
    data = read(path)
    if data is None:
        return None
    with reading(path):
        table = pq.read_table(io.BytesIO(data))
        if "epoch" not in table.column_names or not len(table):
            raise ValueError("it has no epochs")
        names = [name for name in table.column_names if pa.types.is_floating(table.schema.field(name).type)]
        kept = np.unique(np.linspace(0, len(table) - 1, MOST_POINTS).round().astype(int))
        return {name: table[name].to_numpy()[kept].astype(float).tolist() for name in ["epoch", *names]}


def _losses(axes: Axes, histories: Sequence[Curves]) -> None:
    names = [name for name in dict.fromkeys(n for history in histories for n in history) if _is_loss(name)]
    for number, name in enumerate(names):
        epochs, means = _mean(histories, name)
        dash = DASHES[1] if name == VALIDATION_LOSS else "-"
        label = printable(name.replace("_", " "))
        axes.plot(
            epochs, np.maximum(means, LOWEST_LOSS), color=COLOURS[number % len(COLOURS)], linestyle=dash, label=label
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # matplotlib's own has markup
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(loc="best", ncols=2, fontsize=7)


def _aurocs(axes: Axes, histories: Sequence[Curves]) -> None:
    for number, (name, label) in enumerate(AUROC.items()):
        having = [history for history in histories if name in history]
        for history in having:
            points = [(e, v) for e, v in zip(history["epoch"], history[name], strict=True) if math.isfinite(v)]
            axes.plot([e for e, _ in points], [v for _, v in points], color=COLOURS[number], linewidth=0.6, alpha=0.5)
        if having:
            epochs, means = _mean(having, name)
            axes.plot(epochs, means, color=COLOURS[number], linestyle=DASHES[number], linewidth=2.2, label=label)
    axes.axhline(0.5, color=INK, linestyle=(0, (4, 3)), linewidth=0.9, alpha=0.7)
    low, high = axes.get_ylim()
    axes.set_ylim(max(-0.02, low), min(1.02, high))
    axes.legend(loc="best", fontsize=7)


def _is_loss(name: str) -> bool:
    return name != "epoch" and not name.endswith("_auroc")


def _mean(histories: Sequence[Curves], name: str) -> tuple[list[float], npt.NDArray[np.float64]]:
    """Return the epochs at which any trial has a finite value, in order, and the mean over these trials."""
    values: dict[float, list[float]] = {}
    for history in histories:
        for epoch, value in zip(history["epoch"], history.get(name, ()), strict=False):
            if math.isfinite(value):
                values.setdefault(epoch, []).append(value)
    epochs = sorted(values)
    return epochs, np.array([np.mean(values[epoch]) for epoch in epochs])


def _rounded(history: Curves) -> dict[str, list[float | None]]:
    """Return curves with five digits, and None where there is no finite value, for JSON."""
    return {
        name: [float(f"{value:.5g}") if value is not None and math.isfinite(value) else None for value in values]
        for name, values in history.items()
    }
