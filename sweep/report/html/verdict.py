"""Summary of a leaderboard in a few sentences: the winner, its lead, noise, cost and missing trials."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sweep.leaderboard.board import Board, Grid, Leaderboard, groups
from sweep.leaderboard.entry import LOWER_IS_BETTER, METRICS, Entry
from sweep.leaderboard.rows import Row
from sweep.leaderboard.stats import ALPHA
from sweep.report.board_sheets import missing_trials, other_classes
from sweep.report.sheet import decimal, interval_text, line_label, value_text

NAMED = 6  # maximum number of lines named in a sentence
HOW = "seeds and finite test set, Holm-corrected, 5 % level"


@dataclass(frozen=True)
class Verdict:
    """Summary of one board, or of one grid study on a board.

    Attributes:
        title: dataset and protocol; for a grid also the study.
        headline: the winner, or why there is none; for a grid, how many values differ from the default.
        sentences: the lead, what cannot be told from it and why, what is worse, and the best trained detector.
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
    group = next(iter(groups(board.lines)), [])
    if not group:
        return Verdict(title, "No winner yet", ("No detector is complete.", *_incomplete(board)))
    first = group[0]
    few = len(first.cells) < len(board.classes)
    classes = f"{len(first.cells)} of " if few else ""
    sentences = [
        f"{METRICS[metric]}, class mean over {classes}{_count(len(board.classes), 'abnormal class', 'es')}: "
        f"{_mean(first)}."
    ]
    sentences += [*_rivals(board, group), *_reference(board, metric)]
    if len(group) > 1 and (why := other_classes(board)):
        sentences.append(f"Would the order hold for other classes?  {why.capitalize()}.")
    elif worse := [line for line in group[1:] if line.over_classes_holm is not None]:
        held = sum((line.over_classes_holm or 0.0) <= ALPHA for line in worse)
        sentences.append(
            f"Over other classes the lead would hold against {held} of {len(worse)} (paired t test over "
            f"{len(first.cells)} classes, which are dependent)."
        )
    others = sum(line.ranked for line in board.lines) - len(group)
    if others:
        sentences.append(f"{_count(others, 'line')} with other classes {'is' if others == 1 else 'are'} ranked apart.")
    return Verdict(title, f"{line_label(first, board.lines)} leads", (*sentences, *_incomplete(board)))


def _rivals(board: Board, group: Sequence[Entry]) -> Iterator[str]:
    """Yield by how much the first is ahead, which lines cannot be told from it, and which are worse."""
    if len(group) > 1:
        second = group[1]
        ahead = abs((group[0].mean.counted or 0.0) - (second.mean.counted or 0.0))
        lead = second.behind
        sure = "" if lead is None else f" {interval_text(lead.low, lead.high)}"
        chance = ", with diverged trials counted as chance" if group[0].mean.diverged or second.mean.diverged else ""
        yield f"It is {ahead:.3f}{sure} ahead of {line_label(second, board.lines)} ({_mean(second)}){chance}."
    tested = [line for line in group[1:] if line.behind is not None]
    open_ = [line for line in tested if line.contender]
    worse = [line for line in tested if not line.contender]
    if open_:
        reasons = [f"{line_label(n, board.lines)} ({n.behind.source})" for n in open_ if n.behind is not None]
        yield f"Cannot be told from it ({HOW}; in brackets the larger error): {_named(reasons)}."
    if worse:
        least = min(line.behind.low for line in worse if line.behind is not None)
        every = len(worse) == len(group) - 1
        who = f"{'Every other line is' if every else f'{len(worse)} are' if len(worse) > 1 else 'One is'} worse"
        names = _named([line_label(line, board.lines) for line in worse])
        yield f"{who}, by at least {max(0.0, least):.3f} ({HOW}): {names}."
    if untested := [line_label(line, board.lines) for line in group[1:] if line.behind is None]:
        yield f"Not compared, because a single seed shows no variation: {_named(untested)}."


def _reference(board: Board, metric: str) -> Iterator[str]:
    """Yield how the best trained configuration stands to the best one that is not trained."""
    found = board.reference
    if found is None:
        return
    lines = {line.name: line for line in board.lines}
    trained, untrained = lines[found.trained], lines[found.untrained]
    own, other = trained.mean.counted or 0.0, untrained.mean.counted or 0.0
    better = (own > other) != (metric in LOWER_IS_BETTER)
    sure = told = ""
    if found.lead is not None:
        lead = found.lead.of_better
        sure = f" {interval_text(lead.low, lead.high)}"
        told = "" if found.lead.p <= ALPHA else f", which is not more than noise ({found.lead.source})"
    yield (
        f"The best trained detector, {line_label(trained, board.lines)}, is {abs(own - other):.3f}{sure} "
        f"{'better' if better else 'worse'} than the best one without training, "
        f"{line_label(untrained, board.lines)}{told}."
    )


def _incomplete(board: Board) -> tuple[str, ...]:
    lines = [line for line in board.lines if not line.ranked]
    if not lines:
        return ()
    texts = []
    for line in lines:
        missing, planned = missing_trials(line)
        texts.append(f"{line_label(line, board.lines)} ({missing} of {_count(planned, 'trial')} missing)")
    return (f"Incomplete, and so not ranked: {_named(texts)}.",)


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


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
    others = [line for line in ranked if line.behind is not None]
    if not others:
        return f"{text}{left}.", 0, 0
    differing = sum(not line.contender for line in others)
    differ = f"{differing or 'none'} differ{'s' if differing < 2 else ''} from the default"
    return f"{text}; of {_count(len(others), 'other')}, {differ}{left}.", len(others), differing


def _mean(line: Entry) -> str:
    cell = line.mean
    if cell.low is None:
        return f"{decimal(cell.mean)} from {_count(cell.n, 'seed')}, without an interval"
    over = "" if line.exact and cell.n == 1 else f" over {cell.n} seeds"
    return f"{decimal(cell.mean)} {interval_text(cell.low, cell.high)}{over}"


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
            gone, planned = missing_trials(line)
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
