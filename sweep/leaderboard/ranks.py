"""Average ranks over many cells, and which lines cannot be told apart by them (Demsar 2006).

A cell is an abnormal class of a dataset.  Within a cell lines are ranked by their mean over seeds, a diverged trial
counting as chance.  Friedman's test asks whether any line differs.  Two lines differ by Nemenyi's test if their average
ranks differ by at least the critical difference.  Classes of one dataset are dependent, so both are approximate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweep.leaderboard.board import Leaderboard
from sweep.leaderboard.entry import LOWER_IS_BETTER, Entry
from sweep.leaderboard.stats import ALPHA

FEWEST_CELLS, FEWEST_LINES = 10, 3

Name = tuple[str, str, str, str]


@dataclass(frozen=True)
class Ranks:
    """Average ranks of the lines that are complete in every cell, best first.

    Attributes:
        names: study, detector, variant and setting of each line.
        ranks: average rank of each line; 1 is best.
        cells: number of cells.
        critical: least difference of two average ranks that Nemenyi's test tells apart.
        p: p-value of Friedman's test.
        left_out: number of lines that are not in every cell, or not complete.
    """

    names: tuple[Name, ...]
    ranks: tuple[float, ...]
    cells: int
    critical: float
    p: float
    left_out: int

    @property
    def groups(self) -> tuple[tuple[int, int], ...]:
        """First and last position of each largest group of lines that cannot be told apart."""
        ends = [max(j for j, rank in enumerate(self.ranks) if rank - first < self.critical) for first in self.ranks]
        found = [(i, j) for i, j in enumerate(ends) if j > i and (i == 0 or ends[i - 1] < j)]
        return tuple(found)


def average_ranks(leaderboard: Leaderboard) -> Ranks | None:
    """Return the average ranks over all boards; None with too few cells, or too few lines that are in every cell."""
    boards = [{line.name: line for line in board.lines if line.ranked} for board in leaderboard.boards if board.lines]
    classes = [board.classes for board in leaderboard.boards if board.lines]
    known = {line.name for board in leaderboard.boards for line in board.lines}
    names = sorted(
        name
        for name in known
        if all(name in b and {*b[name].cells} == {*c} for b, c in zip(boards, classes, strict=True))
    )
    values = [_values(lines, names, abnormal) for lines, of in zip(boards, classes, strict=True) for abnormal in of]
    if len(values) < FEWEST_CELLS or len(names) < FEWEST_LINES:
        return None
    return rank_lines(names, values, -1.0 if leaderboard.metric in LOWER_IS_BETTER else 1.0, len(known) - len(names))


def _values(lines: Mapping[Name, Entry], names: Sequence[Name], abnormal: str) -> list[float]:
    found = [lines[name].cells[abnormal].counted for name in names]
    return [value for value in found if value is not None]  # a complete line has a value in every class


def rank_lines(names: Sequence[Name], values: Sequence[Sequence[float]], sign: float, left_out: int = 0) -> Ranks:
    """Rank lines by their values in each cell.

    Args:
        names: of the lines.
        values: for each cell, one value for each line.
        sign: -1 if lower is better.
        left_out: see `Ranks`.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    lines, cells = len(names), len(values)
    average = rankdata([[-sign * value for value in cell] for cell in values], axis=1).mean(axis=0)
    order = sorted(range(lines), key=lambda n: (average[n], names[n]))
    quantile = float(studentized_range.ppf(1.0 - ALPHA, lines, math.inf)) / math.sqrt(2.0)
    columns = list(zip(*values, strict=True))
    same = all(len(set(cell)) == 1 for cell in values)
    return Ranks(
        tuple(names[n] for n in order),
        tuple(float(average[n]) for n in order),
        cells,
        quantile * math.sqrt(lines * (lines + 1) / (6.0 * cells)),
        1.0 if same else float(friedmanchisquare(*columns).pvalue),
        left_out,
    )
