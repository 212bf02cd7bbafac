"""Summary of a leaderboard in a few sentences: the winner, its lead, noise, cost and missing trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweep.leaderboard.board import LOWER_IS_BETTER, METRICS, Board, Entry, Grid, Leaderboard
from sweep.leaderboard.rows import Row
from sweep.leaderboard.stats import ALPHA, holm, paired_t
from sweep.report.sheet import line_label, value_text

NAMED = 6  # maximum number of lines named in a sentence
FEW = 6  # a test over fewer classes than this has almost no power
HOW = "paired t test over classes, Holm-corrected, 5 % level; approximate, because classes share training images"


@dataclass(frozen=True)
class Verdict:
    """Summary of one board, or of one grid study on a board.

    Attributes:
        title: dataset and protocol; for a grid also the study.
        headline: the winner, or why there is none; for a grid, how many values differ from the default.
        sentences: the lead, whether it may be noise, and the comparison with the trivial detectors.
    """

    title: str
    headline: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Account:
    """Totals over the trials of a report.

    Attributes:
        trials: number of planned trials that are reported.
        by_status: number of these trials that are "ok", "diverged", "damaged", "failed", "stale" or "missing".
        train_seconds: total seconds of training; a trial that two studies share counts once.
        usd: total cost in dollars; None if no price is known.
        devices: devices that the trials ran on.
        holes: (text that names a line of a board, number of its trials without a result), for each line with any.
    """

    trials: int
    by_status: dict[str, int]
    train_seconds: float
    usd: float | None
    devices: tuple[str, ...]
    holes: tuple[tuple[str, int], ...]

    @property
    def finished(self) -> int:
        """Trials with a result."""
        return self.by_status["ok"] + self.by_status["diverged"]


def verdicts(leaderboard: Leaderboard) -> tuple[Verdict, ...]:
    """Return one verdict for each board that has lines, and for each grid study on a board, in order."""
    found = []
    for board in leaderboard.boards:
        found += [_verdict(leaderboard.metric, board)] if board.lines else []
        for study in dict.fromkeys(grid.study for grid in board.grids):
            found.append(_grid_verdict(leaderboard.metric, board, study))
    return tuple(found)


def _verdict(metric: str, board: Board) -> Verdict:
    title = f"{board.dataset} {board.protocol}"
    ranked = [line for line in board.lines if line.ranked]
    if not ranked:
        return Verdict(title, "No winner yet", ("No detector has a value in every class of the board.",))
    first = ranked[0]
    name = line_label(first, board.lines)
    classes = _count(len(board.classes), "abnormal class", "es")
    sentences = [f"{METRICS[metric]}, class mean over {classes}: {_mean(first)}."]
    if len(ranked) > 1:
        sentences.append(_margin(board, ranked))
    sentences.append(_noise(board, ranked))
    learned = next((line for line in ranked if not line.trivial and line.gap is not None), None)
    if learned is not None and learned.gap is not None:
        better = (learned.gap > 0) != (metric in LOWER_IS_BETTER)
        subject = "It" if learned is first else f"The best non-trivial detector, {line_label(learned, board.lines)},"
        sentences.append(
            f"{subject} is {abs(learned.gap):.3f} {'better' if better else 'worse'} than the best trivial detector."
        )
    unranked = len(board.lines) - len(ranked)
    if unranked:
        sentences.append(f"{_count(unranked, 'line')} cannot be ranked yet: no seed has a value in every class.")
    return Verdict(title, f"{name} leads", tuple(sentences))


def _margin(board: Board, ranked: Sequence[Entry]) -> str:
    first, second = ranked[0], ranked[1]
    ahead = abs((first.mean.counted or 0.0) - (second.mean.counted or 0.0))
    chance = ", with diverged trials counted as chance" if first.mean.diverged or second.mean.diverged else ""
    p = "" if second.p_holm is None else f"; p = {second.p_holm:.2g} after Holm's correction"
    return f"It is {ahead:.3f} ahead of {line_label(second, board.lines)} ({_mean(second)}){chance}{p}."


def _noise(board: Board, ranked: Sequence[Entry]) -> str:
    if not board.tested:
        return "The result was not tested for noise: a test needs at least two classes and two ranked detectors."
    others = [line_label(line, board.lines) for line in ranked[1:] if line.contender]
    if not others:
        return f"More than noise: every other ranked line ({len(ranked) - 1}) is significantly worse ({HOW})."
    named = ", ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if len(others) > NAMED else "")
    text = f"It may be noise: {named} {'is' if len(others) == 1 else 'are'} not significantly worse ({HOW})."
    if len(board.classes) < FEW:
        weak = f"Over {len(board.classes)} classes a test detects only large differences"
        text += f"  {weak}; --compare A B also tests over seeds and over the test set."
    return text


def _grid_verdict(metric: str, board: Board, study: str) -> Verdict:
    """Summarize a grid study: which values of a hyperparameter differ from the default by more than noise."""
    sentences, tested, differing = [], 0, 0
    grids = [grid for grid in board.grids if grid.study == study]
    for grid in grids:
        sentence, tested_here, differing_here = _grid(grid, metric)
        sentences.append(sentence)
        tested, differing = tested + tested_here, differing + differing_here
    axes = ", ".join(dict.fromkeys(grid.axis for grid in grids))
    headline = f"{axes}: nothing to test yet"
    if tested:
        tried = "the one value tested" if tested == 1 else f"{differing or 'none'} of {tested} values tested"
        differ = "does not differ" if (tested, differing) == (1, 0) else "differs" if differing < 2 else "differ"
        headline = f"{axes}: {tried} {differ} from the default"
        sentences.append(f"Test of each value against the default: {HOW}.")
    sentences.append("A value chosen from these numbers would be chosen on the test set.")
    return Verdict(f"{board.dataset} {board.protocol}, {study}", headline, tuple(sentences))


def _grid(grid: Grid, metric: str) -> tuple[str, int, int]:
    """Return a sentence on one grid, the number of values tested, and the number that differ from the default."""
    name = f"{grid.detector} {grid.variant}, {grid.axis}"
    ranked = [line for line in grid.lines if line.ranked]
    waiting = len(grid.lines) - len(ranked)
    left = f"; {waiting} of {_count(len(grid.lines), 'value')} cannot be ranked yet" if waiting else ""
    if not ranked:
        return f"{name}{left}.", 0, 0
    order = sorted(ranked, key=lambda line: line.mean.counted or 0.0, reverse=metric not in LOWER_IS_BETTER)
    text = f"{name}: best at {value_text(order[0].value)} ({_mean(order[0])})"
    default = next((line for line in ranked if line.value == grid.default), None)
    if default is None:
        return f"{text}{left}.", 0, 0
    text += ", the default" if default is order[0] else f", default {value_text(grid.default)} ({_mean(default)})"
    others = [_by_class(line) for line in ranked if line is not default]
    if not others or len(default.cells) < 2:
        return f"{text}{left}.", 0, 0
    differing = sum(p <= ALPHA for p in holm([paired_t(_by_class(default), values) for values in others]))
    differ = f"{differing or 'none'} differ{'s' if differing < 2 else ''} from the default"
    return f"{text}; of {_count(len(others), 'other')}, {differ}{left}.", len(others), differing


def _by_class(line: Entry) -> list[float]:
    return [cell.counted for cell in line.cells.values() if cell.counted is not None]


def _mean(line: Entry) -> str:
    cell = line.mean
    text = "-" if cell.mean is None else f"{cell.mean:.3f}"
    if cell.half_width is not None:
        return f"{text} ± {cell.half_width:.3f} over {cell.n} seeds"
    return f"{text} from {_count(cell.n, 'seed')}, without an interval"


def _count(number: int, word: str, plural: str = "s") -> str:
    return f"{number} {word}{'' if number == 1 else plural}"


def account(rows: Sequence[Row], leaderboard: Leaderboard) -> Account:
    """Count the trials of a leaderboard.

    Args:
        rows: rows of `sweep.leaderboard.rows.build_rows`.
        leaderboard: leaderboard of these rows; only rows of its selection and evaluation count.
    """
    shown = [r for r in rows if (r["selection"], r["evaluation"]) == (leaderboard.selection, leaderboard.evaluation)]
    seconds = {row["key"]: row["train_seconds"] or 0.0 for row in shown}
    prices = {row["key"]: row["usd"] for row in shown if row["usd"] is not None}
    statuses = [row["status"] for row in shown]
    holes = []
    for board in leaderboard.boards:
        for line in (*board.lines, *(line for grid in board.grids for line in grid.lines)):
            planned = sum(cell.n_planned for cell in line.cells.values())
            gone = planned - sum(cell.n + cell.diverged for cell in line.cells.values())
            if gone:
                label = line_label(line, board.lines)
                holes.append((f"{board.dataset} {board.protocol}: {label}, {_count(gone, 'trial')} of {planned}", gone))
    return Account(
        trials=len(shown),
        by_status={name: statuses.count(name) for name in ("ok", "diverged", "damaged", "failed", "stale", "missing")},
        train_seconds=sum(seconds.values()),
        usd=sum(prices.values()) if prices else None,
        devices=tuple(sorted({row["device"] for row in shown if row["device"]})),
        holes=tuple(holes),
    )
