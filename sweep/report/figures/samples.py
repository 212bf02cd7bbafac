"""Figures of per-sample scores: histograms, ROC curves, AUROC against lambda."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.scoring import LAMBDAS, combine
from sweep.console import printable
from sweep.leaderboard.board import Board, Leaderboard
from sweep.leaderboard.entry import FINEST, NAME, Entry
from sweep.leaderboard.rows import Row, checked_scores, select_scores
from sweep.leaderboard.stats import interval, logit_interval
from sweep.report.figures.boards import measure, ring
from sweep.report.figures.style import ABNORMAL, INK, NORMAL, WIDTH, Drawing, Look, canvas, legend, save
from sweep.report.sheet import board_title, line_label
from sweep.store.ledger import reading
from sweep.trial.metrics import auroc, roc

Read = Callable[[str], bytes | None]  # path -> object of the store, or None if there is none
MOST_FILES = 240  # maximum number of scores.parquet files that are read for one board
ROC_LINES = 6
HISTOGRAM_LINES, HISTOGRAM_CLASSES = 4, 5
RATES = np.linspace(0.0, 1.0, 201)  # false positive rates at which ROC curves are averaged


@dataclass(frozen=True)
class Scored:
    """Test samples of one trial, scored under the board's selection and evaluation.

    Attributes:
        row: row of the trial.
        labels: int64 [N], 0 normal, 1 abnormal.
        components: float32 [N] each; "reconstruction" and "latent" where stored, else "score".
    """

    row: Row
    labels: npt.NDArray[np.int64]
    components: Mapping[str, npt.NDArray[np.float32]]

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """Anomaly scores [N], mixed with the lambda of the row."""
        return combine(self.components, self.row["lam"])


Trials = Mapping[str, Mapping[str, Sequence[Scored]]]  # line -> class -> trials, ordered by seed


def load(leaderboard: Leaderboard, board: Board, rows: Sequence[Row], lines: Sequence[Entry], read: Read) -> Trials:
    """Load the scores of the lines' trials; if they are more than `MOST_FILES`, those of the first seeds only."""
    wanted = {line.name: line_label(line, board.lines) for line in lines}
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        name = tuple(row[column] for column in NAME)
        on_board = (row["dataset"], row["protocol"]) == (board.dataset, board.protocol)
        chosen = (row["selection"], row["evaluation"]) == (leaderboard.selection, leaderboard.evaluation)
        if on_board and chosen and row["status"] == "ok" and name in wanted:
            cells.setdefault((wanted[name], row["abnormal"]), []).append(row)
    each = max(1, MOST_FILES // max(1, len(cells)))
    found: dict[str, dict[str, list[Scored]]] = {}
    for (label, abnormal), of_cell in list(cells.items())[:MOST_FILES]:
        of_cell.sort(key=lambda row: (row["split_seed"], row["seed"]))
        scored = [one for row in of_cell[:each] if (one := _read_scores(row, read)) is not None]
        if scored:
            found.setdefault(label, {})[abnormal] = scored
    return {label: found[label] for label in wanted.values() if label in found}


def _read_scores(row: Row, read: Read) -> Scored | None:
    import pyarrow.parquet as pq

    path = f"trials/{row['key']}/scores.parquet"
    data = read(path)
    if data is None:
        return None
    with reading(path):
        table = checked_scores(pq.read_table(io.BytesIO(data)))
    table = select_scores(table, row["evaluation"], row["epoch"])
    names = [name for name in ("reconstruction", "latent") if name in table.column_names] or ["score"]
    if not len(table):
        return None
    return Scored(row, table["label"].to_numpy().astype(np.int64), {n: table[n].to_numpy() for n in names})


def histograms(leaderboard: Leaderboard, board: Board, trials: Trials) -> Iterator[Drawing]:
    """Draw histograms of the scores of normal and abnormal test samples, a panel for each detector and class."""
    lines = list(trials)[:HISTOGRAM_LINES]
    classes = [abnormal for abnormal in board.classes if any(abnormal in trials[line] for line in lines)]
    classes = classes[:HISTOGRAM_CLASSES]
    if not classes:
        return
    figure, panels = canvas(len(lines), len(classes), WIDTH, 0.6 + 1.45 * len(lines))
    for line, row in zip(lines, panels, strict=True):
        for abnormal, axes in zip(classes, row, strict=True):
            axes.set_yticks([])
            axes.grid(visible=False)
            axes.spines["left"].set_visible(False)
            if line == lines[0]:
                axes.set_title(printable(f"{abnormal} abnormal"))
            if abnormal in trials[line]:
                scored = trials[line][abnormal][0]
                scores = scored.scores
                low, high = np.quantile(scores, (0.0, 0.995))
                bins = np.linspace(low, high if high > low else low + 1.0, 41)
                for label, colour, name, fill in ((0, NORMAL, "normal", 0.45), (1, ABNORMAL, "abnormal", 0.0)):
                    axes.hist(
                        np.clip(scores[scored.labels == label], bins[0], bins[-1]),
                        bins=bins.tolist(),
                        density=True,
                        histtype="stepfilled",
                        label=name,
                        facecolor=(colour, fill),
                        edgecolor=colour,
                        linewidth=1.3,
                        linestyle="-" if label else (0, (1.5, 1)),
                    )
                value = auroc(scored.labels, scores)
                axes.annotate(f"{value:.3f}", (1, 1), xycoords="axes fraction", ha="right", va="top", fontsize=8)
        row[0].set_ylabel(printable(line).replace(" ", "\n"), rotation=0, ha="right", va="center")
    handles, labels = next(axes for axes in panels[0] if axes.has_data()).get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2)
    caption = (
        "Density of the anomaly score over test samples, first seed.  Each panel has its own scale.  The last bin "
        "holds the highest 0.5 %.  The number is the AUROC.  " + _left_out(lines, classes, board)
    )
    title = f"{board_title(leaderboard, board)}: scores"
    yield save(f"{board.dataset}-{board.protocol}-scores", title, caption, figure)


