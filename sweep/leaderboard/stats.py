"""Intervals over seeds, and comparisons over classes.

Samples are small (3 seeds, 3 to 10 classes), so Student's t is used throughout.  A 95 % percentile
bootstrap over 3 seeds covers only about 74 %.  An exact Wilcoxon test cannot reach 5 % with fewer than
6 classes.  It cannot with 10 classes either, once a dozen detectors share Holm's correction over all
pairs.  The paired t test can, and its null hypothesis is about means, which the board compares.
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
    """A mean and its uncertainty.

    Attributes:
        mean: arithmetic mean.
        sd: sample standard deviation (n - 1); None for a single value.
        half_width: half-width of the 95 % t-interval around the mean; None for a single value.
    """

    mean: float
    sd: float | None
    half_width: float | None


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent values with its two-sided 95 % t-interval.

    Args:
        values: one or more finite numbers, for example AUROC by seed.

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
    """Comparison of two rows of a board over the classes that both have.

    Attributes:
        n: number of classes.
        mean: mean of the differences, first minus second.
        half_width: half-width of the 95 % t-interval around that mean.
        effect: Cohen's d for pairs (d_z), the mean difference over the standard deviation of the
            differences; None if they are all the same.
        wins: number of classes in which the first is higher; equal counts half.
        p: p-value of the paired t test.
        p_signed_rank: p-value of Wilcoxon's exact signed-rank test.
    """

    n: int
    mean: float
    half_width: float
    effect: float | None
    wins: float
    p: float
    p_signed_rank: float


def compare_pairs(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compare two rows class by class.  Arguments and errors are those of `paired_t`."""
    p = paired_t(first, second)
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean, sd, half_width = interval(differences)
    assert sd is not None and half_width is not None
    wins = sum(0.5 if d == 0.0 else float(d > 0.0) for d in differences)
    return Paired(len(first), mean, half_width, mean / sd if sd else None, wins, p, signed_rank(differences))


def paired_t(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the two-sided p-value of the paired t test that both have the same mean.

    Args:
        first, second: equally long, two values or more; position i of both is one class.

    Returns:
        p in [0, 1].  If all differences are the same number, p is 1 for the number zero and 0 otherwise.

    Raises:
        ValueError: if the lengths differ or there are fewer than two pairs.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"a paired test needs two pairs or more, not {len(first)} and {len(second)} values")
    from scipy.special import stdtr  # imported here: it takes 0.2 s, which --help does not need

    n = len(first)
    mean, sd, _ = interval([a - b for a, b in zip(first, second, strict=True)])
    assert sd is not None
    if sd == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return float(2.0 * stdtr(n - 1, -abs(mean) * math.sqrt(n) / sd))


