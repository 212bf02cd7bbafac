"""Boards, built from rows in long form: which detector is better, by how much, and by more than chance?

There is one board per dataset and protocol.  Its lines are configurations (study, detector, variant,
setting), its columns are abnormal classes and their mean.  The order of the rows does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from models.catalog import DETECTORS, DetectorInfo
from sweep.leaderboard.papers import printed_value
from sweep.leaderboard.rows import Row
from sweep.leaderboard.stats import ALPHA, NORMAL_QUANTILE, Paired, against_best, interval

METRICS = {"auroc": "AUROC", "ap": "average precision", "fpr95": "FPR at 95 % TPR"}
LOWER_IS_BETTER = frozenset({"fpr95"})
NAME = ("study", "detector", "variant", "setting")  # columns that identify a configuration

Unit = tuple[int, int]  # (split seed, training seed): intervals are over these
Units = Mapping[str, Mapping[Unit, Row]]  # rows of one configuration by abnormal class and unit


@dataclass(frozen=True)
class Cell:
    """One number of a board.

    Attributes:
        mean, sd, half_width: over seeds, without diverged trials; the interval is a 95 % t-interval.  None
            if there are too few values.
        n, n_planned: seeds with a value, seeds planned.
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
    half_width: float | None = None
    n: int = 0
    n_planned: int = 0
    diverged: int = 0
    failed: int = 0
    stale: int = 0
    counted: float | None = None
    test_half_width: float | None = None
    paper: float | None = None
    best: bool = False

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
        supervised: True if labels of the reported class chose its hyperparameters.
        trivial: True if the detector learns next to nothing.
        cells: by abnormal class, those that were planned.
        mean: averaged over classes within each seed, then over the seeds in which every class has a value.
            Averaging within a seed first keeps in the interval the error that classes share.  With n = 0 the
            mean is over all values that exist.
        ranked: True if at least one seed has, for every class, a value or a divergence.  The classes are
            those of the board; for a grid's configuration, its own.
        contender: True if not significantly worse than the best ranked configuration, which is one too.
        gap: class mean, divergence counting as chance, minus that of the best trivial detector over
            the same classes; None for trivial detectors.
        behind: best ranked configuration minus this one, over classes; None for the best, and without a test.
        p_holm: p-value of that comparison, adjusted for the number of configurations.
        parameters: number of trained parameters; None before any trial has ended.
        train_seconds: mean over its trials.
        cpu_hours, gpu_hours, usd: sums over its trials; None if nothing is known.
    """

    study: str
    detector: str
    variant: str
    setting: str
    axis: str | None
    value: Any
    supervised: bool
    trivial: bool
    cells: Mapping[str, Cell]
    mean: Cell
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    ranked: bool = False
    contender: bool = False
    gap: float | None = None
    behind: Paired | None = None
    p_holm: float | None = None
    parameters: int | None = None
    train_seconds: float | None = None
    cpu_hours: float | None = None
    gpu_hours: float | None = None
    usd: float | None = None

    @property
    def name(self) -> tuple[str, str, str, str]:
        """Study, detector, variant and setting, which identify it on its board."""
        return (self.study, self.detector, self.variant, self.setting)


@dataclass(frozen=True)
class Grid:
    """Configurations that vary one hyperparameter, by value; `default` is None if no configuration has it."""

    study: str
    detector: str
    variant: str
    axis: str
    default: Any
    lines: tuple[Entry, ...]


@dataclass(frozen=True)
class Board:
    """Configurations of one dataset and protocol, best first; those that cannot be ranked last.

    Attributes:
        tested: True if `contender` is based on tests, which need two classes and two ranked configurations.
    """

    dataset: str
    protocol: str
    classes: tuple[str, ...]
    lines: tuple[Entry, ...]
    grids: tuple[Grid, ...]
    tested: bool


@dataclass(frozen=True)
class Leaderboard:
    """All boards for one selection of the epoch, one evaluation and one metric."""

    selection: str
    evaluation: str
    metric: str
    boards: tuple[Board, ...]


Build = Callable[[str, str, str], Leaderboard]  # by selection, evaluation and metric


def build(
    rows: Iterable[Row],
    selection: str = "last",
    evaluation: str = "clean",
    metric: str = "auroc",
    catalog: Mapping[str, DetectorInfo] = DETECTORS,
) -> Leaderboard:
    """Aggregate rows of `sweep.leaderboard.rows.build_rows`; their order does not matter.

    Args:
        rows: all rows; only those of the selection and evaluation are used.
        selection: "last", "val" or "oracle".
        evaluation: "clean", "legacy_ordered" or "legacy_shuffled".
        metric: "auroc", "ap" or "fpr95".
        catalog: detectors by name; determines which are trivial and which variant is the default.

    Raises:
        ValueError: if the metric is unknown, or two different trials claim one seed of one cell.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; legal are {', '.join(METRICS)}")
    boards: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if (row["selection"], row["evaluation"]) == (selection, evaluation):
            boards.setdefault((row["dataset"], row["protocol"]), []).append(row)
    built = tuple(_board(found, metric, catalog) for _, found in sorted(boards.items()))
    return Leaderboard(selection, evaluation, metric, built)


