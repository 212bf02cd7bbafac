"""Boards, built from rows in long form: which detector is better, by how much, and by more than chance?

There is one board per dataset and protocol.  Its lines are configurations (study, detector, variant,
setting), its columns are abnormal classes and their mean.  The order of the rows does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from models.catalog import DETECTORS
from models.info import DetectorInfo
from sweep.leaderboard.entry import (
    LOWER_IS_BETTER,
    METRICS,
    NAME,
    Cell,
    Entry,
    Units,
    chance_by_class,
    class_mean,
    first_row,
    is_reference,
    make_entry,
    values_by_unit,
    with_test_error,
)
from sweep.leaderboard.headline import ClassMeans, Lead, ReadScores, TestImages, Unit, compare_lines, read_class_means
from sweep.leaderboard.rows import Row
from sweep.leaderboard.stats import ALPHA, compare_pairs, holm

FEWEST_CLASSES = 6  # a test over fewer classes has almost no power, so there is none
UNTRAINED = "untrained"  # variant of a network with its initial weights


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
class Reference:
    """The best trained configuration beside the best reference that is not trained, over the same classes.

    Attributes:
        trained, untrained: their names.
        lead: lead of the trained one; None without a test.
    """

    trained: tuple[str, str, str, str]
    untrained: tuple[str, str, str, str]
    lead: Lead | None


@dataclass(frozen=True)
class Board:
    """Configurations of one dataset and protocol: complete ones first, by number of classes and then best first.

    Attributes:
        reference: comparison of the best trained configuration; None if there is none, or nothing to compare it with.
    """

    dataset: str
    protocol: str
    classes: tuple[str, ...]
    lines: tuple[Entry, ...]
    grids: tuple[Grid, ...]
    reference: Reference | None = None


@dataclass(frozen=True)
class Leaderboard:
    """All boards for one selection of the epoch, one evaluation and one metric.

    Attributes:
        beside: the same by further metrics, whose class means are shown beside.
    """

    selection: str
    evaluation: str
    metric: str
    boards: tuple[Board, ...]
    beside: tuple[Leaderboard, ...] = ()


Build = Callable[[str, str, str], Leaderboard]  # by selection, evaluation and metric


def build(
    rows: Iterable[Row],
    selection: str = "last",
    evaluation: str = "clean",
    metric: str = "auroc",
    catalog: Mapping[str, DetectorInfo] = DETECTORS,
    scores: ReadScores | None = None,
) -> Leaderboard:
    """Aggregate rows of `sweep.leaderboard.rows.build_rows`; their order does not matter.

    Args:
        rows: all rows; only those of the selection and evaluation are used.
        selection: "last", "val" or "oracle".
        evaluation: "clean", "legacy_ordered" or "legacy_shuffled".
        metric: "auroc", "ap" or "fpr95".
        catalog: detectors by name; determines which are references, which are deterministic, and which variant is the
            default.
        scores: reads per-sample scores, for the error of the finite test set; None if there are none.

    Configurations are compared for epochs that the test set did not choose, and for the clean evaluation.

    Raises:
        ValueError: if the metric is unknown, or two different trials claim one seed of one cell.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric {metric!r}; legal are {', '.join(METRICS)}")
    boards: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if (row["selection"], row["evaluation"]) == (selection, evaluation):
            boards.setdefault((row["dataset"], row["protocol"]), []).append(row)
    tested = evaluation == "clean" and selection != "oracle"
    read = scores if metric == "auroc" else None
    built = tuple(_board(found, metric, catalog, read, tested) for _, found in sorted(boards.items()))
    return Leaderboard(selection, evaluation, metric, built)