def signed_rank(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test, which is exact also with ties.

    Zeros are left out; the others share midranks, and every assignment of signs is counted.

    Args:
        differences: finite, one for each pair.

    Returns:
        p in (0, 1]; 1 if all differences are zero.
    """
    sizes = sorted(abs(d) for d in differences if d != 0.0)
    doubled = {size: sizes.index(size) + bisect_right(sizes, size) + 1 for size in set(sizes)}  # midranks, twice
    ways = {0: 1}  # number of sign assignments, by the sum of the positive ranks
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
    """Difference of two means: first minus second, half-width of its 95 % interval, two-sided p."""

    mean: float
    half_width: float
    p: float


def welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Compare the means of two independent samples whose variances may differ (Welch's t test).

    Args:
        first, second: for example AUROC by seed.  A side with one value counts as known exactly, like the
            value of a deterministic detector.  At least one side has two values.

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
    # Shares are relative to the sum, because squares of tiny variances would underflow.
    counts = (len(first), len(second))
    shares = [(v / variance) ** 2 / (n - 1) for v, n in zip(variances, counts, strict=True) if v]
    degrees = 1.0 / sum(shares)
    p = 2.0 * float(stdtr(degrees, -abs(difference) / math.sqrt(variance)))
    return Difference(difference, _t_quantile(degrees) * math.sqrt(variance), p)


def add_variances(difference: float, seeds: float, degrees: float, test: float) -> Difference:
    """Test a difference whose variance has two parts: one from few seeds, and one that is known well.

    The squared critical value is r^2 t^2 + (1 - r^2) z^2, with t of the seeds' degrees of freedom, z of the normal
    distribution, and r the share of the seeds in the variance.  For normal errors the interval covers 95 % within 1 %,
    whatever the true share (tests/leaderboard/test_stats.py integrates it).  Welch-Satterthwaite's degrees of freedom
    would be too many, because the share is estimated from few seeds.

    Args:
        difference: difference of two means.
        seeds: its variance from the seeds, with `degrees` degrees of freedom.
        test: its variance from the finite test set.
    """
    from scipy.special import ndtri, stdtrit

    total = seeds + test
    if total == 0.0:
        return Difference(difference, 0.0, 1.0 if difference == 0.0 else 0.0)
    share = (seeds / total) ** 2  # r^2

    def critical(p: float) -> float:
        t = math.sqrt(share) * float(stdtrit(degrees, p / 2.0)) if share else 0.0
        return math.hypot(math.sqrt(1.0 - share) * float(ndtri(p / 2.0)), t) * math.sqrt(total)

    low, high = -300.0, 0.0  # of the decimal logarithm of p
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if critical(10.0**middle) > abs(difference) else (low, middle)
    return Difference(difference, critical(ALPHA), 10.0**high if difference else 1.0)


def logit_interval(values: Sequence[float], step: float) -> tuple[float, float]:
    """Return the 95 % t-interval of values in [0, 1], computed on the logit scale, so that it stays in [0, 1].

    For skewed AUROCs of 3 seeds it covers 94 to 96 %, where the plain t-interval covers 92 to 95 % and often leaves
    [0, 1].  With 10 seeds of a skewed distribution it covers 91 to 95 %, because the mean of logits is not the logit of
    the mean (tests/benchmarks/README.md).

    Args:
        values: two or more numbers in [0, 1], for example AUROC by seed.
        step: smallest difference of two values; nothing is known to be nearer to 0 or 1 than half of it.
    """
    from scipy.special import expit, logit

    clipped = [min(max(value, step / 2.0), 1.0 - step / 2.0) for value in values]
    if len(set(clipped)) == 1:
        return min(values), max(values)
    mean, _, half_width = interval([float(logit(value)) for value in clipped])
    assert half_width is not None
    return float(expit(mean - half_width)), float(expit(mean + half_width))


def stein_interval(values: Sequence[float], first: int) -> tuple[float, float]:
    """Return the 95 % interval of a mean whose number of values was decided by the first ones (Stein 1945).

    It keeps the standard deviation and the degrees of freedom of the first values, so that it covers at least 95 %
    whatever the decision was.

    Args:
        values: numbers in [0, 1], in the order of their seeds.
        first: number of values that decided, two or more.
    """
    sd = interval(values[:first]).sd or 0.0
    half_width = _t_quantile(first - 1) * sd / math.sqrt(len(values))
    mean = interval(values).mean
    return max(0.0, mean - half_width), min(1.0, mean + half_width)


def logit_range(value: float, error: float) -> tuple[float, float]:
    """Return the 95 % interval of a value in [0, 1] with a known standard error, computed on the logit scale."""
    from scipy.special import expit, logit

    if not 0.0 < value < 1.0 or error == 0.0:
        return value, value
    centre, half_width = float(logit(value)), NORMAL_QUANTILE * error / (value * (1.0 - value))
    return float(expit(centre - half_width)), float(expit(centre + half_width))


def normal_p(z: float) -> float:
    """Return the two-sided p-value of a standard normal z."""
    return math.erfc(abs(z) / math.sqrt(2.0))


def prediction_half_width(values: Sequence[float]) -> float:
    """Return the half-width of the interval around the mean that contains one more value with 95 %.

    Raises:
        ValueError: if there are fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError("a spread needs two values or more")
    sd = interval(values).sd
    assert sd is not None
    return _t_quantile(n - 1) * sd * math.sqrt(1.0 + 1.0 / n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979), in the order given.

    Rejecting those at or below alpha keeps the family-wise error rate at or below alpha, for any dependence
    between the tests.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@lru_cache(maxsize=256)
def _t_quantile(degrees: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + LEVEL / 2.0))