def builder(rows: Iterable[Row], catalog: Mapping[str, DetectorInfo] = DETECTORS) -> Build:
    """Return a function that builds each leaderboard of these rows once, by selection, evaluation and metric."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["selection"], row["evaluation"]), []).append(row)
    return cache(lambda epoch, how, metric: build(found.get((epoch, how), ()), epoch, how, metric, catalog))


def class_order(name: str) -> tuple[int, int, str]:
    """Return the sort key of a class name: digits first, by their number; then words, by their letters."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _board(rows: list[Row], metric: str, catalog: Mapping[str, DetectorInfo]) -> Board:
    classes = tuple(sorted({row["abnormal"] for row in rows}, key=class_order))
    chance = _chance(rows, metric)
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    configurations = _configurations(rows)
    trivial = [units for units in configurations if _is_trivial(_first(units), catalog)]
    lines = []
    for units in configurations:
        line = _line(units, metric, chance, catalog)
        if not line.trivial:
            line = replace(line, gap=_gap(units, trivial, metric, chance, sign))
        whole = line.axis is not None or len(line.cells) == len(classes)
        lines.append(replace(line, ranked=line.ranked and whole))
    lines.sort(key=lambda line: _standing(line, sign))
    shown, tested = _compare([line for line in lines if line.axis is None], classes, sign)
    grids = _grids([line for line in lines if line.axis is not None], configurations)
    return Board(rows[0]["dataset"], rows[0]["protocol"], classes, shown, grids, tested)


def _configurations(rows: list[Row]) -> list[Units]:
    """Group rows by configuration (sorted by name), class (in order) and unit (in order).

    Raises:
        ValueError: if two different trials claim one unit.
    """
    found: dict[tuple[str, ...], dict[str, dict[Unit, Row]]] = {}
    for row in rows:
        name = tuple(row[column] for column in NAME)
        unit = (row["split_seed"], row["seed"])
        other = found.setdefault(name, {}).setdefault(row["abnormal"], {}).setdefault(unit, row)
        if (other["key"], other["lam"]) != (row["key"], row["lam"]):
            raise ValueError(
                f"two different trials claim {' '.join(part for part in name if part)}, abnormal "
                f"{row['abnormal']}, split seed {unit[0]}, seed {unit[1]}: "
                f"{' and '.join(sorted((other['key'], row['key'])))}; give their studies different names"
            )
    return [
        {abnormal: dict(sorted(units[abnormal].items())) for abnormal in sorted(units, key=class_order)}
        for _, units in sorted(found.items())
    ]


def _first(units: Units) -> Row:
    """Return one row of a configuration, for fields that are equal in all of them."""
    return next(iter(next(iter(units.values())).values()))


