"""Figures of a leaderboard as SVG and PDF, drawn from its rows and from files that trials stored.

Only this package loads matplotlib; a command imports it when figures are requested.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweep.leaderboard.board import Board, Leaderboard
from sweep.leaderboard.rows import Row
from sweep.plan.expand import PlannedSearch
from sweep.plan.search import Search
from sweep.report.figures import boards, learning, networks, ranks, samples, searches
from sweep.report.figures.style import LINES, Drawing, assign_looks, use_style
from sweep.report.sheet import line_label

__all__ = ["Drawing", "draw"]

BOARDS = 6  # maximum number of boards with figures
SEARCHES = 8  # maximum number of searches with a figure


def draw(
    leaderboard: Leaderboard,
    rows: Sequence[Row],
    searched: Sequence[tuple[PlannedSearch, Search]],
    read: samples.Read,
) -> Iterator[Drawing]:
    """Draw every figure for which there are data.

    Args:
        leaderboard: leaderboard of the rows.
        rows: rows of `sweep.leaderboard.rows.build_rows`.
        searched: planned searches, each with its present state.
        read: returns the object of the store at a path, or None if there is none.

    Yields:
        Finished figures: those of each board, average ranks over all boards, and one for each search.
    """
    with use_style():
        for board in leaderboard.boards[:BOARDS]:
            yield from _board(leaderboard, board, rows, read)
        yield from ranks.critical_difference(leaderboard)
        for planned, state in searched[:SEARCHES]:
            yield from searches.search(planned, state)


def _board(leaderboard: Leaderboard, board: Board, rows: Sequence[Row], read: samples.Read) -> Iterator[Drawing]:
    ordered = sorted(board.lines, key=lambda line: (line.reference, line.variant == "untrained"))
    lines = ordered[:LINES]  # trained detectors first, in the order of the board
    line_looks = assign_looks(line_label(line, board.lines) for line in (*board.lines[:LINES], *lines))
    yield from boards.error_bars(leaderboard, board, line_looks)
    yield from boards.against_hyperparameters(leaderboard, board)
    yield from learning.learning_curves(leaderboard, board, rows, lines, read)
    trials = samples.load(leaderboard, board, rows, lines, read)
    yield from samples.roc_curves(leaderboard, board, trials, line_looks)
    yield from samples.against_lambda(leaderboard, board, trials, line_looks)
    yield from samples.histograms(leaderboard, board, trials)
    abnormal, kept = networks.find_kept(board, rows, lines, read)
    yield from networks.tsne(board, abnormal, kept)
    yield from networks.reconstructions(board, abnormal, kept)
