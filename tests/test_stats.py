"""Intervals and tests against scipy, against brute force, and by simulation with known truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as oracle

from sweep.stats import holm, interval, not_worse, paired_t

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


@pytest.mark.parametrize("n", [3, 5])
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


@pytest.mark.parametrize("detectors", [3, 8])
def test_a_detector_as_good_as_the_best_is_rarely_called_worse(detectors: int) -> None:
    draws = np.random.default_rng(detectors).normal(0.8, 0.05, (3_000, detectors, 10))
    left_out = 0
    for means in draws:
        best = int(means.mean(axis=1).argmax())
        others = [index for index in range(detectors) if index != best]
        verdicts = dict(zip(others, not_worse(means[best].tolist(), means[others].tolist()), strict=True))
        left_out += not verdicts.get(0, True)
    assert left_out / len(draws) <= 0.05


def test_a_detector_that_is_worse_in_every_class_is_called_worse() -> None:
    best = [0.9, 0.8, 0.7, 0.95, 0.85]
    worse = [value - 0.2 + 0.01 * math.sin(index) for index, value in enumerate(best)]
    close = [value + 0.01 * (-1) ** index for index, value in enumerate(best)]
    assert not_worse(best, [worse, close]) == [False, True]
