"""Rows in long form, built from plan and results: one for each planned trial, selection and evaluation.

A planned trial without a result has rows too, with its status instead of numbers.  So no mean can be
over fewer seeds than planned without anybody noticing.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable, Container, Iterable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from models.scoring import combine
from sweep.leaderboard.papers import reduced_budget
from sweep.plan.platform import Platform
from sweep.plan.status import SweepStatus, reported_trials
from sweep.spec.trial import SELECTIONS, TrialSpec, older_keys, other_arithmetic_keys
from sweep.store import launch_status
from sweep.store.attempts import has_failed
from sweep.store.ledger import SCORES, Damaged, Ledger, reading

if TYPE_CHECKING:
    import pyarrow as pa

    from sweep.plan.expand import Planned

Row = dict[str, Any]

METRICS = ("auroc", "ap", "fpr95", "base_rate", "n_normal", "n_abnormal", "ties", "auroc_se")
PROVENANCE = (
    "train_seconds", "images_per_second", "peak_bytes", "device", "hardware", "torch", "ray", "commit", "dirty",
    "fingerprint", "split_hash", "parameters", "seconds", "copies",
)  # fmt: skip

COLUMNS: dict[str, type[str | int | float | bool]] = {
    "key": str, "sweep": str, "study": str, "detector": str, "variant": str, "revision": int,
    "dataset": str, "protocol": str, "abnormal": str, "split_seed": int, "seed": int,
    "selection": str, "evaluation": str, "epoch": int,
    "auroc": float, "ap": float, "fpr95": float, "base_rate": float,
    "n_normal": int, "n_abnormal": int, "ties": float,
    "status": str, "attempts": int, "train_seconds": float, "images_per_second": float,
    "peak_bytes": int, "device": str, "numerics": str, "torch": str, "ray": str, "commit": str,
    "dirty": bool, "fingerprint": str, "split_hash": str,
    "kind": str, "setting": str, "axis": str, "centre": bool, "objective": str, "lam": float,
    "auroc_se": float, "parameters": int, "seconds": float, "cpu_hours": float, "gpu_hours": float, "usd": float,
    "hardware": str, "copies": int, "stop_on": str, "reduced_budget": str, "first_seeds": int,
}  # fmt: skip
"""Columns of every row and their types, in the order of results.parquet; `hp_<name>` columns follow.

