"""Retrain random trials of a bundle here, and see whether they land where its cells say they should."""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from models import catalog as detectors
from sweep.errors import UserError
from sweep.leaderboard.rows import Row, judge
from sweep.leaderboard.stats import NORMAL_QUANTILE, interval, prediction_half_width
from sweep.plan.datasets import put_into
from sweep.plan.expand import CELL
from sweep.providers.registry import provider_of
from sweep.report.bundle import Bundle
from sweep.spec.sweep import Sweep
from sweep.spec.trial import HEADLINE, TrialSpec
from sweep.store import open_store


@dataclass(frozen=True)
class Rerun:
    """A trial that was trained again.

    Attributes:
        row: of the bundle; last epoch, clean.
        auroc: found here.
        low, high: interval that it should lie in with 95 %: for one more seed of its cell, or for
            another test set where the cell has one seed.
        notes: what is not as it was, e.g. the device.
    """

    row: Row
    auroc: float
    low: float
    high: float
    notes: tuple[str, ...]

    @property
    def inside(self) -> bool:
        """Equal to what was recorded, or within the interval."""
        return self.auroc == self.row["auroc"] or self.low <= self.auroc <= self.high

    def text(self) -> str:
        """E.g. "knn plain, abnormal 3, seed 0: AUROC 0.9811, recorded 0.9811 (equal), ..."."""
        row = self.row
        same = " (equal)" if self.auroc == row["auroc"] else ""
        where = f"{'inside' if self.inside else 'OUTSIDE'} {self.low:.4f} to {self.high:.4f}"
        name = f"{row['detector']} {row['variant']}, abnormal {row['abnormal']}, seed {row['seed']}"
        notes = "".join(f"; {note}" for note in self.notes)
        return f"{name}: AUROC {self.auroc:.4f}, recorded {row['auroc']:.4f}{same}, {where}{notes}"


def rerun(bundle: Bundle, count: int, seed: int, root: Path | None, console: Console) -> Iterator[Rerun]:
    """Retrain `count` random trials under their own specs, one after another, in a store that is deleted.

    Args:
        bundle: verified already.
        count, seed: how many, and what draws them.
        root: folder of downloaded datasets, where they need one.
        console: for what is being done.

    Raises:
        UserError: the bundle's spec or data cannot be had here, or nothing in it has ended.
        DataError: the data are damaged.
    """
    import pyarrow.parquet as pq

    from sweep.trial.options import Options, finish_trial
    from sweep.trial.run import run_trial

    headline = [row for row in bundle.rows() if (row["selection"], row["evaluation"]) == HEADLINE]
    rows = {row["key"]: row for row in headline if row["status"] == "ok"}
    results = bundle.json("results.json")
    if not rows:
        raise UserError(f"{bundle.path}: no trial in it has ended with a score of its last epoch, clean")
    with tempfile.TemporaryDirectory(prefix="sweep-rerun-") as scratch:
        try:
            packed = {**bundle.spec["sweep"], "storage": scratch}
            data = {**packed["data"], "cache": None} | ({} if root is None else {"root": str(root)})
            sweep = Sweep.model_validate({**packed, "data": data})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{bundle.path}: its spec is not one that this version can run: {error}") from None
        here, store = provider_of(sweep).platform(), open_store(f"{scratch}/store")
        for key in random.Random(seed).sample(sorted(rows), min(count, len(rows))):
            row, result = rows[key], results[key]
            recorded = TrialSpec.from_dict(result["spec"])
            spec = replace(recorded, device=here.device)
            notes = [] if spec == recorded else [f"on {here.device}, then on {recorded.device}"]
            revision = detectors.detector(spec.detector).revision
            if revision != spec.revision:
                notes.append(f"revision {revision} of the detector, then {spec.revision}")
            if not store.exists(f"datasets/{spec.dataset}/{spec.preparation}/manifest.json"):
                put_into(store, sweep, spec.dataset, console)
            console.print(
                f"training {row['detector']} {row['variant']} on {row['abnormal']}, seed {row['seed']} ...",
                markup=False,
            )
            options = Options(Path(scratch) / "cache", keep_weights=False, lambda_default=result["lam"])
            again = finish_trial(run_trial(spec, store, options))
            if again["status"] != "ok":
                raise UserError(f"trial {key} ended otherwise here: {again['cause']}")
            table = pq.read_table(io.BytesIO(store.get(f"trials/{spec.key}/scores.parquet")))
            entry = next(e for e in again["metrics"] if (e["selection"], e["evaluation"]) == HEADLINE)
            lam = row["lam"] if result["lam"] is not None else None
            auroc = judge(table, "clean", entry["epoch"], lam)["auroc"]
            cell = [r["auroc"] for r in rows.values() if all(r[name] == row[name] for name in CELL)]
            yield compare(row, auroc, cell, notes)


def compare(row: Row, auroc: float, cell: list[float], notes: list[str]) -> Rerun:
    """A retrained trial's AUROC beside those that its cell has in the bundle."""
    if len(cell) > 1:
        centre, half_width = interval(cell).mean, prediction_half_width(cell)
    else:
        centre, half_width = row["auroc"], NORMAL_QUANTILE * (row["auroc_se"] or 0.0)
    return Rerun(row, auroc, centre - half_width, centre + half_width, tuple(notes))