def _is_trivial(row: Row, catalog: Mapping[str, DetectorInfo]) -> bool:
    return row["detector"] in catalog and catalog[row["detector"]].reference


def _chance(rows: list[Row], metric: str) -> dict[str, float]:
    """Return the metric of random scores by class: AUROC 0.5, FPR equal to the TPR, precision equal to base rate."""
    fixed = {"auroc": 0.5, "fpr95": 0.95}.get(metric)
    ordered = sorted(rows, key=lambda row: row["base_rate"] or 0.0)
    return {row["abnormal"]: (row["base_rate"] or 0.0) if fixed is None else fixed for row in ordered}


def _values(units: Mapping[Unit, Row], metric: str, chance: float | None = None) -> dict[Unit, float]:
    """Return the metric by unit; diverged trials are left out, or count as `chance`."""
    ends = {unit: row[metric] if row["status"] == "ok" else chance for unit, row in units.items()}
    return {u: v for u, v in ends.items() if v is not None and units[u]["status"] in ("ok", "diverged")}


def _line(units: Units, metric: str, chance: Mapping[str, float], catalog: Mapping[str, DetectorInfo]) -> Entry:
    row = _first(units)
    study, detector, variant, setting = (row[column] for column in NAME)
    info = catalog.get(detector)
    published = setting == "" and info is not None and variant == info.default_variant
    cells = {}
    for abnormal in units:
        paper = printed_value(detector, row["dataset"], row["protocol"], abnormal, metric) if published else None
        cell = _cell(units[abnormal], metric, chance[abnormal])
        cells[abnormal] = replace(cell, paper=None if paper is None else paper.value)
    mean, complete = _class_mean(units, metric, chance)
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
        supervised=row["objective"] == "labelled",
        trivial=_is_trivial(row, catalog),
        cells=cells,
        mean=replace(
            mean,
            paper=_mean(papers) if len(papers) == len(cells) else None,
            test_half_width=_mean(widths) if len(widths) == len(cells) else None,
        ),
        hyperparameters={n[3:]: v for n, v in row.items() if n.startswith("hp_") and v is not None}
        | {"lambda": row["lam"]},
        ranked=complete,
        parameters=max(known["parameters"], default=None),
        train_seconds=_mean(known["train_seconds"]),
        cpu_hours=_sum(known["cpu_hours"]),
        gpu_hours=_sum(known["gpu_hours"]),
        usd=_sum(known["usd"]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return interval(values).mean if values else None


def _sum(values: Sequence[float]) -> float | None:
    return math.fsum(values) if values else None


def _cell(units: Mapping[Unit, Row], metric: str, chance: float) -> Cell:
    values = list(_values(units, metric).values())
    counted = _mean(list(_values(units, metric, chance).values()))
    cell = _ends(Cell(n_planned=len(units), counted=counted), units.values())
    if not values:
        return cell
    errors = [r["auroc_se"] for r in units.values() if r["status"] == "ok" and r["auroc_se"] is not None]
    width = NORMAL_QUANTILE * interval(errors).mean if metric == "auroc" and len(errors) == len(values) else None
    return replace(cell, n=len(values), test_half_width=width, **interval(values)._asdict())


def _class_mean(units: Units, metric: str, chance: Mapping[str, float]) -> tuple[Cell, bool]:
    """Return `Entry.mean`, and whether any seed has a value or a divergence in every class."""
    planned = sorted({unit for of_class in units.values() for unit in of_class})

    def by_unit(values: Sequence[Mapping[Unit, float]]) -> list[float]:
        complete = [unit for unit in planned if all(unit in of_class for of_class in values)]
        return [interval([of_class[unit] for of_class in values]).mean for unit in complete]

    counted = by_unit([_values(units[abnormal], metric, chance[abnormal]) for abnormal in units])
    plain = [_values(of_class, metric) for of_class in units.values()]
    rows = (row for of_class in units.values() for row in of_class.values())
    cell = _ends(Cell(n_planned=len(planned), counted=_mean(counted)), rows)
    if means := by_unit(plain):
        return replace(cell, n=len(means), **interval(means)._asdict()), True
    partial = [interval(list(values.values())).mean for values in plain if values]
    return replace(cell, mean=_mean(partial)), bool(counted)


def _ends(cell: Cell, rows: Iterable[Row]) -> Cell:
    statuses = [row["status"] for row in rows]
    diverged, failed, stale = (statuses.count(end) for end in ("diverged", "failed", "stale"))
    return replace(cell, diverged=diverged, failed=failed, stale=stale)


def _gap(units: Units, trivial: list[Units], metric: str, chance: Mapping[str, float], sign: float) -> float | None:
    """Return how far this configuration is above the best trivial one, over the classes of this one."""
    own = _class_mean(units, metric, chance)[0].counted
    rivals = [
        _class_mean({abnormal: rival[abnormal] for abnormal in units}, metric, chance)[0].counted
        for rival in trivial
        if _first(rival)["axis"] is None and set(units) <= set(rival)
    ]
    means = [sign * mean for mean in rivals if mean is not None]
    return own - sign * max(means) if own is not None and means else None


def _standing(line: Entry, sign: float) -> tuple[bool, bool, float, tuple[str, ...]]:
    """Return the sort key of a configuration: ranked ones first, best first, then by name."""
    mean = line.mean.counted if line.ranked else line.mean.mean
    return (not line.ranked, mean is None, 0.0 if mean is None else -sign * mean, line.name)


def _compare(lines: list[Entry], classes: tuple[str, ...], sign: float) -> tuple[tuple[Entry, ...], bool]:
    """Mark the best of every column, and the ranked configurations that may be as good as the first.

    A diverged trial counts as chance, so that a detector cannot win by the mean of its remaining trials.
    """
    columns = [[line.cells.get(abnormal, Cell()).counted for line in lines] for abnormal in classes]
    columns.append([line.mean.counted if line.ranked else None for line in lines])
    tops = [max((sign * value for value in column if value is not None), default=None) for column in columns]

    def marked(cell: Cell, value: float | None, top: float | None) -> Cell:
        return replace(cell, best=value is not None and sign * value == top)

    ranked = [line for line in lines if line.ranked]
    tested = len(ranked) > 1 and len(classes) > 1
    compared: dict[tuple[str, ...], dict[str, Any]] = {}
    if tested:
        compared[ranked[0].name] = {"contender": True}
        means = [[c for name in classes if (c := line.cells[name].counted) is not None] for line in ranked]
        for line, (behind, p_holm) in zip(ranked[1:], against_best(means[0], means[1:]), strict=True):
            compared[line.name] = {"contender": p_holm > ALPHA, "behind": behind, "p_holm": p_holm}
    top_of = dict(zip(classes, tops[:-1], strict=True))
    return tuple(
        replace(
            line,
            cells={name: marked(cell, cell.counted, top_of[name]) for name, cell in line.cells.items()},
            mean=marked(line.mean, line.mean.counted if line.ranked else None, tops[-1]),
            **compared.get(line.name, {}),
        )
        for line in lines
    ), tested


def _grids(lines: list[Entry], configurations: list[Units]) -> tuple[Grid, ...]:
    """Return one grid per study, detector, variant and axis."""
    central = {tuple(row[column] for column in NAME) for row in map(_first, configurations) if row["centre"]}
    found: dict[tuple[str, str, str, str], list[Entry]] = {}
    for line in lines:
        found.setdefault((*line.name[:3], str(line.axis)), []).append(line)
    grids = []
    for (study, detector, variant, axis), points in sorted(found.items()):
        points.sort(key=lambda line: (isinstance(line.value, str), line.value))
        default = next((point.value for point in points if point.name in central), None)
        grids.append(Grid(study, detector, variant, axis, default, tuple(points)))
    return tuple(grids)
