"""Headline comparison: which of two lines of a board has the higher class mean, on these classes of this dataset?

Two things vary: the seed of the training, and the finite test set.  The variance of the difference is the sum of both
parts.  The part of the seeds is s^2 / n of the class means over seeds, for each line by itself; or of their
differences, if the split changes with the seed, because both lines then share each split.  The part of the test set is
DeLong's covariance (DeLong et al. 1988), taken between different seeds only: what a test image adds to a single seed is
already in s^2.  Both lines are scored on the same test images, and an image counts once, in all classes where it has a
role.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import TYPE_CHECKING, NamedTuple

from sweep.leaderboard.rows import Row, samples_of
from sweep.leaderboard.stats import add_variances

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

Unit = tuple[int, int]  # (split seed, training seed)
ReadScores = Callable[[Iterable[str]], Iterator[tuple[str, "pa.Table"]]]
"""Reads scores.parquet of several trials: yields (key, table), and leaves out trials whose table cannot be read."""


class Lead(NamedTuple):
    """Lead of one line over another.

    Attributes:
        mean: difference of the class means; above 0 if the first line is better.
        low, high: 95 % interval.
        p: two-sided p-value.
        seeds, test: standard errors from the seeds of training and from the finite test set.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: float
    test: float

    @property
    def source(self) -> str:
        """The larger of the two errors."""
        return "seeds" if self.seeds > self.test else "test set"

    @property
    def of_better(self) -> Lead:
        """The lead of the better line over the other, whichever it is."""
        return self if self.mean >= 0 else self._replace(mean=-self.mean, low=-self.high, high=-self.low)


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """Class means of one line.

    Attributes:
        values: class mean of each unit that has every class; a diverged trial counts as chance.
        exact: True if another seed would give the same, as for a deterministic detector.
        first: number of first seeds that decided how many there are; None if their number was fixed.
        influence: float64 [units, images], influence of each test image of the board on each class mean (see
            `sweep.trial.metrics.influence`); None if the scores are not known, or the metric is not AUROC.
    """

    values: Mapping[Unit, float]
    exact: bool
    influence: npt.NDArray[np.float64] | None
    first: int | None = None

    @property
    def seeds(self) -> tuple[float, int]:
        """Variance of the mean from the seeds, and its degrees of freedom, (0, 0) for a single seed.

        If the first seeds decided about more, their variance counts, because the decision depends on it (Stein 1945).
        """
        found = list(self.values.values())
        decisive = found[: self.first]
        return (variance(decisive) / len(found), len(decisive) - 1) if len(decisive) > 1 else (0.0, 0)

    @property
    def standard_error(self) -> float | None:
        """DeLong's standard error of the mean over seeds; None without scores."""
        if self.influence is None:
            return None
        mean = self.influence.mean(axis=0)
        return math.sqrt(float(mean @ mean))


class TestImages:
    """Positions of test images in one numbering for all trials of a board."""

    __test__ = False  # for pytest, which collects what is named Test

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._known: list[tuple[pa.Array, npt.NDArray[np.int64]]] = []  # most trials of a class have the same images

    def __len__(self) -> int:
        return len(self._numbers)

    def positions(self, ids: pa.Array) -> npt.NDArray[np.int64]:
        """Return the position of each image, int64 [n], for sample ids [n]."""
        import numpy as np

        for known, positions in self._known:
            if known.equals(ids):
                return positions
        numbers = self._numbers
        found = np.array([numbers.setdefault(name, len(numbers)) for name in ids.to_pylist()], dtype=np.int64)
        self._known.append((ids, found))
        return found


def read_class_means(
    classes: Sequence[Mapping[Unit, float]],
    rows: Sequence[Mapping[Unit, Row]],
    exact: bool,
    images: TestImages,
    scores: ReadScores | None,
) -> ClassMeans:
    """Return the class means of a line, with the influence of each test image if its scores can be read.

    Args:
        classes: metric by unit, of each class; a diverged trial counts as chance.
        rows: rows by unit, of each class, in the same order.
        exact: see `ClassMeans`.
        images: numbering of the board's test images, which grows.
        scores: reads scores; None for a metric without DeLong's error.
    """
    units = [unit for unit in classes[0] if all(unit in of_class for of_class in classes)]
    values = {unit: fmean([of_class[unit] for of_class in classes]) for unit in units}
    first = next((row["first_seeds"] for of_class in rows for row in of_class.values()), None)
    if scores is None:
        return ClassMeans(values, exact, None, first)
    wanted = [(number, of_class[unit]) for number, unit in enumerate(units) for of_class in rows]
    return ClassMeans(values, exact, _influences(wanted, len(units), len(rows), images, scores), first)


