"""Comparison of two detectors on the same cells: the headline of the board, and separate answers to its two parts.

Is the difference more than the error of a finite test set?  DeLong's test of two correlated AUROCs uses
per-sample scores, with the seeds of each detector averaged.  Its answer is about these trained detectors.
Is it more than the variation between seeds?  Welch's t test compares the seeds.  Its answer is about
training again, on this test set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from models.catalog import DETECTORS
from models.info import DetectorInfo
from sweep.errors import UserError
from sweep.leaderboard.board import class_order
from sweep.leaderboard.entry import NAME
from sweep.leaderboard.headline import ClassMeans, Lead, TestImages, compare_lines, read_class_means
from sweep.leaderboard.rows import Row, samples_of
from sweep.leaderboard.stats import NORMAL_QUANTILE, Difference, Paired, compare_pairs, holm, interval, normal_p, welch

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

Name = tuple[str, str, str, str]  # study, detector, variant, setting


@dataclass(frozen=True)
class CellComparison:
    """AUROC of two detectors on one abnormal class, or their class means.

    Attributes:
        first, second: means over seeds.
        n_first, n_second: numbers of seeds.
        difference: first minus second, with 95 % half-width and p for the finite test set, by DeLong.
        p_holm: p adjusted for the number of classes; None for the class mean.
        seeds: the difference over seeds, by Welch; None if a detector that is not deterministic has one seed.
    """

    first: float
    second: float
    n_first: int
    n_second: int
    difference: Difference
    seeds: Difference | None
    p_holm: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Comparison of two configurations of one dataset and protocol.

    Attributes:
        first, second: study, detector, variant, setting.
        cells: by abnormal class, for classes in which both have results on the same splits.
        mean: comparison of the class means over those classes; None if there is no such class.
        classes: first minus second over those classes, seeds averaged; None for fewer than two.
        lead: lead of the first in the class mean, by seeds and test set together, as on the board; None if one of them
            shows no variation.
    """

    dataset: str
    protocol: str
    first: Name
    second: Name
    cells: Mapping[str, CellComparison]
    mean: CellComparison | None
    classes: Paired | None
    lead: Lead | None


@dataclass(frozen=True)
class _Side:
    """One detector on one class: AUROC by (split seed, seed), and the influence of each sample on their mean."""

    aurocs: Mapping[tuple[int, int], float]
    ids: npt.NDArray[Any]
    influence: npt.NDArray[np.float64]


def compare(
    rows: Iterable[Row],
    first: str,
    second: str,
    scores: Callable[[str], pa.Table],
    selection: str = "last",
    evaluation: str = "clean",
    catalog: Mapping[str, DetectorInfo] = DETECTORS,
) -> tuple[Comparison, ...]:
    """Compare two detectors on every dataset and protocol where both are.

    Args:
        rows: rows of `sweep.leaderboard.rows.build_rows`; only finished ones of the selection and evaluation
            are used.
        first, second: names: detector, then as much of variant, setting and study as is needed, for example
            "ganomaly", "ganomaly paper", "ganomaly repo_head searched".
        scores: reads scores.parquet of a key.
        selection, evaluation: see `sweep.leaderboard.board.build`.
        catalog: determines which detectors are deterministic, and which variant a detector's name means.

    Raises:
        UserError: if a name matches nothing or several configurations, or the two share no board.
    """
    boards: dict[tuple[str, str], dict[Name, list[Row]]] = {}
    for row in rows:
        if (row["selection"], row["evaluation"]) == (selection, evaluation):
            study, detector, variant, setting = (row[column] for column in NAME)
            lines = boards.setdefault((row["dataset"], row["protocol"]), {})
            lines.setdefault((study, detector, variant, setting), []).append(row)
    known = {name for lines in boards.values() for name in lines}
    names = [_find_entry(text, known, catalog) for text in (first, second)]
    if names[0] == names[1]:
        raise UserError(
            f"--compare takes two different detectors; {first!r} and {second!r} are both {full_name(names[0])}"
        )
    found = [
        _compare(board, names[0], names[1], lines, scores, catalog)
        for board, lines in sorted(boards.items())
        if names[0] in lines and names[1] in lines
    ]
    if not found:
        raise UserError(
            f"{full_name(names[0])} and {full_name(names[1])} are on no common board: "
            "they share no dataset and protocol"
        )
    return tuple(found)


