"""Verification of a bundle by a reviewer: recompute everything from per-sample scores, and list every difference.

It needs neither the store nor torch.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.catalog import variant_of_stored
from models.scoring import combine
from sweep.errors import UserError
from sweep.leaderboard.board import builder
from sweep.leaderboard.rows import COLUMNS, METRICS, PROVENANCE, Row, judge
from sweep.report.bundle import Bundle
from sweep.report.files import all_leaderboards
from sweep.store.ledger import SCORES
from sweep.store.records import FILES

if TYPE_CHECKING:
    import pyarrow as pa

RELATIVE, ABSOLUTE = 1e-9, 1e-12  # tolerances, because other machines sum in another order
OF_SPEC = ("detector", "variant", "revision", "dataset", "protocol", "abnormal", "split_seed", "seed", "device")
PLANNED = ("study", "detector", "variant", "setting", "dataset", "protocol", "abnormal", "split_seed", "seed")
LATER_COLUMNS = frozenset({
    "low", "high", "least", "most", "n_normal", "n_abnormal", "ranked", "leader_ahead", "leader_ahead_low",
    "leader_ahead_high", "leader_ahead_p_holm", "se_seeds", "se_test_set", "classes_ahead", "classes_half_width",
    "classes_effect", "classes_p", "classes_p_holm", "classes_p_signed_rank", "copies", "stop_on",
    "reduced_budget", "first_seeds",
})  # fmt: skip
"""Columns of results.parquet and leaderboard.csv that came after the first bundles, which may lack them."""
# Trials above which a packed spec is not planned: so many are missing in any case, and planning takes minutes.
PLANNED_PER_ROW, PLANNED_AT_LEAST = 2, 10_000
CELL_COLUMNS = 8  # the first columns of the CSV name a cell, together with `study` and `setting`


@dataclass(frozen=True)
class Verified:
    """Result of a verification.

    Attributes:
        trials: number of trials whose scores were read.
        rows: number of rows whose metrics were recomputed.
        cells: number of lines of leaderboard.csv that were recomputed.
        differences: one text for each difference, in the order found.
        notes: one text for each thing that was not checked, with the reason.
    """

    trials: int
    rows: int
    cells: int
    differences: tuple[str, ...]
    notes: tuple[str, ...] = ()


def verify(bundle: Bundle) -> Verified:
    """Check records against keys, rows against records and scores, cells against rows.

    Raises:
        UserError: the bundle cannot be read.
    """
    rows = bundle.rows()
    results, differences = bundle.results()
    lacking = {*COLUMNS} - {*(rows[0] if rows else COLUMNS)}
    newer = lacking & LATER_COLUMNS
    if lacking - newer:
        raise UserError(f"{bundle.path}: not a bundle of `report --bundle`: the rows lack {_join(lacking - newer)}")
    rows = [{**dict.fromkeys(newer), **row} for row in rows]
    if newer:  # an older version packed it
        rows = [{**row, "variant": variant_of_stored(row["detector"], row["variant"])} for row in rows]
    recomputed: list[Row] = []
    by_trial: dict[str, list[Row]] = {}
    for row in rows:
        by_trial.setdefault(row["key"], []).append(row)
    read = 0
    for key, of_trial in by_trial.items():
        result = results.get(key)
        scored = any(row["status"] == "ok" for row in of_trial)
        table, problem = _scores(bundle, key) if scored else (None, None)
        read += table is not None
        differences += [] if problem is None else [problem]
        if table is not None and result is not None:
            differences += _mixture(key, table, result)
            if result.get(FILES, {}).get(SCORES) not in (None, bundle.sha256(key)):
                differences.append(
                    f"trial {key}: the scores are not those of the trial's record: their SHA-256 differs"
                )
        for row in of_trial:
            differences += _against_record(row, result, newer)
            judged, problems = _judge(row, table)
            recomputed.append(judged)
            differences += problems
    extra = sorted(bundle.scored_keys() - {row["key"] for row in rows})
    differences += [f"scores/{key}.parquet belongs to no row" for key in extra]
    # To plan a detector of the user's own would import its module, and so run any code that the bundle names.
    imported = user_detectors(bundle)
    notes = [f"not checked: missing rows, because a plan would import {', '.join(imported)}"] if imported else []
    differences += [] if imported else _missing_trials(bundle, rows)
    try:
        ours = csv_of(recomputed, bundle)
    except (ValueError, TypeError, KeyError, ArithmeticError, LookupError, AttributeError) as error:
        raise UserError(f"{bundle.path}: no leaderboard can be built from its rows: {error}") from None
    packed = bundle.read("leaderboard.csv").decode("utf-8", "replace")
    packed = packed.replace("\negbad,repo,", "\negbad,dcgan,") if newer else packed
    newer |= (_columns(ours) - _columns(packed)) & LATER_COLUMNS
    notes += [f"not checked: {_join(newer)}, because an older version packed this bundle without them"] if newer else []
    differences += _cells(packed, ours, newer)
    verified = sum(row["status"] == "ok" for row in recomputed)
    return Verified(
        read, verified, len(ours.splitlines()) - 1, tuple(dict.fromkeys((*bundle.problems, *differences))), tuple(notes)
    )


def csv_of(rows: list[Row], bundle: Bundle) -> str:
    """Return leaderboard.csv of the rows, with the scores of a bundle."""
    from sweep.report.files import csv_text

    def scores(keys: Iterable[str]) -> Iterator[tuple[str, pa.Table]]:
        for key in keys:
            table, _ = _scores(bundle, key)
            if table is not None:
                yield key, table

    return csv_text(all_leaderboards(rows, builder(rows, scores=scores)))


def _scores(bundle: Bundle, key: str) -> tuple[pa.Table | None, str | None]:
    if key not in bundle.scored_keys():
        return None, f"trial {key}: the bundle has no scores, so the rows cannot be recomputed"
    try:
        return bundle.scores(key), None
    except UserError as error:
        return None, "; ".join(error.problems)


def _mixture(key: str, table: pa.Table, result: Mapping[str, Any]) -> Iterator[str]:
    """Check that each score equals its components mixed with lambda."""
    import numpy as np

    lam = result.get("lam")
    if lam is None or "reconstruction" not in table.column_names:
        return
    parts = {name: table[name].to_numpy() for name in ("reconstruction", "latent")}
    off = ~np.isclose(table["score"].to_numpy(), combine(parts, lam), rtol=RELATIVE, atol=ABSOLUTE)
    if off.any():
        yield f"trial {key}: {int(off.sum())} of {len(off)} scores are not their components mixed with lambda {lam:g}"


def _against_record(row: Row, result: Mapping[str, Any] | None, newer: set[str]) -> Iterator[str]:
    """Check that a row agrees with the trial's record in all columns but metrics and newer columns."""
    if result is None:
        if row["status"] in ("ok", "diverged"):
            yield f"{_where(row)}: {row['status']}, but the bundle has no record of the trial"
        return
    spec = result["spec"]
    recorded = {name: spec.get(name) for name in OF_SPEC}
    recorded["variant"] = variant_of_stored(str(spec.get("detector")), str(spec.get("variant")))
    recorded |= {name: result.get(name) for name in PROVENANCE if name != "device"}
    recorded |= {f"hp_{name}": value for name, value in spec["hyperparameters"].items()}
    for name, value in recorded.items():
        if name not in newer and not _same(row.get(name), value) and str(row.get(name)) != str(value):
            yield f"{_where(row)}: {name} is {row.get(name)} in the row but {value} in the trial's record"
    if row["status"] != result.get("status") and row["status"] != "missing":
        yield f"{_where(row)}: status is {row['status']} in the row but {result.get('status')} in the trial's record"


