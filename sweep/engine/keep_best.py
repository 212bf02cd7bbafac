"""Clean-up of weights and figure data for `keep: best`, which keeps those of one seed in each cell.

The best seed has the highest validation AUROC; without validation it is the first seed.  The test set never decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweep.plan.expand import CELL
from sweep.plan.status import SweepStatus
from sweep.store.ledger import KEPT, Damaged, Ledger


class WeightCleaner:
    """Deletion of weights that are not the best of their cell, as trials finish.

    Args:
        ledger: ledger of the store that has the weights.
        status: status of the sweep at the start, for the trials that are finished already.
    """

    def __init__(self, ledger: Ledger, status: SweepStatus) -> None:
        self._store = ledger.store
        self._best: dict[tuple[str, ...], tuple[tuple[float, int], str]] = {}
        shown = [planned for planned in status.planned if planned.reported and planned.key in status.finished]
        damaged: dict[str, Damaged] = {}  # of no cell's best, and kept: nothing is known of it
        results = ledger.results({planned.key for planned in shown}, damaged)
        for planned in shown:
            if planned.key in damaged:
                continue
            cell = tuple(str(getattr(planned, name)) for name in CELL)
            self._enter(cell, results[planned.key], planned.seed, planned.key)

    def take(self, event: Mapping[str, Any]) -> None:
        """Handle a "result" event of the tuner: keep the weights of its trial, or delete the worse ones of its cell."""
        if event["reported"]:
            cell = tuple(str(event[name]) for name in CELL)
            self._enter(cell, event["record"], event["seed"], event["key"])

    def _enter(self, cell: tuple[str, ...], record: Mapping[str, Any], seed: int, key: str) -> None:
        if record["status"] != "ok":
            return  # a diverged trial has no weights
        validation = record["validation"]
        rank = (max(validation["auroc"]) if validation else 0.0, -seed)
        current = self._best.get(cell)
        if current is None or current[1] == key:
            self._best[cell] = (rank, key)
            return
        best, loser = ((rank, key), current) if rank > current[0] else (current, (rank, key))
        self._best[cell] = best
        if loser[1] not in {kept for _, kept in self._best.values()}:  # two studies may share a trial
            for name in KEPT:
                self._store.delete(f"trials/{loser[1]}/{name}")
