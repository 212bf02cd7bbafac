"""What a leaderboard comes to in a few sentences: who wins, by how much, is it noise, what it cost, what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweep.leaderboard.board import LOWER_IS_BETTER, METRICS, Board, Entry, Grid, Leaderboard
from sweep.leaderboard.rows import Row
from sweep.leaderboard.stats import ALPHA, holm, paired_t
from sweep.report.sheet import line_label, value_text

NAMED = 6  # lines or holes that a sentence spells out
FEW = 6  # classes below which a test over them has next to no power
HOW = "paired t over classes, Holm, 5 %; classes share training images, so it is approximate"


@dataclass(frozen=True)
class Verdict:
    """Of one board.

    Attributes:
        title: dataset and protocol.
        headline: who wins, or why nobody does.
        sentences: by how much, whether that is noise, what the trivial detectors say.
    """

    title: str
    headline: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Account:
    """What a report's trials came to.

    Attributes:
        trials: planned and reported.
        by_status: of those, how many are "ok", "diverged", "failed", "stale", "missing".
        train_seconds: of training, in all; trials that two studies share count once.
        usd: what they cost, None where no price is known.
        devices: that they ran on.
        holes: lines of a board with trials that have no value, and how many.
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
    """One for each board that has lines, and for each study of a grid on a board, in order."""
    found = []
    for board in leaderboard.boards:
        found += [_verdict(leaderboard.metric, board)] if board.lines else []
        for study in dict.fromkeys(grid.study for grid in board.grids):
            found.append(_of_grids(leaderboard.metric, board, study))
    return tuple(found)


def _verdict(metric: str, board: Board) -> Verdict:
    title = f"{board.dataset} {board.protocol}"
    ranked = [line for line in board.lines if line.ranked]
    if not ranked:
        return Verdict(title, "No winner yet", ("No detector has a value in every class of the board.",))
    first = ranked[0]
    name = line_label(first, board.lines)
    classes = _count(len(board.classes), "abnormal class", "es")
    sentences = [f"{METRICS[metric]} over {classes}, class mean: {_mean(first)}."]
    if len(ranked) > 1:
        sentences.append(_margin(board, ranked))
    sentences.append(_noise(board, ranked))
    learned = next((line for line in ranked if not line.trivial and line.gap is not None), None)
    if learned is not None and learned.gap is not None:
        better = (learned.gap > 0) != (metric in LOWER_IS_BETTER)
        whose = "It" if learned is first else f"The best detector that learns, {line_label(learned, board.lines)},"
        sentences.append(
            f"{whose} is {abs(learned.gap):.3f} {'better' if better else 'worse'} than the best trivial detector."
        )
    unranked = len(board.lines) - len(ranked)
    if unranked:
        sentences.append(f"{_count(unranked, 'line')} cannot be ranked yet: no seed has a value in every class.")
    return Verdict(title, f"{name} leads", tuple(sentences))


def _margin(board: Board, ranked: Sequence[Entry]) -> str:
    first, second = ranked[0], ranked[1]
    ahead = abs((first.mean.counted or 0.0) - (second.mean.counted or 0.0))
    chance = ", divergence counting as chance" if first.mean.diverged or second.mean.diverged else ""
    p = "" if second.p_holm is None else f"; p = {second.p_holm:.2g} after Holm's correction"
    return f"It is {ahead:.3f} ahead of {line_label(second, board.lines)} ({_mean(second)}){chance}{p}."


def _noise(board: Board, ranked: Sequence[Entry]) -> str:
    if not board.tested:
        return "Whether that is noise was not tested: a test needs two classes and two ranked detectors."
    others = [line_label(line, board.lines) for line in ranked[1:] if line.contender]
    if not others:
        return f"More than noise: all {len(ranked) - 1} others are significantly worse ({HOW})."
    named = ", ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if len(others) > NAMED else "")
    text = f"It may be noise: not significantly worse {'is' if len(others) == 1 else 'are'} {named} ({HOW})."
    if len(board.classes) < FEW:
        weak = f"Over {len(board.classes)} classes only large differences can be told"
        text += f"  {weak}; --compare A B asks seeds and test set."
    return text


def _of_grids(metric: str, board: Board, study: str) -> Verdict:
    """Whether values of a hyperparameter differ from the default by more than noise."""
    sentences, tested, differing = [], 0, 0
    grids = [grid for grid in board.grids if grid.study == study]
    for grid in grids:
        said, of_grid, beyond = _grid(grid, metric)
        sentences.append(said)
        tested, differing = tested + of_grid, differing + beyond
    axes = ", ".join(dict.fromkeys(grid.axis for grid in grids))
    headline = f"{axes}: nothing to test yet"
    if tested:
        tried = "the one value tested" if tested == 1 else f"{differing or 'none'} of {tested} values tested"
        differ = "does not differ" if (tested, differing) == (1, 0) else "differs" if differing < 2 else "differ"
        headline = f"{axes}: {tried} {differ} from the default"
        sentences.append(f"Tested: {HOW}, each against the default.")
    sentences.append("A value chosen from these numbers would be chosen on the test set.")
    return Verdict(f"{board.dataset} {board.protocol}, {study}", headline, tuple(sentences))


def _grid(grid: Grid, metric: str) -> tuple[str, int, int]:
    """What is said of one grid, how many of its values were tested, and how many differ from its default."""
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
    return f"{text} from {_count(cell.n, 'seed')}, hence without interval"


def _count(number: int, word: str, plural: str = "s") -> str:
    return f"{number} {word}{'' if number == 1 else plural}"


def account(rows: Sequence[Row], leaderboard: Leaderboard) -> Account:
    """Count the trials that a leaderboard is made of.

    Args:
        rows: of `sweep.leaderboard.rows.gather`.
        leaderboard: of the rows; says which selection and evaluation count.
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
        by_status={name: statuses.count(name) for name in ("ok", "diverged", "failed", "stale", "missing")},
        train_seconds=sum(seconds.values()),
        usd=sum(prices.values()) if prices else None,
        devices=tuple(sorted({row["device"] for row in shown if row["device"]})),
        holes=tuple(holes),
    )
