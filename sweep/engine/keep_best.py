"""Which final weights, and what figures need of them, stay: `keep: best` leaves those of one seed in each cell.

Best is the highest validation AUROC, and without validation the first seed: never the test's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweep.plan.status import SweepStatus
from sweep.store.ledger import Ledger

CELL = ("study", "detector", "variant", "setting", "dataset", "protocol", "abnormal")
KEPT = ("weights.safetensors", "figures.npz")


class Weights:
    """Deletes weights that are not the best of their cell, as trials finish.

    Args:
        ledger: of the store where they lie.
        survey: what is finished already.
    """

    def __init__(self, ledger: Ledger, status: SweepStatus) -> None:
        self._store = ledger.store
        self._best: dict[tuple[str, ...], tuple[tuple[float, int], str]] = {}
        shown = [planned for planned in status.planned if planned.reported and planned.key in status.finished]
        results = ledger.results({planned.key for planned in shown})
        for planned in shown:
            cell = tuple(str(getattr(planned, name)) for name in CELL)
            self._enter(cell, results[planned.key], planned.seed, planned.key)

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in that a trial has a result."""
        if event["reported"]:
            cell = tuple(str(event[name]) for name in CELL)
            self._enter(cell, event["record"], event["seed"], event["key"])

    def _enter(self, cell: tuple[str, ...], record: Mapping[str, Any], seed: int, key: str) -> None:
        if record["status"] != "ok":
            return  # it left no weights
        validation = record["validation"]
        rank = (max(validation["auroc"]) if validation else 0.0, -seed)
        standing = self._best.get(cell)
        if standing is None or standing[1] == key:
            self._best[cell] = (rank, key)
            return
        best, loser = ((rank, key), standing) if rank > standing[0] else (standing, (rank, key))
        self._best[cell] = best
        if loser[1] not in {kept for _, kept in self._best.values()}:  # a trial may be of two studies' cells
            for name in KEPT:
                self._store.delete(f"trials/{loser[1]}/{name}")
