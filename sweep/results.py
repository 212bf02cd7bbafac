"""A sweep's results in Python: tables, per-sample scores, trained detectors.

    from sweep.results import open_results

    results = open_results("results")
    results.frame()                             # a row for each trial, selection and evaluation
    results.scores(results.best().key)          # a row for each sample
    results.detector("3f2a").score(images)      # uint8 [N, C, S, S]

torch is loaded when a detector is asked for, pandas when a table is.
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
from sweep.store import open_store
from sweep.store.base import ObjectNotFound, Store
from sweep.store.ledger import Ledger, Record

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from sweep.trial.trained import TrainedDetector

HEADLINE = ("last", "clean")
WEIGHTS = "weights.safetensors"
SHOWN = 5  # keys that an error names


class Best(NamedTuple):
    """The detector to take, and why.

    Attributes:
        key: of its trial.
        auroc: after its last epoch, of validation samples, else of test samples scored clean.
        validated: whether of validation samples.
        among: how many were compared.
    """

    key: str
    auroc: float
    validated: bool
    among: int

    def text(self) -> str:
        """How it was chosen."""
        one = f"the only one of {self.among}" if self.among == 1 else f"the highest of {self.among}"
        if self.validated:
            return f"{one} with kept weights by validation AUROC, {self.auroc:.3f}"
        return f"{one} with kept weights by test AUROC, {self.auroc:.3f}, which therefore flatters it"


class Results:
    """What a sweep has found, as the store says when it is first asked.

    Attributes:
        store: that holds it.
        sweep: its id.
    """

    def __init__(self, store: Store, sweep: str) -> None:
        self.store, self.sweep = store, sweep
        self._ledger = Ledger(store, sweep)

    def frame(self) -> pd.DataFrame:
        """Every row of results.parquet: trial x selection x evaluation, holes, failures and divergences included.

        Columns are `sweep.leaderboard.rows.COLUMNS` and each hyperparameter as `hp_<name>`; numbers that do not
        exist are missing values.  The headline is `selection == "last" and evaluation == "clean"`.
        """
        return _frame(to_table(self._rows))

    def scores(self, key: str) -> pd.DataFrame:
        """Per-sample scores of a trial.

        Columns: sample_id, label (0 normal, 1 abnormal), part ("test" or "validation"), evaluation,
        epoch, score, and its components "reconstruction" and "latent", where it has them.  The score is
        mixed with the lambda that `frame` says of the trial.

        Args:
            key: of the trial, or its first digits.

        Raises:
            UserError: no trial has such a key, several have, or it left no scores.
            StoreError: they are damaged.
        """
        import pyarrow as pa

        found = self._key(key)
        try:
            table = scores(self._ledger, found)
        except ObjectNotFound:
            raise UserError(f"trial {found} has no scores: it has not ended, or it diverged") from None
        parts = {name: table[name].to_numpy() for name in ("reconstruction", "latent") if name in table.column_names}
        if parts:
            mixed = pa.array(combine(parts, self._lam(found)))
            table = table.set_column(table.column_names.index("score"), "score", mixed)
        return _frame(table)

    def kept(self) -> list[str]:
        """Keys of this sweep's trials whose weights are in the store; `trial.keep` says which stay."""
        paths = (path.split("/") for path in self.store.list("trials"))
        there = {path[1] for path in paths if path[2:] == [WEIGHTS]}
        return [key for key in dict.fromkeys(row["key"] for row in self._rows) if key in there]

    def best(self) -> Best:
        """The trial with kept weights of the highest validation AUROC; without validation, test AUROC, clean.

        Both are those of the last epoch, whose weights are kept.  Trials that differ in dataset or abnormal
        class are compared all the same: to choose among fewer, see `kept` and `frame`.

        Raises:
            UserError: no weights were kept.
        """
        kept = set(self.kept())
        ended = [row for row in self._rows if (row["selection"], row["evaluation"]) == HEADLINE]
        ended = [row for row in ended if row["key"] in kept and row["status"] == "ok"]
        if not ended:
            raise UserError(
                f"no trial of sweep {self.sweep} has weights in {self.store.url}: `trial.keep` says which stay, best "
                "(one seed of each cell), all or none; what is finished is not trained again, so launch with "
                "--set trial.keep=best into another storage"
            )
        results = self._ledger.results({row["key"] for row in ended})
        validated = {
            row["key"]: value for row in ended if (value := _validation_auroc(row, results[row["key"]])) is not None
        }
        aurocs = validated or {row["key"]: float(row["auroc"]) for row in ended}
        key = max(aurocs, key=lambda one: aurocs[one])
        return Best(key, aurocs[key], bool(validated), len(aurocs))

    def detector(self, key: str) -> TrainedDetector:
        """A trained detector, ready to score images with the lambda that `frame` says of the trial.

        Args:
            key: of the trial, its first digits, or "best".

        Raises:
            UserError: no trial has such a key, several have, or its weights were not kept.
            DataError: its dataset's manifest is not in the store.
        """
        found = self.best().key if key == "best" else self._key(key)
        record = self._record(found)
        from sweep.trial.trained import load  # torch: seconds, which tables do without

        return load(self.store, record, self._lam(found))

    @cached_property
    def _rows(self) -> Sequence[Row]:
        try:
            last = last_launch(self._ledger, self.store.url)
            assert last is not None, "a sweep is opened by what was launched"
            sweep, platform = last
            return rows(read_status(expand(sweep, platform), self._ledger), self._ledger)
        except ValueError as error:  # e.g. a detector of the user's own that cannot be imported here
            raise UserError(f"sweep {self.sweep} in {self.store.url} cannot be read here: {error}") from None

    def _lam(self, key: str) -> float | None:
        """Lambda of a trial's first row; of a trial of another sweep, or of a search, that of its result."""
        found = next((row for row in self._rows if row["key"] == key), None)
        lam: float | None = self._record(key)["lam"] if found is None else found["lam"]
        return lam

    def _record(self, key: str) -> Record:
        record = self._ledger.result(key)
        if record is None:
            raise UserError(f"trial {key} has no result yet")
        return record

    def _key(self, begins: str) -> str:
        """The key of this sweep that begins so, else that of any trial in the store."""
        for keys in (dict.fromkeys(row["key"] for row in self._rows), self.store.names("trials")):
            found = [key for key in keys if begins and key.startswith(begins)]
            if len(found) > 1:
                first = ", ".join(sorted(found)[:SHOWN])
                raise UserError(f"key {begins} begins {len(found):,} trials ({first}, ...): give more digits")
            if found:
                return found[0]
        near = difflib.get_close_matches(begins, sorted({row["key"] for row in self._rows}), n=SHOWN, cutoff=0)
        raise UserError(
            f"no trial in {self.store.url} has a key that begins with {begins!r}; nearest in sweep {self.sweep}: "
            f"{', '.join(near) or 'none'}; or best"
        )


