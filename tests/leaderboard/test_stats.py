"""Intervals and tests, checked by scipy, by brute force, and by simulations with a known truth."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import scikit_posthocs
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as oracle

from sweep.leaderboard.stats import (
    add_variances,
    compare_pairs,
    holm,
    interval,
    logit_interval,
    logit_range,
    paired_t,
    prediction_half_width,
    signed_rank,
    welch,
)

NUMBERS = st.floats(-1e3, 1e3, allow_nan=False, width=32)


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=2, max_size=12).filter(lambda values: float(np.std(values)) > 1e-3))
def test_the_interval_is_students_t(values: list[float]) -> None:
    mean, sd, half_width = interval(values)
    assert sd is not None and half_width is not None
    low, high = oracle.t.interval(0.95, len(values) - 1, np.mean(values), oracle.sem(values))
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    assert sd == pytest.approx(np.std(values, ddof=1))
    assert (mean - half_width, mean + half_width) == pytest.approx((low, high), abs=1e-6)


def test_one_value_has_a_mean_and_no_interval() -> None:
    assert interval([0.7]) == (0.7, None, None)


def test_no_value_has_no_interval() -> None:
    with pytest.raises(ValueError, match="one value or more"):
        interval([])


@pytest.mark.parametrize("n", [3, 5, 10])
def test_ninety_five_of_a_hundred_intervals_hold_the_truth(n: int) -> None:
    draws = np.random.default_rng(n).normal(0.8, 0.05, (20_000, n)).tolist()
    found = [interval(values) for values in draws]
    held = [abs(mean - 0.8) <= half_width for mean, _, half_width in found if half_width is not None]
    assert len(held) == len(draws)
    assert np.mean(held) == pytest.approx(0.95, abs=0.01)


@settings(deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=2, max_size=12))
def test_the_paired_test_is_scipys(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    differences = np.subtract(first, second)
    if np.std(differences) > 1e-6 * (1 + np.abs(differences).max()):
        assert paired_t(first, second) == pytest.approx(oracle.ttest_rel(first, second).pvalue, rel=1e-6)


def test_equal_rows_do_not_differ_and_a_constant_shift_does() -> None:
    assert paired_t([0.5, 0.75], [0.5, 0.75]) == 1.0
    assert paired_t([0.5, 0.75], [0.25, 0.5]) == 0.0


@pytest.mark.parametrize("pair", [([0.5], [0.6]), ([0.5, 0.6], [0.5, 0.6, 0.7])])
def test_a_paired_test_refuses_what_cannot_be_paired(pair: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="two pairs or more"):
        paired_t(*pair)


@pytest.mark.parametrize("classes", [3, 10])
def test_five_of_a_hundred_equal_pairs_look_different(classes: int) -> None:
    draws = np.random.default_rng(classes).normal(0.8, 0.05, (10_000, 2, classes)).tolist()
    assert np.mean([paired_t(a, b) <= 0.05 for a, b in draws]) == pytest.approx(0.05, abs=0.01)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm_is_the_closed_test_of_bonferronis(p_values: list[float]) -> None:
    indices = range(len(p_values))
    subsets = [s for size in indices for s in itertools.combinations(indices, size + 1)]
    local = {subset: min(1.0, len(subset) * min(p_values[i] for i in subset)) for subset in subsets}
    closed = [max(p for subset, p in local.items() if i in subset) for i in indices]
    assert holm(p_values) == pytest.approx(closed)


def test_holm_keeps_the_order_it_was_given() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize("degrees", [2, 4, 9])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
def test_a_variance_of_two_parts_covers_95_percent_whatever_their_shares(degrees: int, share: float) -> None:
    """By integration over the estimate of the seeds' part, for normal errors with a variance of 1."""
    quantiles = oracle.chi2.ppf((np.arange(400) + 0.5) / 400, degrees) / degrees
    widths = np.array([add_variances(0.0, share * q, degrees, 1.0 - share).half_width for q in quantiles])
    assert float(np.mean(2 * oracle.norm.cdf(widths) - 1)) == pytest.approx(0.95, abs=0.01)


@settings(deadline=None)
@given(st.floats(-1, 1), st.floats(0, 0.1), st.floats(1, 30), st.floats(0, 0.1))
def test_an_interval_and_its_p_value_say_the_same(mean: float, seeds: float, degrees: float, test: float) -> None:
    found = add_variances(mean, seeds, degrees, test)
    if abs(abs(mean) - found.half_width) > 1e-9:
        assert (found.p <= 0.05) == (abs(mean) > found.half_width)
    assert 0.0 <= found.p <= 1.0


def test_one_part_alone_is_the_usual_test() -> None:
    assert add_variances(0.3, 0.01, 3.0, 0.0).p == pytest.approx(2 * oracle.t.sf(3.0, 3), rel=1e-9)
    assert add_variances(0.3, 0.0, 1.0, 0.01).p == pytest.approx(2 * oracle.norm.sf(3.0), rel=1e-9)
    assert add_variances(0.0, 0.0, 1.0, 0.0) == (0.0, 0.0, 1.0)
    assert add_variances(0.1, 0.0, 1.0, 0.0) == (0.1, 0.0, 0.0)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_an_interval_of_aurocs_stays_between_0_and_1(values: list[float]) -> None:
    low, high = logit_interval(values, 1e-4)
    assert 0.0 <= low <= high <= 1.0


