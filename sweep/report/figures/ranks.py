"""Figure of average ranks over many cells: a critical-difference diagram (Demsar 2006)."""

from __future__ import annotations

from collections.abc import Iterator

from sweep.console import printable
from sweep.leaderboard.board import Leaderboard
from sweep.leaderboard.entry import METRICS
from sweep.leaderboard.ranks import average_ranks
from sweep.report.figures.style import INK, WIDTH, Drawing, canvas, save
from sweep.report.rank_sheet import rank_labels, ranks_caption

ROW, GROUP = 0.22, 0.1  # inches of a name, and of a bar


def critical_difference(leaderboard: Leaderboard) -> Iterator[Drawing]:
    """Draw each line at its average rank, and a bar over lines that cannot be told apart."""
    ranks = average_ranks(leaderboard)
    if ranks is None:
        return
    names, groups = rank_labels(ranks), ranks.groups
    half = (len(names) + 1) // 2
    height = 0.5 + GROUP * len(groups) + ROW * half
    figure, [[axes]] = canvas(1, 1, WIDTH, height + 0.5)
    low, high = 1.0, float(len(names))
    reach = high - low
    axes.set_xlim(low - 0.55 * reach, high + 0.55 * reach)  # room for the names on both sides
    axes.set_ylim(height, -0.35)
    axes.axis("off")
    axes.plot([low, high], [0, 0], color=INK)
    for tick in range(1, len(names) + 1):
        axes.plot([tick, tick], [0, -0.06], color=INK)
        axes.text(tick, -0.1, str(tick), ha="center", va="bottom")
    for number, (first, last) in enumerate(groups):
        at = 0.1 + GROUP * number
        axes.plot([ranks.ranks[first], ranks.ranks[last]], [at, at], color=INK, linewidth=3)
    for position, (name, rank) in enumerate(zip(names, ranks.ranks, strict=True)):
        left = position < half
        at = 0.3 + GROUP * len(groups) + ROW * (position if left else len(names) - 1 - position)
        side = low - 0.03 * reach if left else high + 0.03 * reach
        axes.plot([rank, rank, side], [0, at, at], color=INK, linewidth=0.8)
        text = f"{printable(name)}  {rank:.2f} " if left else f" {rank:.2f}  {printable(name)}"
        axes.text(side, at, text, ha="right" if left else "left", va="center")
    title = f"Average ranks by {METRICS[leaderboard.metric]} over {ranks.cells} cells"
    yield save("average-ranks", title, f"1 is best.  {ranks_caption(ranks)}", figure)