def _compare(
    board: tuple[str, str],
    first: Name,
    second: Name,
    lines: Mapping[Name, Sequence[Row]],
    scores: Callable[[str], pa.Table],
    catalog: Mapping[str, DetectorInfo],
) -> Comparison:

    rows = [[row for row in lines[name] if row["status"] == "ok"] for name in (first, second)]
    exact = [name[1] in catalog and catalog[name[1]].deterministic for name in (first, second)]
    classes = sorted({row["abnormal"] for row in rows[0]} & {row["abnormal"] for row in rows[1]}, key=class_order)
    cells: dict[str, CellComparison] = {}
    values: list[tuple[_Side, _Side]] = []
    apart: list[tuple[npt.NDArray[Any], npt.NDArray[np.float64]]] = []
    for abnormal in classes:
        mine = [[row for row in side if row["abnormal"] == abnormal] for side in rows]
        splits = {row["split_seed"] for row in mine[0]} & {row["split_seed"] for row in mine[1]}
        a, b = (_side([row for row in side if row["split_seed"] in splits], scores) for side in mine)
        if a is None or b is None:
            continue
        apart.append(_sum_by_id([(a.ids, a.influence), (b.ids, -b.influence)]))
        values.append((a, b))
        cells[abnormal] = _judge(list(a.aurocs.values()), list(b.aurocs.values()), exact, apart[-1][1])
    adjusted = holm([cell.difference.p for cell in cells.values()])
    cells = {name: replace(cell, p_holm=p) for (name, cell), p in zip(cells.items(), adjusted, strict=True)}
    mean = None
    if cells:
        influence = _sum_by_id(apart)[1] / len(apart)
        by_seed = [_complete([pair[side].aurocs for pair in values]) for side in (0, 1)]
        mean = _judge(by_seed[0], by_seed[1], exact, influence) if all(by_seed) else None
    means = [[getattr(cell, side) for cell in cells.values()] for side in ("first", "second")]
    images = TestImages()
    lead = None
    if cells:
        sides = [_class_means(side, cells, known, images, scores) for side, known in zip(rows, exact, strict=True)]
        lead = compare_lines(sides[0], sides[1])
    return Comparison(*board, first, second, cells, mean, compare_pairs(*means) if len(cells) > 1 else None, lead)


def _class_means(
    rows: Sequence[Row], classes: Iterable[str], exact: bool, images: TestImages, scores: Callable[[str], pa.Table]
) -> ClassMeans:
    units = [{(r["split_seed"], r["seed"]): r for r in rows if r["abnormal"] == name} for name in classes]
    values = [{unit: row["auroc"] for unit, row in of_class.items()} for of_class in units]
    return read_class_means(values, units, exact, images, lambda keys: ((key, scores(key)) for key in keys))


def _side(rows: Sequence[Row], scores: Callable[[str], pa.Table]) -> _Side | None:
    from sweep.trial.metrics import influence

    if not rows:
        return None
    parts = []
    for row in rows:
        ids, labels, values = samples_of(scores(row["key"]), row["evaluation"], row["epoch"], row["lam"])
        parts.append((ids.to_numpy(zero_copy_only=False), influence(labels, values) / len(rows)))
    return _Side({(row["split_seed"], row["seed"]): row["auroc"] for row in rows}, *_sum_by_id(parts))


def _sum_by_id(
    parts: Sequence[tuple[npt.NDArray[Any], npt.NDArray[np.float64]]],
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Return each sample id once, and the sum of the values that are given for it."""
    import numpy as np

    ids, where = np.unique(np.concatenate([ids for ids, _ in parts]), return_inverse=True)
    sums = np.zeros(len(ids))
    np.add.at(sums, where, np.concatenate([values for _, values in parts]))
    return ids, sums


def _complete(classes: Sequence[Mapping[tuple[int, int], float]]) -> list[float]:
    """Return the class mean of each seed that has all classes."""
    units = [unit for unit in classes[0] if all(unit in of_class for of_class in classes)]
    return [interval([of_class[unit] for of_class in classes]).mean for unit in units]


def _judge(
    first: Sequence[float], second: Sequence[float], exact: Sequence[bool], influence: npt.NDArray[np.float64]
) -> CellComparison:
    means = interval(first).mean, interval(second).mean
    difference, se = means[0] - means[1], float((influence @ influence) ** 0.5)
    p = normal_p(difference / se) if se else float(difference == 0.0)
    repeated = [len(values) > 1 or known for values, known in zip((first, second), exact, strict=True)]
    over_seeds = welch(first, second) if all(repeated) and max(len(first), len(second)) > 1 else None
    return CellComparison(*means, len(first), len(second), Difference(difference, NORMAL_QUANTILE * se, p), over_seeds)


def _find_entry(text: str, known: Iterable[Name], catalog: Mapping[str, DetectorInfo]) -> Name:
    """Return the configuration that a name means: by default, the default variant without a setting."""
    words = text.split()
    found = [name for name in known if words and words[0] == name[1] and set(words) <= {*name, f"({name[0]})"}]
    if len(found) > 1:
        plain = [n for n in found if n[3] == "" and (n[2] in words or n[2] == _default_variant(n[1], catalog))]
        found = plain or found
    if len(found) == 1:
        return found[0]
    legal = ", ".join(sorted(map(full_name if found else short_name, found or known)))
    problem = f"matches several: {legal}; add more of the name" if found else f"is on no board (there are: {legal})"
    raise UserError(f"--compare: {text!r} {problem}")


def _default_variant(detector: str, catalog: Mapping[str, DetectorInfo]) -> str:
    return catalog[detector].default_variant if detector in catalog else "plain"


def short_name(name: Name) -> str:
    """Return the detector, variant and setting, without the study."""
    return " ".join(part for part in name[1:] if part)


def full_name(name: Name) -> str:
    """Return the short name and the study."""
    return f"{short_name(name)} ({name[0]})"