`copies` is the number of test samples whose image is also a training image, pixel for pixel; `stop_on` is what ends a
training with early stopping, None without validation; `reduced_budget` is text such as "2 of 15 epochs" for a published
detector that trains for fewer epochs, else None; `first_seeds` is the number of first seeds that decided about more,
None if the number of seeds was fixed."""


def build_rows(
    planned: Iterable[Planned],
    results: Mapping[str, Mapping[str, Any]],
    *,
    sweep: str,
    scores: Callable[[str], pa.Table],
    attempts: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    finished: Container[str] = (),
    usd_per_hour: float | None = None,
    damaged: MutableMapping[str, Damaged] | None = None,
) -> list[Row]:
    """Build one row for each planned trial, selection and evaluation, in the order of the plan.

    Args:
        planned: trials of the plan; those that are not reported (candidates of a search) get no row.
        results: result records by key.
        sweep: id of the sweep.
        scores: reads scores.parquet of a key; called only for a row whose lambda differs from the lambda of
            the trial's result, for example one that a search chose.
        attempts: attempt records by key, oldest first.
        finished: keys that have a result, of any revision; distinguishes stale trials from missing ones.
        usd_per_hour: price of the resources of one trial, if known.
        damaged: receives the error of each trial whose scores are damaged, by key; None to raise the first one.

    Returns:
        Rows with `COLUMNS` and the trial's hyperparameters as `hp_<name>`.  Numbers that
        do not exist are None.  `seconds` and all costs are those of the whole trial.  `status` is "ok",
        "diverged", "damaged", "failed", "stale" or "missing".  Damaged: the result or its scores cannot be
        read.  Failed: no result, and the last attempt was not preempted.  Stale: only a result
        of an older revision or of another arithmetic.  Missing: no result yet, or one without this selection.
    """
    tried = attempts or {}
    read = lru_cache(maxsize=8)(scores)
    rows: list[Row] = []
    for trial in planned:
        if not trial.reported:
            continue
        key = trial.key
        result = results.get(key)
        common = _common(trial, key, sweep, tried.get(key, ()), result, usd_per_hour)
        common["status"] = status(trial.spec, result, tried.get(key, ()), finished)
        found: dict[tuple[str, str], Mapping[str, Any]] = {}
        try:
            found = {} if result is None else _metrics(trial, key, result, read)
        except Damaged as error:
            if damaged is None:
                raise
            damaged[key], common["status"] = error, "damaged"
        wanted = dict.fromkeys((s, e) for e in trial.spec.evaluations for s in selections(trial.spec))
        for selection, evaluation in wanted | found:
            entry = found.get((selection, evaluation))
            row = {**common, "selection": selection, "evaluation": evaluation}
            if entry is None and selection == "val_normal" and common["status"] == "ok":
                continue  # an older version made the result, without this selection
            if entry is not None:
                row |= {name: entry.get(name) for name in ("epoch", *METRICS)}
            elif row["status"] == "ok":
                row["status"] = "missing"
            rows.append(row)
    return rows


def status(
    spec: TrialSpec,
    result: Mapping[str, Any] | None,
    attempts: Sequence[Mapping[str, Any]],
    finished: Container[str],
) -> str:
    """Return the status of a planned trial; `build_rows` explains the arguments and each status."""
    if result is not None:
        return str(result["status"])
    if spec.key in finished:
        return "damaged"
    if has_failed(attempts):
        return "failed"
    others = (*older_keys(spec), *other_arithmetic_keys(spec))
    return "stale" if any(key in finished for key in others) else "missing"


def selections(spec: TrialSpec) -> tuple[str, ...]:
    """Return the legal selections of the reported epoch for this trial, the headline first."""
    return SELECTIONS if spec.validation is not None else tuple(n for n in SELECTIONS if not n.startswith("val"))


def _common(
    trial: Planned,
    key: str,
    sweep: str,
    attempts: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any] | None,
    usd_per_hour: float | None,
) -> Row:
    """Return the fields that all rows of one planned trial share; the rest is None."""
    spec = trial.spec
    row: Row = dict.fromkeys(COLUMNS)
    row |= {
        "key": key, "sweep": sweep, "study": trial.study, "detector": trial.detector,
        "variant": trial.variant, "revision": spec.revision, "dataset": trial.dataset,
        "protocol": trial.protocol, "abnormal": trial.abnormal, "split_seed": trial.split_seed,
        "seed": trial.seed, "numerics": str(spec.numerics), "device": spec.device,
        "kind": trial.kind, "setting": trial.setting, "axis": trial.axis, "centre": trial.centre,
        "first_seeds": trial.first_seeds, "objective": trial.objective, "lam": trial.lam, "attempts": len(attempts),
        "stop_on": None if spec.validation is None else spec.validation.stop_on,
        "reduced_budget": reduced_budget(spec.detector, spec.variant, spec.dataset, spec.hyperparameters) or None,
    }  # fmt: skip
    if result is not None:
        row |= {name: result.get(name) for name in PROVENANCE} | _cost(spec, result, usd_per_hour)
        row["attempts"] = max(len(attempts), result.get("attempts") or 0)
        if trial.lam is None or result["lam"] is None:
            row["lam"] = result["lam"]
    return row | {f"hp_{name}": value for name, value in sorted(spec.hyperparameters.items())}


def _cost(spec: TrialSpec, result: Mapping[str, Any], usd_per_hour: float | None) -> Row:
    """Return the hours of the trial on its CPU cores, or on its share of a GPU, and their price."""
    if result.get("seconds") is None:
        return {}
    hours = float(result["seconds"]) / 3600
    usd = None if usd_per_hour is None else hours * usd_per_hour
    if spec.device == "cpu":
        return {"cpu_hours": hours * spec.numerics.threads, "usd": usd}
    return {"gpu_hours": hours * (result.get("gpus") or 1.0), "usd": usd}


def _metrics(
    trial: Planned, key: str, result: Mapping[str, Any], scores: Callable[[str], pa.Table]
) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return metrics by selection and evaluation, at the lambda that the plan asks for.

    At another lambda than the result's, the epochs stay those of the result, because only their scores are
    stored.
    """
    entries = {(entry["selection"], entry["evaluation"]): entry for entry in result["metrics"]}
    if trial.lam is None or result["lam"] in (None, trial.lam):
        return entries
    with reading(f"trials/{key}/{SCORES}"):
        table = scores(key)
        return {
            name: {**entry, **judge(table, *name[1:], entry["epoch"], trial.lam)} for name, entry in entries.items()
        }