def builder(
    rows: Iterable[Row], catalog: Mapping[str, DetectorInfo] = DETECTORS, scores: ReadScores | None = None
) -> Build:
    """Return a function that builds each leaderboard of these rows once, by selection, evaluation and metric."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["selection"], row["evaluation"]), []).append(row)
    return cache(lambda epoch, how, metric: build(found.get((epoch, how), ()), epoch, how, metric, catalog, scores))


def class_order(name: str) -> tuple[int, int, str]:
    """Return the sort key of a class name: digits first, by their number; then words, by their letters."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def _board(
    rows: list[Row], metric: str, catalog: Mapping[str, DetectorInfo], scores: ReadScores | None, tested: bool
) -> Board:
    classes = tuple(sorted({row["abnormal"] for row in rows}, key=class_order))
    chance = chance_by_class(rows, metric)
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    configurations = _configurations(rows)
    references = [units for units in configurations if is_reference(first_row(units), catalog)]
    lines = []
    for units in configurations:
        line = make_entry(units, metric, chance, catalog)
        lines.append(line if line.reference else replace(line, gap=_gap(units, references, metric, chance, sign)))
    lines.sort(key=lambda line: _standing(line, sign))
    shown = _mark_best([line for line in lines if line.axis is None], classes, sign)
    grids = _grids([line for line in lines if line.axis is not None], configurations)
    reference = None
    if tested:
        tests = _Tests(configurations, metric, chance, sign, scores)
        shown, reference = tests.lines(shown)
        grids = tuple(tests.grid(grid) for grid in grids)
    return Board(rows[0]["dataset"], rows[0]["protocol"], classes, tuple(shown), grids, reference)


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


def _gap(units: Units, references: list[Units], metric: str, chance: Mapping[str, float], sign: float) -> float | None:
    """Return how far this configuration is above the best reference, over the classes of this one."""
    own = class_mean(units, metric, chance).counted
    rivals = [
        class_mean({abnormal: rival[abnormal] for abnormal in units}, metric, chance).counted
        for rival in references
        if first_row(rival)["axis"] is None and set(units) <= set(rival)
    ]
    means = [sign * mean for mean in rivals if mean is not None]
    return own - sign * max(means) if own is not None and means else None


def _standing(line: Entry, sign: float) -> tuple[bool, int, bool, float, tuple[str, ...]]:
    """Return the sort key of a configuration: complete ones first, with most classes, best first, then by name."""
    mean = line.mean.counted if line.ranked else line.mean.mean
    return (not line.ranked, -len(line.cells), mean is None, 0.0 if mean is None else -sign * mean, line.name)


def groups(lines: Iterable[Entry]) -> list[list[Entry]]:
    """Group the complete configurations by their classes, in order: only these are compared with each other."""
    found: dict[tuple[str, ...], list[Entry]] = {}
    for line in lines:
        if line.ranked:
            found.setdefault(tuple(line.cells), []).append(line)
    return list(found.values())


def _mark_best(lines: list[Entry], classes: tuple[str, ...], sign: float) -> list[Entry]:
    """Mark the best of every column: among complete configurations, if there are any.

    A diverged trial counts as chance, so that a detector cannot win by the mean of its remaining trials.
    """
    able = [line for line in lines if line.ranked] or lines
    leaders = {line.name for line in next(iter(groups(lines)), ())}

    def best(values: Iterable[float | None]) -> float | None:
        return max((sign * value for value in values if value is not None), default=None)

    tops = {name: best(line.cells[name].counted for line in able if name in line.cells) for name in classes}
    top = best(line.mean.counted for line in able if line.name in leaders)

    def marked(cell: Cell, top: float | None) -> Cell:
        return replace(cell, best=cell.counted is not None and sign * cell.counted == top)

    return [
        replace(
            line,
            cells={n: marked(cell, tops[n] if line in able else None) for n, cell in line.cells.items()},
            mean=marked(line.mean, top if line.name in leaders else None),
        )
        for line in lines
    ]