def _judge(row: Row, table: pa.Table | None) -> tuple[Row, list[str]]:
    """Return the row with metrics recomputed from the scores, and one text for each metric that differs."""
    if row["status"] != "ok" or table is None:
        return row, []
    single = "reconstruction" not in table.column_names
    try:
        metrics = judge(table, row["evaluation"], row["epoch"], None if single else row["lam"])
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        return row, [f"{_where(row)}: no metrics can be computed from the scores: {error}"]
    wrong = [name for name in METRICS if not _same(row[name], metrics[name])]
    return {**row, **metrics}, [
        f"{_where(row)}: {name} is {row[name]} in the row but the scores give {metrics[name]}" for name in wrong
    ]


def user_detectors(bundle: Bundle) -> list[str]:
    """Return the detectors that a bundle names and that are not in this package, as `package.module:Class`.

    Whoever plans or runs the bundle's spec imports these modules, and so runs their code.
    """
    named = {row["detector"] for row in bundle.rows()}
    named |= {str(result["spec"].get("detector")) for result in bundle.results()[0].values()}
    named |= _texts_of("detectors", bundle.spec)
    return sorted(name for name in named if ":" in name)


def _texts_of(key: str, value: Any) -> set[str]:
    """Return every text at any depth below any value of this key: nothing is assumed about a stranger's spec."""
    found: set[str] = set()
    left: list[tuple[Any, bool]] = [(value, False)]
    while left:
        item, below = left.pop()
        if isinstance(item, dict):
            left += [(inner, below or name == key) for name, inner in item.items()]
            found |= {str(name) for name in item if below}
        elif isinstance(item, list):
            left += [(inner, below) for inner in item]
        elif below and isinstance(item, str):
            found.add(item)
    return found