def judge(table: pa.Table, evaluation: str, epoch: int, lam: float | None) -> Row:
    """Return `METRICS` of the test scores of one evaluation and epoch in scores.parquet, mixed with a lambda.

    Args:
        table: columns "label", "part", "evaluation", "epoch", and "reconstruction" and "latent" or
            "score".
        evaluation, epoch: values that select the rows.
        lam: see `models.scoring.combine`.

    Raises:
        ValueError: if there are no such rows, or no metrics can be computed from them.
    """
    from sweep.trial.metrics import evaluate

    return vars(evaluate(*samples_of(table, evaluation, epoch, lam)[1:]))


def select_scores(table: pa.Table, evaluation: str, epoch: int) -> pa.Table:
    """Return the rows of scores.parquet for the test samples of one evaluation and epoch."""
    import pyarrow.compute as pc

    wanted = pc.equal(table["part"], "test")
    for name, value in (("evaluation", evaluation), ("epoch", epoch)):
        wanted = pc.and_(wanted, pc.equal(table[name], value))
    return table.filter(wanted)


def samples_of(table: pa.Table, evaluation: str, epoch: int, lam: float | None) -> tuple[Any, Any, Any]:
    """Return ids (a pyarrow array), labels and scores of the test samples, [N] each.  Arguments are those of `judge`.

    Ids are None if the table has none.
    """
    chosen = select_scores(table, evaluation, epoch)
    names = ("score",) if lam is None else ("reconstruction", "latent")
    mixed = combine({name: chosen[name].to_numpy() for name in names}, lam)
    ids = chosen["sample_id"].combine_chunks() if "sample_id" in chosen.column_names else None
    return ids, chosen["label"].to_numpy(), mixed


def to_table(rows: Sequence[Row]) -> pa.Table:
    """Return rows as a table with `COLUMNS`, then every `hp_<name>`, null if a detector lacks it.

    A hyperparameter that is a number in some rows and text in others becomes text.
    """
    import pyarrow as pa

    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    schema = {name: types[kind] for name, kind in COLUMNS.items()}
    for name in sorted({name for row in rows for name in row} - set(COLUMNS)):
        schema[name] = types[_common_type({type(row[name]) for row in rows if row.get(name) is not None})]

    def column(name: str, kind: pa.DataType) -> pa.Array:
        values = [row.get(name) for row in rows]
        texts = [None if value is None else str(value) for value in values] if kind == pa.string() else values
        return pa.array(texts, type=kind)

    return pa.table({name: column(name, kind) for name, kind in schema.items()})


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Return the bytes of results.parquet: the table of `to_table`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(to_table(rows), sink)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _common_type(types: set[type[Any]]) -> type[Any]:
    if len(types) == 1:
        return next(iter(types))
    return float if types == {int, float} else str


