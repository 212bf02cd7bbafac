"""Figures of a leaderboard, as SVG and PDF, from rows and from what trials stored.

matplotlib is loaded here and nowhere else; a verb imports this when figures are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweep.leaderboard.board import Board, Leaderboard
from sweep.leaderboard.rows import Row
from sweep.plan.expand import PlannedSearch
from sweep.plan.search import Search
from sweep.report.figures import boards, networks, samples, searches
from sweep.report.figures.style import LINES, Drawing, looks, use_style
from sweep.report.sheet import line_label

__all__ = ["Drawing", "draw"]

BOARDS = 6  # that get figures of their own
SEARCHES = 8


def draw(
    leaderboard: Leaderboard,
    rows: Sequence[Row],
    searched: Sequence[tuple[PlannedSearch, Search]],
    read: samples.Read,
) -> Iterator[Drawing]:
    """Every figure that there is something to draw of.

    Args:
        leaderboard: of the rows.
        rows: of `sweep.leaderboard.rows.gather`.
        searched: searches as they stand.
        read: an object of the store by path, None where there is none.
    """
    with use_style():
        for board in leaderboard.boards[:BOARDS]:
            yield from _board(leaderboard, board, rows, read)
        for planned, found in searched[:SEARCHES]:
            yield from searches.search(planned, found)


def _board(leaderboard: Leaderboard, board: Board, rows: Sequence[Row], read: samples.Read) -> Iterator[Drawing]:
    telling = sorted(board.lines, key=lambda line: (line.trivial, line.variant == "untrained"))
    lines = telling[:LINES]  # those that have learned first, as they stand on the board
    looked = looks(line_label(line, board.lines) for line in (*board.lines[:LINES], *lines))
    yield from boards.error_bars(leaderboard, board, looked)
    yield from boards.against_hyperparameters(leaderboard, board)
    trials = samples.load(leaderboard, board, rows, lines, read)
    yield from samples.roc_curves(leaderboard, board, trials, looked)
    yield from samples.against_lambda(leaderboard, board, trials, looked)
    yield from samples.histograms(leaderboard, board, trials)
    abnormal, found = networks.find_kept(board, rows, lines, read)
    yield from networks.tsne(board, abnormal, found)
    yield from networks.reconstructions(board, abnormal, found)