def roc_curves(leaderboard: Leaderboard, board: Board, trials: Trials, looks: Mapping[str, Look]) -> Iterator[Drawing]:
    """Draw ROC curves, a panel for each class."""
    lines = list(trials)[:ROC_LINES]
    classes = [abnormal for abnormal in board.classes if any(abnormal in trials[line] for line in lines)][:10]
    if not classes:
        return
    columns = min(len(classes), 5 if len(classes) > 4 else 4)
    rows = -(-len(classes) // columns)
    figure, panels = canvas(rows, columns, WIDTH, 0.9 + rows * (WIDTH / columns + 0.1), sharex=True, sharey=True)
    flat = [axes for row in panels for axes in row]
    for abnormal, axes in zip(classes, flat, strict=False):
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), alpha=0.7)
        for line in lines:
            if abnormal in trials[line]:
                curves = [_sensitivity(scored) for scored in trials[line][abnormal]]
                look = looks[line]
                axes.plot(
                    RATES, np.mean(curves, 0), color=look.colour, linestyle=look.dash, label=printable(line),
                    marker=look.marker, markevery=(20, 60), markersize=4,
                )  # fmt: skip
        axes.set_title(printable(f"{abnormal} abnormal"))
        axes.set_aspect("equal")
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    for axes in flat[len(classes) :]:
        axes.remove()
    figure.supxlabel("false positive rate", fontsize=9)
    figure.supylabel("true positive rate", fontsize=9)
    entries = {
        label: handle
        for axes in flat[: len(classes)]
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(entries.values()), list(entries), loc="outside upper left", ncols=3, handlelength=3.0)
    caption = "True positive rate, averaged over seeds at each false positive rate.  Dashed: chance.  " + _left_out(
        lines, classes, board
    )
    yield save(f"{board.dataset}-{board.protocol}-roc", f"{board_title(leaderboard, board)}: ROC", caption, figure)


def _sensitivity(scored: Scored) -> npt.NDArray[np.float64]:
    false_positives, true_positives = roc(scored.labels, scored.scores)
    return np.interp(RATES, false_positives, true_positives)


def against_lambda(
    leaderboard: Leaderboard, board: Board, trials: Trials, looks: Mapping[str, Look]
) -> Iterator[Drawing]:
    """Draw the class mean of AUROC against lambda, for every line whose score has two components."""
    if leaderboard.metric != "auroc":
        return
    lines = {
        line: cells
        for line, cells in trials.items()
        if all("latent" in scored.components for of_class in cells.values() for scored in of_class)
    }
    if not lines:
        return
    figure, [[axes]] = canvas(1, 1, WIDTH, 3.2)
    for line, cells in lines.items():
        by_lambda = [_class_means(cells, lam) for lam in LAMBDAS]
        means = [interval(values).mean for values in by_lambda]
        ends = [logit_interval(values, FINEST) if len(values) > 1 else (values[0], values[0]) for values in by_lambda]
        lengths = [[mean - low for mean, (low, _) in zip(means, ends, strict=True)],
                   [high - mean for mean, (_, high) in zip(means, ends, strict=True)]]  # fmt: skip
        look = looks[line]
        axes.errorbar(
            LAMBDAS, means, yerr=np.maximum(0.0, lengths), label=printable(line),
            color=look.colour, marker=look.marker, linestyle=look.dash, markersize=4, elinewidth=0.9,
        )  # fmt: skip
        shown = next(iter(cells.values()))[0].row["lam"]  # lambda of the board
        ring(axes, shown, interval(_class_means(cells, shown)).mean, look)
    measure(axes, leaderboard.metric, classes=True)
    axes.set_xlabel("lambda, the share of the reconstruction term in the score")
    legend(figure, axes, columns=3)
    caption = (
        "Computed from stored score components, without new training: mean over seeds of the class mean, with its "
        "95 % t-interval on the logit scale.  Ringed: the lambda that the board uses (for a searched line, that of the "
        "first class).  Components have different scales, so equal lambdas of two detectors do not mean the same.  A "
        "lambda chosen from this figure would be chosen on the test set."
    )
    title = f"{board_title(leaderboard, board)}: against lambda"
    yield save(f"{board.dataset}-{board.protocol}-lambda", title, caption, figure)


def _class_means(cells: Mapping[str, Sequence[Scored]], lam: float) -> list[float]:
    """Return the AUROC averaged over classes for each seed that every class has.

    Without such a seed, return one value: the mean over all trials.
    """
    by_unit = [
        {(s.row["split_seed"], s.row["seed"]): auroc(s.labels, combine(s.components, lam)) for s in of_class}
        for of_class in cells.values()
    ]
    shared = [unit for unit in by_unit[0] if all(unit in found for found in by_unit)]
    whole = [interval([found[unit] for found in by_unit]).mean for unit in shared]
    return whole or [interval([value for found in by_unit for value in found.values()]).mean]


def _left_out(lines: Sequence[str], classes: Sequence[str], board: Board) -> str:
    """Name the part of the board that a figure draws, if it leaves out any line or class."""
    parts = []
    if len(lines) < len(board.lines):
        parts.append(f"{len(lines)} of {len(board.lines)} lines")
    if len(classes) < len(board.classes):
        parts.append(f"{len(classes)} of {len(board.classes)} classes")
    return f"Drawn: {' and '.join(parts)}." if parts else ""
