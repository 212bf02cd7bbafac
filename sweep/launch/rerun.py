"""Implementation of `verify --rerun`: retrain random trials of a bundle here, and compare them with their cells."""

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
    """A trial of a bundle that was trained again.

    Attributes:
        row: row of the trial in the bundle; last epoch, evaluation clean.
        auroc: AUROC of the new training.
        low, high: 95 % interval for `auroc`: for one more seed of the trial's cell, or, if the cell has one seed, for
            another test set.
        notes: differences between the two trainings, such as the device.
    """

    row: Row
    auroc: float
    low: float
    high: float
    notes: tuple[str, ...]

    @property
    def inside(self) -> bool:
        """True if `auroc` equals the recorded one or is in the interval."""
        return self.auroc == self.row["auroc"] or self.low <= self.auroc <= self.high

    def text(self) -> str:
        """Return a line, such as "knn plain, abnormal 3, seed 0: AUROC 0.9811, recorded 0.9811 (equal), ..."."""
        row = self.row
        same = " (equal)" if self.auroc == row["auroc"] else ""
        where = f"{'inside' if self.inside else 'OUTSIDE'} {self.low:.4f} to {self.high:.4f}"
        name = f"{row['detector']} {row['variant']}, abnormal {row['abnormal']}, seed {row['seed']}"
        notes = "".join(f"; {note}" for note in self.notes)
        return f"{name}: AUROC {self.auroc:.4f}, recorded {row['auroc']:.4f}{same}, {where}{notes}"


def rerun(bundle: Bundle, count: int, seed: int, root: Path | None, console: Console) -> Iterator[Rerun]:
    """Retrain `count` random trials with their recorded specs, one after another, in a temporary store.

    Args:
        bundle: bundle, verified already.
        count: number of trials.
        seed: seed that chooses the trials.
        root: folder of downloaded datasets, if they are needed.
        console: for progress.

    Raises:
        UserError: the bundle's spec cannot be run or its data cannot be read here, or it has no finished trial.
        DataError: the data are damaged.
    """
    import pyarrow.parquet as pq

    from sweep.trial.options import Options, finish_trial
    from sweep.trial.run import run_trial

    headline = [row for row in bundle.rows() if (row["selection"], row["evaluation"]) == HEADLINE]
    rows = {row["key"]: row for row in headline if row["status"] == "ok"}
    results, _ = bundle.results()
    rows = {key: row for key, row in rows.items() if key in results}
    if not rows:
        raise UserError(f"{bundle.path}: no trial in it has a score of its last epoch with evaluation clean")
    with tempfile.TemporaryDirectory(prefix="sweep-rerun-") as scratch:
        try:
            packed = {**bundle.spec["sweep"], "storage": scratch}
            data = {**packed["data"], "cache": None} | ({} if root is None else {"root": str(root)})
            sweep = Sweep.model_validate({**packed, "data": data})
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{bundle.path}: this version cannot run its spec: {error}") from None
        here, store = provider_of(sweep).platform(), open_store(f"{scratch}/store")
        for key in random.Random(seed).sample(sorted(rows), min(count, len(rows))):
            row, result = rows[key], results[key]
            recorded = TrialSpec.from_dict(result["spec"])
            spec = replace(recorded, device=here.device)
            notes = [] if spec == recorded else [f"on {here.device} now, on {recorded.device} before"]
            revision = detectors.detector(spec.detector).revision
            if revision != spec.revision:
                notes.append(f"revision {revision} of the detector now, {spec.revision} before")
            if not store.exists(f"datasets/{spec.dataset}/{spec.preparation}/manifest.json"):
                put_into(store, sweep, spec.dataset, console)
            console.print(
                f"training {row['detector']} {row['variant']} on {row['abnormal']}, seed {row['seed']} ...",
                markup=False,
            )
            options = Options(Path(scratch) / "cache", keep_weights=False, lambda_default=result["lam"])
            again = finish_trial(run_trial(spec, store, options))
            if again["status"] != "ok":
                raise UserError(f"trial {key} failed here: {again['cause']}")
            table = pq.read_table(io.BytesIO(store.get(f"trials/{spec.key}/scores.parquet")))
            entry = next(e for e in again["metrics"] if (e["selection"], e["evaluation"]) == HEADLINE)
            lam = row["lam"] if result["lam"] is not None else None
            auroc = judge(table, "clean", entry["epoch"], lam)["auroc"]
            cell = [r["auroc"] for r in rows.values() if all(r[name] == row[name] for name in CELL)]
            yield compare(row, auroc, cell, notes)


def compare(row: Row, auroc: float, cell: list[float], notes: list[str]) -> Rerun:
    """Compare the AUROC of a retrained trial with those of its cell in the bundle."""
    if len(cell) > 1:
        centre, half_width = interval(cell).mean, prediction_half_width(cell)
    else:
        centre, half_width = row["auroc"], NORMAL_QUANTILE * (row["auroc_se"] or 0.0)
    return Rerun(row, auroc, centre - half_width, centre + half_width, tuple(notes))
