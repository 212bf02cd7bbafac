"""Python API for the results of a sweep: tables, per-sample scores and trained detectors.

    from sweep.results import open_results

    results = open_results("results")
    results.frame()                             # one row for each trial, selection and evaluation
    results.scores(results.best().key)          # one row for each sample
    results.detector("3f2a").score(images)      # images: uint8 [N, C, S, S]

torch is imported only when a detector is requested, and pandas only when a table is.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from models.scoring import combine
from sweep.errors import UserError, unknown
from sweep.leaderboard.rows import Row, rows, scores, to_table
from sweep.plan.expand import expand
from sweep.plan.launch_record import last_launch
from sweep.plan.status import read_status
from sweep.spec.trial import HEADLINE, find_key
from sweep.store import open_store
from sweep.store.base import ObjectNotFound, Store
from sweep.store.ledger import WEIGHTS, Ledger, Record

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from sweep.trial.trained import TrainedDetector

SHOWN = 5  # maximum number of keys in an error message


class Best(NamedTuple):
    """The best trial, and how it was chosen.

    Attributes:
        key: key of the trial.
        auroc: AUROC after the last epoch, on validation samples, or else on test samples with evaluation "clean".
        validated: True if `auroc` is on validation samples.
        among: number of trials that were compared.
    """

    key: str
    auroc: float
    validated: bool
    among: int

    def text(self) -> str:
        """Describe how the trial was chosen."""
        one = f"the only one of {self.among}" if self.among == 1 else f"the highest of {self.among}"
        if self.validated:
            return f"{one} with kept weights by validation AUROC, {self.auroc:.3f}"
        return f"{one} with kept weights by test AUROC, {self.auroc:.3f}, which is therefore too optimistic"


class Results:
    """Results of a sweep; rows are read from the store once, when they are first needed.

    Attributes:
        store: store of the sweep.
        sweep: id of the sweep.
    """

    def __init__(self, store: Store, sweep: str) -> None:
        self.store, self.sweep = store, sweep
        self._ledger = Ledger(store, sweep)

    def frame(self) -> pd.DataFrame:
        """Return every row of results.parquet: one for each trial, selection and evaluation.

        Missing, failed and diverged trials are included.  The columns are `sweep.leaderboard.rows.COLUMNS` and each
        hyperparameter as `hp_<name>`; numbers that do not exist are missing values.  The headline of the report has
        `selection == "last" and evaluation == "clean"`.

        Raises:
            UserError: the latest launch cannot be read here, e.g. because a detector cannot be imported.
        """
        return _frame(to_table(self._rows))

    def scores(self, key: str) -> pd.DataFrame:
        """Return the per-sample scores of a trial.

        The columns are sample_id, label (0 normal, 1 abnormal), part ("test" or "validation"), evaluation, epoch and
        score, and also the components "reconstruction" and "latent" if the score has them.  The components are mixed
        with the trial's lambda in `frame`.

        Args:
            key: key of the trial, or its first digits.

        Raises:
            UserError: no trial or several trials match the key, or the trial has no scores.
            StoreError: the scores are damaged.
        """
        import pyarrow as pa

        full_key = self._key(key)
        try:
            table = scores(self._ledger, full_key)
        except ObjectNotFound:
            raise UserError(f"trial {full_key} has no scores: it has not ended, or it diverged") from None
        parts = {name: table[name].to_numpy() for name in ("reconstruction", "latent") if name in table.column_names}
        if parts:
            mixed = pa.array(combine(parts, self._lam(full_key)))
            table = table.set_column(table.column_names.index("score"), "score", mixed)
        return _frame(table)

    def kept(self) -> list[str]:
        """Return the keys of this sweep's trials with weights in the store; `trial.keep` decides which are kept."""
        paths = (path.split("/") for path in self.store.list("trials"))
        stored = {path[1] for path in paths if path[2:] == [WEIGHTS]}
        return [key for key in dict.fromkeys(row["key"] for row in self._rows) if key in stored]

    def best(self) -> Best:
        """Return the trial with the highest validation AUROC among those with kept weights.

        If no trial has validation samples, the test AUROC with evaluation "clean" decides.  Both are of the last
        epoch, because its weights are kept.  Trials of different datasets and abnormal classes are compared with each
        other; to compare fewer, use `kept` and `frame`.

        Raises:
            UserError: no weights were kept.
        """
        kept = set(self.kept())
        ended = [row for row in self._rows if (row["selection"], row["evaluation"]) == HEADLINE]
        ended = [row for row in ended if row["key"] in kept and row["status"] == "ok"]
        if not ended:
            raise UserError(
                f"no trial of sweep {self.sweep} has weights in {self.store.url}: `trial.keep` decides which are kept: "
                "best (one seed of each cell), all or none.  Finished trials are not trained again, so launch with "
                "--set trial.keep=best into another storage"
            )
        results = self._ledger.results({row["key"] for row in ended})
        validated = {
            row["key"]: value for row in ended if (value := _validation_auroc(row, results[row["key"]])) is not None
        }
        aurocs = validated or {row["key"]: float(row["auroc"]) for row in ended}
        key = max(aurocs, key=lambda candidate: aurocs[candidate])
        return Best(key, aurocs[key], bool(validated), len(aurocs))

    def detector(self, key: str) -> TrainedDetector:
        """Load a trained detector that scores images with the trial's lambda in `frame`.

        Args:
            key: key of the trial, its first digits, or "best".

        Raises:
            UserError: no trial or several trials match the key, or the weights were not kept.
            DataError: the manifest of the trial's dataset is not in the store.
        """
        full_key = self.best().key if key == "best" else self._key(key)
        record = self._record(full_key)
        from sweep.trial.trained import load  # imports torch, which takes seconds and is not needed for tables

        return load(self.store, record, self._lam(full_key))

    @cached_property
    def _rows(self) -> Sequence[Row]:
        try:
            last = last_launch(self._ledger, self.store.url)
            assert last is not None, "open_results accepts only sweeps with a launch"
            sweep, platform = last
            return rows(read_status(expand(sweep, platform), self._ledger), self._ledger)
        except ValueError as error:  # e.g. a detector of the user's own that cannot be imported here
            raise UserError(f"sweep {self.sweep} in {self.store.url} cannot be read here: {error}") from None

    def _lam(self, key: str) -> float | None:
        """Return lambda of a trial's first row, or of its result if it has no row.

        A trial of another sweep and a candidate trial of a search have no row.
        """
        row = next((row for row in self._rows if row["key"] == key), None)
        lam: float | None = self._record(key)["lam"] if row is None else row["lam"]
        return lam

    def _record(self, key: str) -> Record:
        record = self._ledger.result(key)
        if record is None:
            raise UserError(f"trial {key} has no result yet")
        return record

    def _key(self, prefix: str) -> str:
        """Return the key of this sweep that begins with `prefix`, else that of any trial in the store."""
        for keys in (dict.fromkeys(row["key"] for row in self._rows), self.store.names("trials")):
            if (found := find_key(prefix, keys)) is not None:
                return found
        near = difflib.get_close_matches(prefix, sorted({row["key"] for row in self._rows}), n=SHOWN, cutoff=0)
        raise UserError(
            f"no trial in {self.store.url} has a key that begins with {prefix!r}; nearest in sweep {self.sweep}: "
            f"{', '.join(near) or 'none'}; or best"
        )


