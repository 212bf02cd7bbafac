"""Metrics compared with scikit-learn, and with their definitions computed pair by pair."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from sweep.trial import metrics

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@st.composite
def labelled_scores(draw: st.DrawFn) -> tuple[Ints, Floats]:
    """Draw labels that contain both classes, and scores from few values (many ties) or from all floats (few ties)."""
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), max_size=60))]
    few = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 1e-300, 1.0])
    many = st.floats(-1e300, 1e300)  # scikit-learn's differences of thresholds overflow near the largest float
    values = st.lists(draw(st.sampled_from([few, many])), min_size=len(labels), max_size=len(labels))
    return np.array(draw(st.permutations(labels))), np.array(draw(values))


def midranks(scores: Floats) -> list[float]:
    """Return the rank of each score; equal scores share the mean of their ranks."""
    return [
        sum(other < score for other in scores) + (1 + sum(other == score for other in scores)) / 2 for score in scores
    ]


@given(labelled_scores())
def test_every_metric_agrees_with_scikit_learn(sample: tuple[Ints, Floats]) -> None:
    labels, scores = sample
    found = metrics.evaluate(labels, scores)
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found.ap == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    false_rate, true_rate, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert found.fpr95 == pytest.approx(min(false_rate[true_rate >= 0.95]), abs=1e-12)


@given(labelled_scores())
def test_auroc_is_the_rank_sum_over_midranks(sample: tuple[Ints, Floats]) -> None:
    labels, scores = sample
    abnormal, normal = int(labels.sum()), int((1 - labels).sum())
    rank_sum = sum(rank for rank, label in zip(midranks(scores), labels, strict=True) if label)
    assert metrics.auroc(labels, scores) == (rank_sum - abnormal * (abnormal + 1) / 2) / (normal * abnormal)


@given(labelled_scores())
def test_ties_are_the_share_of_samples_that_have_an_equal(sample: tuple[Ints, Floats]) -> None:
    labels, scores = sample
    shared = [sum(other == score for other in scores) > 1 for score in scores]
    assert metrics.evaluate(labels, scores).ties == sum(shared) / len(shared)


@given(labelled_scores(), st.randoms(use_true_random=False))
def test_order_changes_no_bit(sample: tuple[Ints, Floats], random: object) -> None:
    labels, scores = sample
    order = list(range(len(labels)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert metrics.evaluate(labels[order], scores[order]) == metrics.evaluate(labels, scores)


@given(labelled_scores())
def test_auroc_alone_is_that_of_evaluate_and_samples_are_counted(sample: tuple[Ints, Floats]) -> None:
    labels, scores = sample
    found = metrics.evaluate(labels, scores)
    assert found.auroc == metrics.auroc(labels, scores)
    assert (found.n_normal, found.n_abnormal) == ((labels == 0).sum(), (labels == 1).sum())
    assert found.base_rate == (labels == 1).sum() / len(labels)


@given(labelled_scores())
def test_reversed_scores_mirror_auroc(sample: tuple[Ints, Floats]) -> None:
    labels, scores = sample
    assert metrics.auroc(labels, -scores) == pytest.approx(1 - metrics.auroc(labels, scores), abs=1e-12)


def test_abnormal_is_the_positive_class_and_higher_means_more_abnormal() -> None:
    perfect = metrics.evaluate([0, 0, 0, 1], [0.1, 0.2, 0.3, 0.4])
    assert perfect == metrics.Metrics(1.0, 1.0, 0.0, base_rate=0.25, n_normal=3, n_abnormal=1, ties=0.0, auroc_se=None)
    assert metrics.auroc([1, 0, 0, 0], [0.1, 0.2, 0.3, 0.4]) == 0.0


def test_a_constant_score_is_chance_in_every_metric() -> None:
    found = metrics.evaluate([0, 1, 0, 0], [3, 3, 3, 3])
    assert (found.auroc, found.ap, found.fpr95, found.ties) == (0.5, 0.25, 1.0, 1.0)


def test_fpr95_needs_exactly_nineteen_of_twenty() -> None:
    scores = np.arange(22, 0, -1.0)
    nineteenth_then_normal = [1] * 19 + [0, 1, 0]
    assert metrics.evaluate(nineteenth_then_normal, scores).fpr95 == 0.0
    eighteenth_then_normal = [1] * 18 + [0, 1, 1, 0]
    assert metrics.evaluate(eighteenth_then_normal, scores).fpr95 == 0.5


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1], [0.0, float("nan")], "1 of 2 scores are NaN or infinite"),
        ([0, 1], [float("inf"), -float("inf")], "2 of 2 scores are NaN or infinite"),
        ([0, 1, 1], [0.0, 1.0], "3 labels, but 2 scores"),
        ([0, 2], [0.0, 1.0], r"labels must be .* with \[2\]"),
        ([0, float("nan")], [0.0, 1.0], r"labels must be .* with \[nan\]"),
        ([1, 1], [0.0, 1.0], "labels must have both"),
        ([0, 0], [0.0, 1.0], "labels must have both"),
        ([], [], "labels must have both"),
        ([[0, 1]], [0.0, 1.0], r"not of shape \(1, 2\)"),
        ([0, 1], [[0.0, 1.0]], r"not of shape \(1, 2\)"),
        ([0, 1], [], r"not of shape \(0,\)"),
    ],
)
def test_what_cannot_be_measured_is_refused(labels: list[float], scores: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.evaluate(labels, scores)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scores_of_lower_precision_are_compared_as_they_are(dtype: npt.DTypeLike) -> None:
    random = np.random.RandomState(0)
    scores, labels = random.randn(500).astype(dtype), random.randint(0, 2, 500)
    assert metrics.evaluate(labels, scores) == metrics.evaluate(labels.astype(bool), scores.tolist())


def pairwise_delong(labels: Ints, scores: Floats) -> tuple[Floats, Floats]:
    """Return AUROCs and DeLong's covariance of them from the matrix of all pairs, for scores [K, N]."""
    wins = [np.subtract.outer(row[labels == 1], row[labels == 0]) for row in scores]
    kernels = np.array([(w > 0) + 0.5 * (w == 0) for w in wins])
    abnormal, normal = kernels.mean(axis=2), kernels.mean(axis=1)
    covariance = np.cov(abnormal) / abnormal.shape[1] + np.cov(normal) / normal.shape[1]
    return kernels.mean(axis=(1, 2)), covariance