@pytest.mark.parametrize(("mean", "spread"), [(0.7, 0.2), (0.9, 0.05)])
def test_it_covers_the_mean_of_3_seeds(mean: float, spread: float) -> None:
    size = mean * (1 - mean) / spread**2 - 1
    draws = np.random.default_rng(0).beta(mean * size, (1 - mean) * size, (2_000, 3)).tolist()
    covered = [low <= mean <= high for low, high in (logit_interval(values, 1e-4) for values in draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_a_value_with_a_known_error_keeps_it_near_the_middle_and_stays_below_1() -> None:
    assert logit_range(0.5, 0.01) == pytest.approx((0.5 - 0.0196, 0.5 + 0.0196), abs=1e-4)
    assert logit_range(0.999, 0.01)[1] < 1.0
    assert logit_range(1.0, 0.0) == (1.0, 1.0)


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5), max_size=9))
def test_the_signed_rank_test_counts_every_assignment_of_signs(differences: list[int]) -> None:
    ranks = oracle.rankdata([abs(d) for d in differences if d])
    observed = sum(rank for rank, d in zip(ranks, [d for d in differences if d], strict=True) if d > 0)
    sums = [sum(chosen) for chosen in itertools.product(*((0.0, rank) for rank in ranks))]
    tails = [np.mean([total <= observed for total in sums]), np.mean([total >= observed for total in sums])]
    assert signed_rank(differences) == pytest.approx(min(1.0, 2 * min(tails)))


def test_the_signed_rank_test_is_scipys_where_nothing_is_tied() -> None:
    for n in (3, 10, 25):
        differences = np.random.default_rng(n).normal(0.3, 1, n)
        assert signed_rank(differences.tolist()) == pytest.approx(oracle.wilcoxon(differences, method="exact").pvalue)


def test_holm_over_signed_ranks_is_scikit_posthocs() -> None:
    rows = np.random.default_rng(4).normal([[0.0], [0.4], [1.0]], 1.0, (3, 9))
    pairs = list(itertools.combinations(range(3), 2))
    ours = holm([signed_rank((rows[a] - rows[b]).tolist()) for a, b in pairs])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = scikit_posthocs.posthoc_wilcoxon(list(rows), p_adjust="holm").to_numpy()
    assert ours == pytest.approx([theirs[a, b] for a, b in pairs])


def test_a_comparison_by_class_says_how_much_how_surely_and_how_often() -> None:
    first, second = [0.9, 0.8, 0.7, 0.6], [0.8, 0.8, 0.5, 0.7]
    found = compare_pairs(first, second)
    differences = np.subtract(first, second)
    low, high = oracle.ttest_rel(first, second).confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))
    assert found.effect == pytest.approx(differences.mean() / differences.std(ddof=1))
    assert (found.n, found.wins) == (4, 2.5)
    assert compare_pairs([0.75, 0.5], [0.5, 0.25])[3:6] == (None, 2.0, 0.0)


SAMPLE = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=6).filter(lambda found: float(np.std(found)) > 1e-3)


@settings(deadline=None)
@given(SAMPLE, SAMPLE)
def test_the_comparison_of_means_is_welchs(first: list[float], second: list[float]) -> None:
    found, theirs = welch(first, second), oracle.ttest_ind(first, second, equal_var=False)
    low, high = theirs.confidence_interval(0.95)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high), abs=1e-9)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-6)


def test_a_side_of_one_value_is_known_exactly() -> None:
    seeds = [0.7, 0.8, 0.75]
    assert welch(seeds, [0.6]).p == pytest.approx(oracle.ttest_1samp(seeds, 0.6).pvalue)
    assert welch([0.5, 0.5], [0.5]) == (0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="two values"):
        welch([0.5], [0.6])


@pytest.mark.parametrize("n", [3, 5, 10])
def test_one_more_value_lies_within_the_prediction_95_times_of_100(n: int) -> None:
    draws = np.random.default_rng(n).normal(0.8, 0.05, (20_000, n + 1)).tolist()
    held = [abs(further - interval(seen).mean) <= prediction_half_width(seen) for *seen, further in draws]
    assert np.mean(held) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(("n", "most"), [(3, 0.05), (5, 0.055), (10, 0.055)])
def test_equal_detectors_rarely_differ_over_their_seeds(n: int, most: float) -> None:
    draws = np.random.default_rng(n).normal(0.8, 0.05, (10_000, 2, n)).tolist()
    assert 0.03 <= np.mean([welch(a, b).p <= 0.05 for a, b in draws]) <= most


def test_five_of_a_hundred_equal_pairs_at_most_differ_by_signed_rank() -> None:
    draws = np.random.default_rng(10).normal(0, 0.05, (2_000, 10)).tolist()
    assert 0.035 <= np.mean([signed_rank(differences) <= 0.05 for differences in draws]) <= 0.06