class _Tests:
    """Comparisons of the configurations of one board.

    Args:
        configurations: rows of all of them.
        metric, chance, sign: see `_board`.
        scores: reads scores; None without the error of the test set.
    """

    def __init__(
        self,
        configurations: Iterable[Units],
        metric: str,
        chance: Mapping[str, float],
        sign: float,
        scores: ReadScores | None,
    ) -> None:
        self._rows = {tuple(first_row(units)[column] for column in NAME): units for units in configurations}
        self._metric, self._chance, self._sign, self._scores = metric, chance, sign, scores
        self._images = TestImages()

    def _read(self, line: Entry) -> ClassMeans:
        units = self._rows[line.name]
        values = [values_by_unit(units[name], self._metric, self._chance[name]) for name in units]
        return read_class_means(values, list(units.values()), line.exact, self._images, self._scores)

    def lines(self, lines: Sequence[Entry]) -> tuple[list[Entry], Reference | None]:
        """Compare the configurations of each group with its first, and the best trained one with a reference."""
        found = {line.name: line for line in lines}
        reference = None
        for number, group in enumerate(groups(lines)):
            ends = [next((line for line in group if is_untrained(line) == wanted), None) for wanted in (False, True)]
            kept: set[tuple[str, ...]] = {line.name for line in ends if line is not None}
            means: dict[tuple[str, ...], ClassMeans] = {}
            compared = list(self._against(group[0], group, means, kept))
            found |= {line.name: line for line in _over_classes(compared)}
            trained, untrained = ends
            if number == 0 and trained is not None and untrained is not None:
                lead = compare_lines(means[trained.name], means[untrained.name], self._sign)
                reference = Reference(trained.name, untrained.name, lead)
        return list(found.values()), reference

    def grid(self, grid: Grid) -> Grid:
        """Compare the values of a grid with its default."""
        default = next((line for line in grid.lines if line.ranked and line.value == grid.default), None)
        if default is None:
            return grid
        alike = [line for line in grid.lines if line.ranked and line.cells.keys() == default.cells.keys()]
        compared = {line.name: line for line in self._against(default, alike, {}, set())}
        return replace(grid, lines=tuple(compared.get(line.name, line) for line in grid.lines))

    def _against(
        self, first: Entry, lines: Sequence[Entry], means: dict[tuple[str, ...], ClassMeans], kept: set[tuple[str, ...]]
    ) -> Iterator[Entry]:
        """Yield the lines with their comparison with the first; put the class means of `kept` ones into `means`."""
        best = self._read(first)
        leads: dict[tuple[str, ...], Lead] = {}
        errors = {first.name: best.standard_error}
        for line in lines:
            found = best if line is first else self._read(line)
            errors[line.name] = found.standard_error
            if line.name in kept:
                means[line.name] = found
            lead = None if line is first else compare_lines(best, found, self._sign)
            if lead is not None:
                leads[line.name] = lead
        adjusted = dict(zip(leads, holm([lead.p for lead in leads.values()]), strict=True))
        for line in lines:
            whole = with_test_error(line, errors[line.name]) if line.exact else line
            if line is first:
                yield replace(whole, contender=bool(leads))
            elif line.name in leads:
                p = adjusted[line.name]
                yield replace(whole, behind=leads[line.name], p_holm=p, contender=p > ALPHA)
            else:
                yield whole


def is_untrained(line: Entry) -> bool:
    """Return True if nothing of a configuration is trained."""
    return line.reference or line.variant == UNTRAINED


def _over_classes(group: Sequence[Entry]) -> Iterator[Entry]:
    """Yield the lines of a group with their comparison with the first over classes, if there are enough of them."""
    values = [[cell.counted for cell in line.cells.values() if cell.counted is not None] for line in group]
    if len(group) < 2 or len(group[0].cells) < FEWEST_CLASSES:
        yield from group
        return
    pairs = [compare_pairs(values[0], other) for other in values[1:]]
    adjusted = holm([pair.p for pair in pairs])
    yield group[0]
    for line, pair, p in zip(group[1:], pairs, adjusted, strict=True):
        yield replace(line, over_classes=pair, over_classes_holm=p)


def _grids(lines: list[Entry], configurations: list[Units]) -> tuple[Grid, ...]:
    """Return one grid per study, detector, variant and axis."""
    central = {tuple(row[column] for column in NAME) for row in map(first_row, configurations) if row["centre"]}
    found: dict[tuple[str, str, str, str], list[Entry]] = {}
    for line in lines:
        found.setdefault((*line.name[:3], str(line.axis)), []).append(line)
    grids = []
    for (study, detector, variant, axis), points in sorted(found.items()):
        points.sort(key=lambda line: (isinstance(line.value, str), line.value))
        default = next((point.value for point in points if point.name in central), None)
        grids.append(Grid(study, detector, variant, axis, default, tuple(points)))
    return tuple(grids)