def open_results(storage: str | Path, sweep: str | None = None) -> Results:
    """Open the results of a sweep from its store, also while the sweep runs.

    Args:
        storage: `storage` of the sweep's YAML: a folder, or "s3://bucket/prefix".
        sweep: id of the sweep; None for the sweep of the latest launch.

    Raises:
        UserError: no sweep, or none with this id, was launched into this store.
        StoreError: the store cannot be read.
    """
    if str(storage).endswith((".yaml", ".yml")):
        raise UserError(f"{storage} is a YAML file: give its `storage`, the folder or s3:// address of the results")
    store = open_store(str(storage))
    launches = {name: Ledger(store, name).last_spec() for name in store.names("sweeps")}
    times = {name: launch[1].get("time", 0.0) for name, launch in launches.items() if launch is not None}
    if not times:
        raise UserError(f"no sweep was launched into {store.url}; launch one: python -m sweep launch CONFIG")
    if sweep is not None and sweep not in times:
        raise UserError(unknown("sweep", sweep, times))
    return Results(store, sweep or max(times, key=lambda name: times[name]))


def _validation_auroc(row: Row, record: Record) -> float | None:
    """Return the validation AUROC at the row's lambda; None without validation."""
    validation: dict[str, Any] | None = record["validation"]
    if validation is None or row["lam"] not in validation["lambda"]:
        return None
    value: float = validation["auroc"][validation["lambda"].index(row["lam"])]
    return value


def _frame(table: pa.Table) -> pd.DataFrame:
    """Convert a table to pandas; integer and boolean columns keep their type even with missing values."""
    import pandas as pd
    import pyarrow as pa

    kinds = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    return table.to_pandas(types_mapper=kinds.get)
