"""Headline comparison: checked by simulation with known truth, by DeLong's matrix of all pairs, and by scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats as oracle

from sweep.leaderboard.headline import ClassMeans, TestImages, compare_lines
from tests.support.simulated_lines import Line, draw_pair
from tests.trial.test_metrics import pairwise_delong


def means(*values: float, splits: bool = False, exact: bool = False) -> ClassMeans:
    """Return class means of seeds without scores; with `splits`, each seed has its own split."""
    return ClassMeans({(n if splits else 0, n): value for n, value in enumerate(values)}, exact, None)


@pytest.mark.parametrize(("seeds", "others"), [(3, 3), (5, 1), (1, 1)])
def test_intervals_cover_the_truth_and_equal_lines_are_rarely_called_different(seeds: int, others: int) -> None:
    first, second = Line(1.5, seeds, 0.15), Line(1.2, others, 0.15)
    rng, truth = np.random.default_rng(seeds + others), first.truth - second.truth
    leads = [compare_lines(*draw_pair(first, second, rng)) for _ in range(300)]
    covered = np.mean([lead is not None and lead.low <= truth <= lead.high for lead in leads])
    assert 0.92 <= covered <= 0.98, "95 % but for the error of 300 draws; python -m tests.benchmarks.coverage has more"
    equal = [compare_lines(*draw_pair(first, replace(first), rng)) for _ in range(300)]
    assert np.mean([lead is not None and lead.p <= 0.05 for lead in equal]) <= 0.08


def test_lines_without_seeds_are_compared_by_delong() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.array([0, 1], dtype=np.int64), 30)
    scores = rng.normal(size=(2, 60)) + labels * np.array([[1.5], [0.7]])
    from sweep.trial.metrics import auroc, influence

    areas, covariance = pairwise_delong(labels, scores)
    lines = [ClassMeans({(0, 0): auroc(labels, s)}, True, influence(labels, s)[None]) for s in scores]
    lead = compare_lines(lines[0], lines[1])
    se = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert lead is not None and (lead.seeds, lead.source) == (0.0, "test set")
    assert lead.test == pytest.approx(se)
    assert lead.p == pytest.approx(2 * oracle.norm.sf(abs(areas[0] - areas[1]) / se), rel=1e-6)


def test_without_scores_only_the_seeds_count_as_in_welchs_test() -> None:
    first, second = [0.9, 0.8, 0.85, 0.9], [0.7, 0.75, 0.6]
    lead = compare_lines(means(*first), means(*second))
    assert lead is not None and (lead.test, lead.source) == (0.0, "seeds")
    assert lead.p == pytest.approx(oracle.ttest_ind(first, second, equal_var=False).pvalue, rel=1e-6)


def test_lines_that_share_each_split_are_compared_split_by_split() -> None:
    first, second = [0.9, 0.8, 0.7, 0.6], [0.85, 0.74, 0.66, 0.54]
    lead = compare_lines(means(*first, splits=True), means(*second, splits=True, exact=True))
    assert lead is not None
    assert lead.p == pytest.approx(oracle.ttest_rel(first, second).pvalue, rel=1e-6)


def test_what_varies_between_the_seeds_counts_once() -> None:
    """With independent scores in each seed, the test set's part is in the spread over seeds already."""
    apart = Line(1.5, 5, spread=0.0, shared=0.0)
    rng = np.random.default_rng(1)
    found = [compare_lines(*draw_pair(apart, apart, rng)) for _ in range(50)]
    assert np.mean([lead.test < 0.7 * lead.seeds for lead in found if lead is not None]) > 0.8


@pytest.mark.parametrize(
    ("first", "second"),
    [(means(0.9), means(0.8, 0.7)), (means(), means(0.5, 0.6)), (means(0.9, exact=True), means(0.8, exact=True))],
)
def test_nothing_is_claimed_where_nothing_is_known_of_what_varies(first: ClassMeans, second: ClassMeans) -> None:
    assert compare_lines(first, second) is None


def test_where_lower_is_better_the_lead_is_turned() -> None:
    one, other = means(0.1, 0.2, 0.12), means(0.5, 0.6, 0.55)
    up, down = compare_lines(one, other), compare_lines(one, other, sign=-1.0)
    assert up is not None and down is not None
    assert (down.mean, down.low, down.high, down.p) == pytest.approx((-up.mean, -up.high, -up.low, up.p))
    assert down.low > 0


def test_the_lead_of_the_better_line_turns_its_interval_with_it() -> None:
    behind = compare_lines(means(0.5, 0.7, 0.6), means(0.65, 0.7, 0.6))
    assert behind is not None and behind.mean < 0 < behind.high
    ahead = behind.of_better
    assert (ahead.mean, ahead.low, ahead.high) == (-behind.mean, -behind.high, -behind.low)
    assert ahead.of_better == ahead and ahead.p == behind.p


def test_images_have_one_position_each_in_every_class() -> None:
    images = TestImages()
    assert images.positions(pa.array(["a", "b"])).tolist() == [0, 1]
    assert images.positions(pa.array(["c", "a"])).tolist() == [2, 0]
    assert images.positions(pa.array(["a", "b"])).tolist() == [0, 1]
    assert len(images) == 3
