"""Sheet of average ranks over all cells of a leaderboard."""

from __future__ import annotations

from collections.abc import Iterator

from sweep.leaderboard.board import Leaderboard
from sweep.leaderboard.entry import METRICS
from sweep.leaderboard.ranks import Ranks, average_ranks
from sweep.report.sheet import Sheet, SheetCell, probability


def rank_sheet(leaderboard: Leaderboard) -> Iterator[Sheet]:
    """Yield the sheet, if there are enough cells and lines."""
    ranks = average_ranks(leaderboard)
    if ranks is None:
        return
    letters = [_letters(ranks, position) for position in range(len(ranks.ranks))]
    lines = tuple(
        (name, (SheetCell(f"{rank:.2f}"), SheetCell(found)))
        for name, rank, found in zip(rank_labels(ranks), ranks.ranks, letters, strict=True)
    )
    title = f"Average ranks by {METRICS[leaderboard.metric]} over {ranks.cells} cells"
    caption = f"1 is best; lines that share a letter cannot be told apart.  {ranks_caption(ranks)}"
    yield Sheet(title, "detector", ("average rank", "group"), (("", lines),), (caption,))


def _letters(ranks: Ranks, position: int) -> str:
    return "".join(chr(97 + n % 26) for n, (first, last) in enumerate(ranks.groups) if first <= position <= last)


def rank_labels(ranks: Ranks) -> list[str]:
    """Return a label for each line: detector, variant and setting, and the study where two would be the same."""
    short = [" ".join(part for part in name[1:] if part) for name in ranks.names]
    return [
        label if short.count(label) == 1 else f"{label} ({name[0]})"
        for label, name in zip(short, ranks.names, strict=True)
    ]


def ranks_caption(ranks: Ranks) -> str:
    """Say how the ranks were tested."""
    left = f"  {ranks.left_out} lines that are not complete in every cell are left out." if ranks.left_out else ""
    return (
        f"Friedman's test: p {probability(ranks.p)}.  Critical difference (Nemenyi, 5 %): {ranks.critical:.2f}.  "
        f"Classes of one dataset are dependent, so both are approximate.{left}"
    )