def _missing_trials(bundle: Bundle, rows: list[Row]) -> Iterator[str]:
    """Yield a difference for each planned trial without a row, so that nobody can leave out bad results."""
    from pydantic import ValidationError

    from sweep.plan.expand import expand
    from sweep.plan.platform import Platform
    from sweep.spec.load import rename_variants
    from sweep.spec.sweep import Sweep

    try:
        sweep = Sweep.model_validate(rename_variants(bundle.spec["sweep"]))
        platform = Platform.from_dict(bundle.spec["platform"])
        most = PLANNED_PER_ROW * len(rows) + PLANNED_AT_LEAST
        planned = [trial for trial in expand(sweep, platform, most).fixed if trial.spec.timing is None]
    except (ValidationError, UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        yield f"this version cannot plan the packed spec: {str(error).splitlines()[0]}"
        return
    present = {tuple(row[name] for name in PLANNED) for row in rows}
    for trial in planned:
        if tuple(getattr(trial, name) for name in PLANNED) not in present:
            name = " ".join(str(getattr(trial, name)) for name in PLANNED)
            yield f"{name}: the trial is planned, but the bundle has no row of it"


def _cells(packed: str, ours: str, newer: set[str]) -> Iterator[str]:
    """Yield each difference, by cell and column, between the packed and the recomputed leaderboard.csv.

    Args:
        packed, ours: texts of the packed and of the recomputed file.
        newer: columns that the packed file does not have; they are not compared.
    """
    try:
        theirs, own = _by_cell(packed), _by_cell(ours)
    except csv.Error as error:
        yield f"leaderboard.csv: not a table: {error}"
        return
    for cell in [*own, *(cell for cell in theirs if cell not in own)]:
        name = " ".join(part for part in cell if part)
        if cell not in own or cell not in theirs:
            yield f"leaderboard.csv: {name} {'is missing' if cell in own else 'belongs to no row'}"
            continue
        for column, value in own[cell].items():
            if column not in newer and not _same_text(theirs[cell].get(column), value):
                yield f"leaderboard.csv: {name}: {column} is {theirs[cell].get(column)} but the scores give {value}"


def _columns(text: str) -> set[str]:
    try:
        return set(next(csv.reader(io.StringIO(text, newline="")), ()))
    except csv.Error:
        return set()


def _join(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "their results"


def _by_cell(text: str) -> dict[tuple[str, ...], dict[str, str]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    names = [*(reader.fieldnames or ())[:CELL_COLUMNS], "study", "setting"]
    return {tuple(str(line.get(name)) for name in names): line for line in reader}


def _where(row: Row) -> str:
    seeds = f"split seed {row['split_seed']}, seed {row['seed']}"
    names = " ".join(
        str(row[name]) for name in ("study", "detector", "variant", "setting", "dataset", "protocol") if row[name]
    )
    return f"{names}, abnormal {row['abnormal']}, {seeds}, {row['selection']}, {row['evaluation']} (trial {row['key']})"


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, float) and isinstance(second, int | float) and not isinstance(second, bool):
        return math.isclose(first, second, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return bool(first == second)


def _same_text(first: str | None, second: str) -> bool:
    if first == second:
        return True
    try:
        return math.isclose(float(first or ""), float(second), rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    except ValueError:
        return False
