"""Intervals over seeds and comparisons over classes.

Small samples are the rule here (3 seeds, 3 to 10 classes), hence Student's t throughout.  A
percentile bootstrap over 3 seeds covers about 74 % where it says 95.  An exact Wilcoxon test cannot
reach 5 % with fewer than 6 classes, nor with 10 classes once a dozen detectors share Holm's
correction over all pairs; the paired t test can, and its null is what the board compares: means.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

LEVEL = 0.95
ALPHA = 1.0 - LEVEL  # error rate of the tests
NORMAL_QUANTILE = 1.959963984540054  # two-sided, at LEVEL


class Interval(NamedTuple):
    """A mean and how far it may be off.

    Attributes:
        mean: arithmetic mean.
        sd: sample standard deviation (n - 1); None for a single value.
        half_width: of the 95 % t-interval around the mean; None for a single value.
    """

    mean: float
    sd: float | None
    half_width: float | None


def interval(values: Sequence[float]) -> Interval:
    """Mean of independent values with its two-sided 95 % t-interval.

    Args:
        values: one or more finite numbers, e.g. AUROC by seed.

    Raises:
        ValueError: if there are no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("an interval needs one value or more")
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, None, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return Interval(mean, sd, _t_quantile(n - 1) * sd / math.sqrt(n))


class Paired(NamedTuple):
    """How much higher one of two rows is, over the classes that both have.

    Attributes:
        n: classes.
        mean: of the differences, first minus second.
        half_width: of the 95 % t-interval around it.
        effect: Cohen's d for pairs (d_z), the mean difference over the standard deviation of the
            differences; None where they are all the same.
        wins: classes in which the first is higher; equal counts half.
        p: of the paired t test.
        p_signed_rank: of Wilcoxon's exact signed-rank test.
    """

    n: int
    mean: float
    half_width: float
    effect: float | None
    wins: float
    p: float
    p_signed_rank: float


def compare_pairs(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compare two rows class by class; arguments and errors as for `paired_t`."""
    p = paired_t(first, second)
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean, sd, half_width = interval(differences)
    assert sd is not None and half_width is not None
    wins = sum(0.5 if d == 0.0 else float(d > 0.0) for d in differences)
    return Paired(len(first), mean, half_width, mean / sd if sd else None, wins, p, signed_rank(differences))


def paired_t(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value of the paired t test that both have the same mean.

    Args:
        first, second: equally long, two values or more; position i of both is one class.

    Returns:
        p in [0, 1].  Differences that are all the same number give 1 where that is zero, else 0.

    Raises:
        ValueError: if the lengths differ or there are fewer than two pairs.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"a paired test needs two pairs or more, not {len(first)} and {len(second)} values")
    from scipy.special import stdtr  # 0.2 s, spared to those who only ask for --help

    n = len(first)
    mean, sd, _ = interval([a - b for a, b in zip(first, second, strict=True)])
    assert sd is not None
    if sd == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return float(2.0 * stdtr(n - 1, -abs(mean) * math.sqrt(n) / sd))


def signed_rank(differences: Sequence[float]) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test, exact also with ties.

    Zeros are left out; the others share midranks, and every assignment of signs is counted.

    Args:
        differences: finite, one a pair.

    Returns:
        p in (0, 1]; 1 where all differences are zero.
    """
    sizes = sorted(abs(d) for d in differences if d != 0.0)
    doubled = {size: sizes.index(size) + bisect_right(sizes, size) + 1 for size in set(sizes)}  # midranks, twice
    ways = {0: 1}  # assignments of signs by the sum of the positive ranks
    for size in sizes:
        grown = dict(ways)
        for total, count in ways.items():
            grown[total + doubled[size]] = grown.get(total + doubled[size], 0) + count
        ways = grown
    positive = sum(doubled[d] for d in differences if d > 0.0)
    low = sum(count for total, count in ways.items() if total <= positive)
    high = sum(count for total, count in ways.items() if total >= positive)
    return min(1.0, min(low, high) / float(2 ** len(sizes)) * 2.0)


class Difference(NamedTuple):
    """Of two means: first minus second, half-width of its 95 % interval, two-sided p."""

    mean: float
    half_width: float
    p: float


def welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare the means of two independent samples whose variances may differ (Welch's t test).

    Args:
        first, second: e.g. AUROC by seed.  A side of one value counts as known exactly, as that of
            a deterministic detector is; one side at least has two.

    Raises:
        ValueError: if neither side has two values.
    """
    if not first or not second or max(len(first), len(second)) < 2:
        raise ValueError("a comparison of means needs two values or more on one side, and one on the other")
    from scipy.special import stdtr

    sides = [interval(values) for values in (first, second)]
    variances = [(side.sd or 0.0) ** 2 / len(values) for side, values in zip(sides, (first, second), strict=True)]
    difference, variance = sides[0].mean - sides[1].mean, sum(variances)
    if variance == 0.0:
        return Difference(difference, 0.0, 1.0 if difference == 0.0 else 0.0)
    # Relative to the sum, or the squares of tiny variances underflow.
    counts = (len(first), len(second))
    shares = [(v / variance) ** 2 / (n - 1) for v, n in zip(variances, counts, strict=True) if v]
    degrees = 1.0 / sum(shares)
    p = 2.0 * float(stdtr(degrees, -abs(difference) / math.sqrt(variance)))
    return Difference(difference, _t_quantile(degrees) * math.sqrt(variance), p)


def normal_p(z: float) -> float:
    """Two-sided p-value of a standard normal z."""
    return math.erfc(abs(z) / math.sqrt(2.0))


def prediction_half_width(values: Sequence[float]) -> float:
    """Half-width of the interval around their mean that holds one further value with 95 %.

    Raises:
        ValueError: if there are fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError("how far values lie apart takes two of them")
    sd = interval(values).sd
    assert sd is not None
    return _t_quantile(n - 1) * sd * math.sqrt(1.0 + 1.0 / n)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number (Holm 1979), in the order given.

    Those at or below alpha are rejected with a family-wise error rate of at most alpha, however
    the tests depend on each other.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def against_best(best: Sequence[float], others: Sequence[Sequence[float]]) -> list[tuple[Paired, float]]:
    """Each of `others` against the row with the best observed mean: best minus other, Holm-adjusted p.

    A detector that truly is the best has an adjusted p at or below alpha with probability below alpha,
    although the rival was picked for looking best: that needs a p below alpha against some rival, each
    of which is tested two-sided at its share of alpha and can err in one direction only.  That holds for
    each detector; it is not a promise about all of several equals at once.

    Args:
        best: one value per class of the best row, seeds averaged.
        others: the same classes of each other row.
    """
    found = [compare_pairs(best, other) for other in others]
    return list(zip(found, holm([comparison.p for comparison in found]), strict=True))


@lru_cache(maxsize=256)
def _t_quantile(degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + LEVEL / 2.0))