def open_results(storage: str | Path, sweep: str | None = None) -> Results:
    """Results of a sweep, from the store alone; also while it runs.

    Args:
        storage: as `storage` in its YAML: a folder, or "s3://bucket/prefix".
        sweep: its id; None for the one that was launched last.

    Raises:
        UserError: no sweep, or none of this id, was launched into this store.
        StoreError: the store cannot be read.
    """
    if str(storage).endswith((".yaml", ".yml")):
        raise UserError(f"{storage} is a YAML: give its `storage`, the folder or s3:// address of the results")
    store = open_store(str(storage))
    times = {name: specs[-1].get("time", 0.0) for name in store.names("sweeps") if (specs := _specs(store, name))}
    if not times:
        raise UserError(f"no sweep was launched into {store.url}; launch one: python -m sweep launch CONFIG")
    if sweep is not None and sweep not in times:
        raise UserError(unknown("sweep", sweep, times))
    return Results(store, sweep or max(times, key=lambda name: times[name]))


def _specs(store: Store, sweep: str) -> list[Record]:
    return Ledger(store, sweep).specs()


def _validation_auroc(row: Row, record: Record) -> float | None:
    """Validation AUROC at the row's lambda; None without validation."""
    validation: dict[str, Any] | None = record["validation"]
    if validation is None or row["lam"] not in validation["lambda"]:
        return None
    value: float = validation["auroc"][validation["lambda"].index(row["lam"])]
    return value


def _frame(table: pa.Table) -> pd.DataFrame:
    """Whole numbers stay whole and truths truths, where some are missing."""
    import pandas as pd
    import pyarrow as pa

    kinds = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    return table.to_pandas(types_mapper=kinds.get)