@pytest.mark.parametrize("decimals", [1, 8])
def test_delong_is_the_covariance_over_all_pairs(decimals: int) -> None:
    random = np.random.default_rng(decimals)
    labels = random.permutation(np.repeat([0, 1], (40, 25)))
    scores = np.round(random.normal(labels, 1.0, (3, 65)), decimals)
    areas, covariance = pairwise_delong(labels, scores)
    influences = np.array([metrics.influence(labels, row) for row in scores])
    np.testing.assert_allclose(influences @ influences.T, covariance, atol=1e-12)
    for row, area, variance in zip(scores, areas, np.diag(covariance), strict=True):
        found = metrics.evaluate(labels, row)
        assert found.auroc == pytest.approx(area)
        assert found.auroc_se == pytest.approx(np.sqrt(variance))
    mean = influences.mean(axis=0)
    assert mean @ mean == pytest.approx(covariance.mean())


@given(labelled_scores())
def test_influence_is_balanced_and_follows_its_sample(sample: tuple[Ints, Floats]) -> None:
    labels, scores = sample
    if min(labels.sum(), (1 - labels).sum()) < 2:
        assert metrics.evaluate(labels, scores).auroc_se is None
        with pytest.raises(ValueError, match="two are needed"):
            metrics.influence(labels, scores)
        return
    found = metrics.influence(labels, scores)
    assert found[labels == 1].sum() == pytest.approx(0, abs=1e-9)
    assert found[labels == 0].sum() == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(metrics.influence(labels[::-1], scores[::-1]), found[::-1], atol=1e-12)
    se = metrics.evaluate(labels, scores).auroc_se
    assert se is not None and se**2 == pytest.approx(found @ found, abs=1e-12)


def test_the_finite_test_set_explains_how_aurocs_scatter_and_equal_detectors_rarely_differ() -> None:
    """Simulate 2,000 test sets of 60 + 40 samples, with two correlated detectors of the same true AUROC."""
    random, truth = np.random.default_rng(7), 0.7602499389065233  # Phi(1 / sqrt(2))
    labels = np.repeat([0, 1], (60, 40))
    held = differ = 0
    for _ in range(2_000):
        shared = random.normal(labels, np.sqrt(0.5))
        both = shared + random.normal(0, np.sqrt(0.5), (2, 100))
        found = [metrics.evaluate(labels, scores) for scores in both]
        apart = metrics.influence(labels, both[0]) - metrics.influence(labels, both[1])
        assert found[0].auroc_se is not None
        held += bool(abs(found[0].auroc - truth) <= 1.96 * found[0].auroc_se)
        differ += bool(abs(found[0].auroc - found[1].auroc) > 1.96 * np.sqrt(apart @ apart))
    assert held / 2_000 == pytest.approx(0.95, abs=0.015)
    assert differ / 2_000 == pytest.approx(0.05, abs=0.015)