def _influences(
    wanted: Sequence[tuple[int, Row]], units: int, classes: int, images: TestImages, scores: ReadScores
) -> npt.NDArray[np.float64] | None:
    """Add the influences of trials to those of their units; None if the scores of a trial cannot be read."""
    import numpy as np

    from sweep.trial.metrics import influence

    places: dict[str, list[tuple[int, Row]]] = {}
    for unit, row in wanted:
        if row["status"] == "ok":  # a diverged trial counts as chance, which no test image changes
            places.setdefault(row["key"], []).append((unit, row))
    found: list[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.float64]]] = []
    read = 0
    for key, table in scores(places):
        read += 1
        for unit, row in places[key]:
            ids, labels, values = samples_of(table, row["evaluation"], row["epoch"], row["lam"])
            if ids is None or min(row["n_normal"] or 0, row["n_abnormal"] or 0) < 2:
                return None
            found.append((unit, images.positions(ids), influence(labels, values) / classes))
    if read < len(places):
        return None
    total = np.zeros((units, len(images)))
    for unit, positions, values in found:
        total[unit, positions] += values  # an image is once in a test set
    return total


def compare_lines(first: ClassMeans, second: ClassMeans, sign: float = 1.0) -> Lead | None:
    """Compare two lines of a board.

    Args:
        first, second: class means of both, with the same numbering of images.
        sign: -1 if lower is better.

    Returns:
        The lead of the first line; None if nothing is known of what varies, as with a single seed.
    """
    if not first.values or not second.values:
        return None
    found = _paired(first, second) if _splits_vary(first, second) else _independent(first, second)
    if found is None:
        return None
    difference, seeds, degrees, test = found
    mean, half_width, p = add_variances(difference, seeds, degrees, test)
    low, high = sorted((sign * (mean - half_width), sign * (mean + half_width)))
    return Lead(sign * mean, low, high, p, seeds**0.5, test**0.5)


Parts = tuple[float, float, float, float]  # difference, variance from seeds, its degrees of freedom, from the test set


def _splits_vary(*lines: ClassMeans) -> bool:
    return all(len({split for split, _ in line.values}) > 1 for line in lines)


def _independent(first: ClassMeans, second: ClassMeans) -> Parts | None:
    """Compare lines whose seeds have nothing in common but the split."""
    known = first.influence is not None and second.influence is not None
    if any(len(line.values) < 2 and not line.exact for line in (first, second)):
        return None
    if first.exact and second.exact and not known:
        return None  # nothing that varies is known
    parts = [line.seeds for line in (first, second)]
    seeds = sum(part for part, _ in parts)
    shares = [(part / seeds) ** 2 / count for part, count in parts if part]  # the square of a part may be 0
    degrees = 1.0 / sum(shares) if shares else 1.0
    test = 0.0
    if first.influence is not None and second.influence is not None:
        a, b = _widened(first.influence, second.influence)
        test = _between(a) + _between(b) - 2.0 * float(a.mean(axis=0) @ b.mean(axis=0))
    return fmean(first.values.values()) - fmean(second.values.values()), seeds, degrees, max(0.0, test)


def _paired(first: ClassMeans, second: ClassMeans) -> Parts | None:
    """Compare lines that share each split."""
    import numpy as np

    splits = sorted({split for split, _ in first.values} & {split for split, _ in second.values})
    if len(splits) < 2:
        return None
    where = [
        [[n for n, (split, _) in enumerate(line.values) if split == s] for s in splits] for line in (first, second)
    ]
    sides = [list(line.values.values()) for line in (first, second)]
    means = [[fmean([side[n] for n in of]) for of in at] for side, at in zip(sides, where, strict=True)]
    differences = [a - b for a, b in zip(*means, strict=True)]
    test = 0.0
    if first.influence is not None and second.influence is not None:
        a, b = _widened(first.influence, second.influence)
        both = zip(*where, strict=True)
        test = _between(np.stack([a[of_a].mean(axis=0) - b[of_b].mean(axis=0) for of_a, of_b in both]))
    decisive = differences[: max((line.first for line in (first, second) if line.first is not None), default=None)]
    seeds = variance(decisive) / len(splits)
    return fmean(differences), seeds, len(decisive) - 1.0, max(0.0, test)


def _between(influence: npt.NDArray[np.float64]) -> float:
    """Return the mean covariance of two different units; of a single one, its variance."""
    units = len(influence)
    if units == 1:
        return float(influence[0] @ influence[0])
    total = influence.sum(axis=0)
    return float(total @ total - (influence * influence).sum()) / (units * (units - 1))


def _widened(*influences: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """Return the arrays with as many images as the widest; the numbering grew while lines were read."""
    import numpy as np

    width = max(array.shape[1] for array in influences)
    return [np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in influences]
