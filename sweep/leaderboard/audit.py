"""The audit: class means under every evaluation and selection, which show how much of a published AUC is protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.catalog import DETECTORS
from models.info import DetectorInfo
from sweep.leaderboard.board import Build, builder
from sweep.leaderboard.entry import Cell, Entry
from sweep.leaderboard.rows import Row
from sweep.spec.trial import EVALUATIONS, SELECTIONS

Way = tuple[str, str]  # (evaluation, selection)


@dataclass(frozen=True)
class Audit:
    """Audited configurations of one dataset and protocol, in the board's order.

    Attributes:
        ways: (evaluation, selection) that some configuration has, in a fixed order; clean and last first.
        lines: each configuration, with its class mean for each of the ways that it has.
    """

    dataset: str
    protocol: str
    ways: tuple[Way, ...]
    lines: tuple[tuple[Entry, Mapping[Way, Cell]], ...]


def audits(
    rows: Sequence[Row],
    metric: str = "auroc",
    catalog: Mapping[str, DetectorInfo] = DETECTORS,
    built: Build | None = None,
) -> tuple[Audit, ...]:
    """Return one audit for each dataset and protocol that was evaluated in more ways than `clean`.

    Args:
        rows: rows of `sweep.leaderboard.rows.build_rows`.  Only configurations with more evaluations than
            `clean` are audited.
        metric: see `sweep.leaderboard.board.build`.
        catalog: see `sweep.leaderboard.board.build`.
        built: `sweep.leaderboard.board.builder` of these rows, if some leaderboards are built already.
    """
    built = built or builder(rows, catalog)
    present = {(row["evaluation"], row["selection"]) for row in rows}
    ways = [(e, s) for e in EVALUATIONS for s in SELECTIONS if (e, s) in present]
    boards = {way: built(way[1], way[0], metric).boards for way in ways}
    found = []
    for board in boards.get(("clean", "last"), ()):
        means: dict[tuple[str, ...], dict[Way, Cell]] = {}
        for way, others in boards.items():
            for other in others:
                if (other.dataset, other.protocol) == (board.dataset, board.protocol):
                    for line in other.lines:
                        means.setdefault(line.name, {})[way] = line.mean
        audited = [line for line in board.lines if any(e != "clean" for e, _ in means[line.name])]
        if audited:
            shown = tuple(way for way in ways if any(way in means[line.name] for line in audited))
            lines = tuple((line, means[line.name]) for line in audited)
            found.append(Audit(board.dataset, board.protocol, shown, lines))
    return tuple(found)