def rows(
    status: SweepStatus,
    ledger: Ledger,
    usd_per_hour: float | None = None,
    damaged: MutableMapping[str, Damaged] | None = None,
) -> list[Row]:
    """Return rows of every reported trial of a plan, including trials without a result.

    Args:
        status: plan with the state of its trials.
        ledger: records of the sweep.
        usd_per_hour: price of the resources of one trial, if known.
        damaged: receives the error of each damaged result, by key.
    """

    shown = list(reported_trials(status))
    damaged = {} if damaged is None else damaged
    results = ledger.results({planned.key for planned in shown} & status.finished, damaged)
    return build_rows(
        shown,
        results,
        sweep=ledger.sweep,
        scores=lambda key: scores(ledger, key),
        attempts=status.attempts,
        finished=status.finished,
        usd_per_hour=usd_per_hour,
        damaged=damaged,
    )


def scores(ledger: Ledger, key: str) -> pa.Table:
    """Read the per-sample scores of a trial: scores.parquet.

    Raises:
        StoreError: if there are none, or they are damaged.
    """
    return parse_scores(key, ledger.file(key, SCORES))


def parse_scores(key: str, data: bytes) -> pa.Table:
    """Return the table of scores.parquet of a trial.

    Raises:
        Damaged: it is none.
    """
    import pyarrow.parquet as pq

    with reading(f"trials/{key}/{SCORES}"):
        return checked_scores(pq.read_table(io.BytesIO(data)))


def checked_scores(table: pa.Table) -> pa.Table:
    """Return a table of per-sample scores, if it has the columns and types of scores.parquet.

    Raises:
        ValueError: it does not.
    """
    import pyarrow as pa

    kinds = {"label": pa.types.is_integer, "epoch": pa.types.is_integer, "score": pa.types.is_floating,
             "part": pa.types.is_string, "evaluation": pa.types.is_string}  # fmt: skip
    parts = {"reconstruction", "latent"} & {*table.column_names}
    if len(parts) == 1:
        raise ValueError("it has only one component of the score")
    for name, is_kind in {**kinds, **dict.fromkeys(parts, pa.types.is_floating)}.items():
        column = table[name] if name in table.column_names else None
        if column is None or not is_kind(column.type) or column.null_count:
            raise ValueError(f"column {name} is missing, or has other values than expected")
    return table


def provenance(ledger: Ledger, command: str) -> dict[str, object]:
    """Return the entries at the top of a report that show where its numbers come from.

    Args:
        ledger: records of the sweep.
        command: command that writes the report.
    """
    entries: dict[str, object] = {"sweep": ledger.sweep, "store": ledger.store.url, "command": command}
    launch = ledger.last_spec()
    if launch is not None:
        last = launch[1]
        commit = last.get("commit")
        entries["commit"] = f"{commit or 'unknown'}{' with changes' if last.get('dirty') else ''}"
        versions = {"python": last.get("python", "?"), **dict(sorted(last.get("versions", {}).items()))}
        entries["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
        with suppress(KeyError, TypeError, ValueError, AttributeError):  # a record of another version
            platform = Platform.from_dict(last["platform"])
            entries["ran on"] = f"{platform.device} in {platform.numerics}, {platform.slots} slots"
        with suppress(OverflowError, ValueError, OSError):  # a time that is none
            launched = datetime.fromtimestamp(last.get("time", 0.0), UTC)
            entries["launched"] = launched.strftime("%Y-%m-%d %H:%M UTC")
        checkout = f"git checkout {commit} && " if commit else ""
        entries["run it again"] = checkout + shlex.join(["python", "-m", "sweep", *last.get("argv", ())])
    head = launch_status.read(ledger.store, ledger.sweep)
    if head is not None and head.usd is not None:
        entries["dollars"] = f"{head.usd:.2f} for the machines of launch {head.launch}"
    return entries
