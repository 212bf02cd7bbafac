"""Intervals over seeds and comparisons over classes.

Small samples are the rule here (3 seeds, 3 to 10 classes), hence Student's t throughout.  A
percentile bootstrap over 3 seeds covers about 74 % where it says 95.  An exact Wilcoxon test cannot
reach 5 % with fewer than 6 classes, nor with 10 classes once a dozen detectors share Holm's
correction over all pairs; the paired t test can, and its null is what the board compares: means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

LEVEL = 0.95


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


def not_worse(best: Sequence[float], others: Sequence[Sequence[float]], alpha: float = 0.05) -> list[bool]:
    """For each of `others`, whether the data leave it open that it is as good as the best.

    Paired t tests against the row with the best observed mean, Holm-adjusted.  A detector that
    truly is the best is left out of the marked ones with probability below alpha although the
    rival was picked for looking best: that needs a p below alpha against some rival, each of which
    is tested two-sided at its share of alpha and can err in one direction only.  That holds for
    each detector; it is not a promise about all of several equals at once.

    Args:
        best: one value per class of the best row, seeds averaged.
        others: the same classes of each other row.
        alpha: error rate.
    """
    return [p > alpha for p in holm([paired_t(best, other) for other in others])]


@lru_cache(maxsize=256)
def _t_quantile(degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.5 + LEVEL / 2.0))
