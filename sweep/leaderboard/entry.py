"""Entries of a board: one configuration with its cells, computed from the rows of its trials."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from models.info import DetectorInfo
from sweep.leaderboard.headline import Lead, Unit
from sweep.leaderboard.judging import NOTHING_JUDGED, Judging, judge_of
from sweep.leaderboard.papers import claims, printed_value
from sweep.leaderboard.rows import Row
from sweep.leaderboard.stats import NORMAL_QUANTILE, Paired, interval, logit_interval, logit_range, stein_interval

METRICS = {"auroc": "AUROC", "ap": "average precision", "fpr95": "FPR at 95 % TPR"}
LOWER_IS_BETTER = frozenset({"fpr95"})
NAME = ("study", "detector", "variant", "setting")  # columns that identify a configuration
FINEST = 1e-4  # step of a metric if the size of the test set is not known

Units = Mapping[str, Mapping[Unit, Row]]  # rows of one configuration by abnormal class and unit


@dataclass(frozen=True)
class Cell:
    """One number of a board.

    Attributes:
        mean, sd: over seeds, without diverged trials; None if there are too few values.
        low, high: 95 % interval over seeds, a t-interval on the logit scale.  Of a deterministic detector, which has
            no seeds, DeLong's interval for the finite test set (AUROC only).  None if neither is known.
        values: the values of the seeds.
        n, n_planned: seeds with a value, seeds planned.
        n_normal, n_abnormal: most test images of a seed; None for a class mean.
        diverged, failed: numbers of planned trials that ended so.
        stale: number of trials with a result of an older revision only, which is not used here.
        counted: the mean with diverged trials counting as chance; the basis of ranks and tests.
        test_half_width: upper bound for the half-width of the 95 % interval for the finite test set, by
            DeLong: errors of its seeds (and of a class mean's classes) count as equal.  AUROC only.
        paper: the value that a paper printed for this cell.
        best: True if no value in its column is better.
    """

    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    values: tuple[float, ...] = ()
    n: int = 0
    n_planned: int = 0
    diverged: int = 0
    failed: int = 0
    stale: int = 0
    counted: float | None = None
    test_half_width: float | None = None
    paper: float | None = None
    best: bool = False
    n_normal: int | None = None
    n_abnormal: int | None = None

    @property
    def least(self) -> float | None:
        """The lowest value of a seed."""
        return min(self.values, default=None)

    @property
    def most(self) -> float | None:
        """The highest value of a seed."""
        return max(self.values, default=None)

    @property
    def difference(self) -> float | None:
        """Our value minus the paper's."""
        return None if self.mean is None or self.paper is None else self.mean - self.paper


@dataclass(frozen=True)
class Entry:
    """One configuration on a board.

    Attributes:
        axis, value: axis and value of a grid, otherwise None.
        hyperparameters: those of its first trial, lambda among them.
        supervised: True if labels of the reported class chose its hyperparameters, its epoch or when it stopped.
        reference: True if the detector trains no network.
        cells: by abnormal class, those that were planned.
        mean: averaged over classes within each seed, then over the seeds in which every class has a value.
            Averaging within a seed first keeps in the interval the error that classes share.
        ranked: True if it is complete: each planned trial has ended with a value or a divergence, and each of its
            classes has a value.  Ranked configurations are compared if they have the same classes.
        exact: True if another seed would give the same, because the detector is deterministic.
        contender: True if it cannot be told from the best configuration with the same classes, which is one too.
        gap: class mean, divergence counting as chance, minus that of the best reference over
            the same classes; None for references.
        behind: lead of the best configuration with the same classes over this one; for a grid's configuration, of
            the default.  None for that one, and without a test.
        p_holm: p-value of that comparison, adjusted for the number of configurations.
        over_classes, over_classes_holm: the same question for other classes: best minus this one, over at least
            `sweep.leaderboard.board.FEWEST_CLASSES` classes, and its adjusted p-value.
        parameters: number of trained parameters; None before any trial has ended.
        train_seconds: mean over its trials.
        cpu_hours, gpu_hours, usd: sums over its trials; None if nothing is known.
        judging: how its trials were judged.
        first_seeds: number of first seeds that decided about more; None if the number of seeds was fixed.
    """

    study: str
    detector: str
    variant: str
    setting: str
    axis: str | None
    value: Any
    supervised: bool
    reference: bool
    cells: Mapping[str, Cell]
    mean: Cell
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    ranked: bool = False
    exact: bool = False
    contender: bool = False
    gap: float | None = None
    behind: Lead | None = None
    p_holm: float | None = None
    over_classes: Paired | None = None
    over_classes_holm: float | None = None
    parameters: int | None = None
    train_seconds: float | None = None
    cpu_hours: float | None = None
    gpu_hours: float | None = None
    usd: float | None = None
    judging: Judging = NOTHING_JUDGED
    first_seeds: int | None = None

    @property
    def name(self) -> tuple[str, str, str, str]:
        """Study, detector, variant and setting, which identify it on its board."""
        return (self.study, self.detector, self.variant, self.setting)


def first_row(units: Units) -> Row:
    """Return one row of a configuration, for fields that are equal in all of them."""
    return next(iter(next(iter(units.values())).values()))


def is_reference(row: Row, catalog: Mapping[str, DetectorInfo]) -> bool:
    """Return True if the detector of a row learns next to nothing."""
    return row["detector"] in catalog and catalog[row["detector"]].reference


def chance_by_class(rows: list[Row], metric: str) -> dict[str, float]:
    """Return the metric of random scores by class: AUROC 0.5, FPR equal to the TPR, precision equal to base rate."""
    fixed = {"auroc": 0.5, "fpr95": 0.95}.get(metric)
    ordered = sorted(rows, key=lambda row: row["base_rate"] or 0.0)
    return {row["abnormal"]: (row["base_rate"] or 0.0) if fixed is None else fixed for row in ordered}


def values_by_unit(units: Mapping[Unit, Row], metric: str, chance: float | None = None) -> dict[Unit, float]:
    """Return the metric by unit; diverged trials are left out, or count as `chance`."""
    ends = {unit: row[metric] if row["status"] == "ok" else chance for unit, row in units.items()}
    return {u: v for u, v in ends.items() if v is not None and units[u]["status"] in ("ok", "diverged")}


def make_entry(units: Units, metric: str, chance: Mapping[str, float], catalog: Mapping[str, DetectorInfo]) -> Entry:
    """Return the entry of a configuration, not yet compared with others.

    Args:
        units: its rows.
        metric: see `METRICS`.
        chance: metric of random scores by class.
        catalog: see `sweep.leaderboard.board.build`.
    """
    row = first_row(units)
    judging = judge_of(r for of_class in units.values() for r in of_class.values())
    study, detector, variant, setting = (row[column] for column in NAME)
    info = catalog.get(detector)
    exact = info is not None and info.deterministic
    published = setting == "" and info is not None and claims(info, variant)
    cells = {}
    for abnormal in units:
        paper = printed_value(detector, row["dataset"], row["protocol"], abnormal, metric) if published else None
        cell = _cell(units[abnormal], metric, chance[abnormal], exact)
        cells[abnormal] = replace(cell, paper=None if paper is None else paper.value)
    papers = [cell.paper for cell in cells.values() if cell.paper is not None]
    widths = [cell.test_half_width for cell in cells.values() if cell.test_half_width is not None]
    trials = {r["key"]: r for of_class in units.values() for r in of_class.values()}
    known = {
        name: [r[name] for _, r in sorted(trials.items()) if r[name] is not None]
        for name in ("parameters", "train_seconds", "cpu_hours", "gpu_hours", "usd")
    }
    return Entry(
        study,
        detector,
        variant,
        setting,
        axis=row["axis"],
        value=row["lam"] if row["axis"] == "lambda" else row.get(f"hp_{row['axis']}"),
        supervised=bool(judging.labels),
        reference=is_reference(row, catalog),
        cells=cells,
        mean=replace(
            class_mean(units, metric, chance),
            paper=_mean(papers) if len(papers) == len(cells) else None,
            test_half_width=_mean(widths) if len(widths) == len(cells) else None,
        ),
        hyperparameters={n[3:]: v for n, v in row.items() if n.startswith("hp_") and v is not None}
        | {"lambda": row["lam"]},
        ranked=is_complete(units),
        exact=exact,
        parameters=max(known["parameters"], default=None),
        train_seconds=_mean(known["train_seconds"]),
        cpu_hours=_sum(known["cpu_hours"]),
        gpu_hours=_sum(known["gpu_hours"]),
        usd=_sum(known["usd"]),
        judging=judging,
        first_seeds=row["first_seeds"],
    )


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _sum(values: Sequence[float]) -> float | None:
    return math.fsum(values) if values else None


def _cell(units: Mapping[Unit, Row], metric: str, chance: float, exact: bool) -> Cell:
    values = list(values_by_unit(units, metric).values())
    counted = _mean(list(values_by_unit(units, metric, chance).values()))
    cell = _ends(Cell(n_planned=len(units), counted=counted), units.values())
    if not values:
        return cell
    rows = [row for row in units.values() if row["status"] == "ok"]
    errors = [row["auroc_se"] for row in rows if row["auroc_se"] is not None]
    error = fmean(errors) if metric == "auroc" and len(errors) == len(values) else None
    return replace(
        _spread(cell, values, _step(rows, metric), error if exact else None),
        test_half_width=None if error is None else NORMAL_QUANTILE * error,
        n_normal=max((row["n_normal"] for row in rows if row["n_normal"] is not None), default=None),
        n_abnormal=max((row["n_abnormal"] for row in rows if row["n_abnormal"] is not None), default=None),
    )


def _spread(cell: Cell, values: Sequence[float], step: float, error: float | None) -> Cell:
    """Add mean, range and interval to a cell.

    Args:
        cell: cell with its counts.
        values: one for each seed, at least one.
        step: see `sweep.leaderboard.stats.logit_interval`.
        error: DeLong's standard error, for a single value that another seed would give again.
    """
    mean, sd, _ = interval(values)
    low = high = None
    if len(values) > 1:
        low, high = logit_interval(values, step)
    elif error is not None:
        low, high = logit_range(mean, error)
    return replace(cell, n=len(values), mean=mean, sd=sd, low=low, high=high, values=tuple(values))


def _step(rows: Sequence[Row], metric: str) -> float:
    """Return the smallest difference between two values of a metric, given the size of the smallest test set."""
    sizes = [(row["n_normal"], row["n_abnormal"]) for row in rows if row["n_normal"] and row["n_abnormal"]]
    if not sizes:
        return FINEST
    normal, abnormal = min(sizes)
    return 1.0 / float({"auroc": normal * abnormal, "fpr95": normal}.get(metric, normal + abnormal))


def class_mean(units: Units, metric: str, chance: Mapping[str, float]) -> Cell:
    """Return `Entry.mean` without what papers printed and without errors of the test set."""
    planned = sorted({unit for of_class in units.values() for unit in of_class})

    def by_unit(values: Sequence[Mapping[Unit, float]]) -> list[float]:
        complete = [unit for unit in planned if all(unit in of_class for of_class in values)]
        return [fmean([of_class[unit] for of_class in values]) for unit in complete]

    counted = by_unit([values_by_unit(units[abnormal], metric, chance[abnormal]) for abnormal in units])
    rows = [row for of_class in units.values() for row in of_class.values()]
    cell = _ends(Cell(n_planned=len(planned), counted=_mean(counted)), rows)
    means = by_unit([values_by_unit(of_class, metric) for of_class in units.values()])
    if not means:
        return cell
    found = _spread(cell, means, _step(rows, metric) / len(units), None)
    first = rows[0]["first_seeds"]
    if metric != "auroc" or first is None or len(means) < first:
        return found
    low, high = stein_interval(means, first)
    return replace(found, low=low, high=high)


def _ends(cell: Cell, rows: Iterable[Row]) -> Cell:
    statuses = [row["status"] for row in rows]
    diverged, failed, stale = (statuses.count(end) for end in ("diverged", "failed", "stale"))
    return replace(cell, diverged=diverged, failed=failed, stale=stale)


def is_complete(units: Units) -> bool:
    """Return True if every planned trial has ended with a value or a divergence, and every class has a value."""
    ends = [[row["status"] for row in of_class.values()] for of_class in units.values()]
    return all(set(of_class) <= {"ok", "diverged"} and "ok" in of_class for of_class in ends)


def with_test_error(entry: Entry, error: float | None) -> Entry:
    """Return a deterministic configuration with DeLong's interval around its class mean."""
    mean = entry.mean
    if error is None or mean.mean is None or mean.low is not None:
        return entry
    low, high = logit_range(mean.mean, error)
    return replace(entry, mean=replace(mean, low=low, high=high))
