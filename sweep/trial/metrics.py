"""Metrics that measure how well scores separate abnormal samples (label 1, positive) from normal ones (label 0).

A higher score means more abnormal.  All metrics are computed over all scores at once, from integer
counts at the distinct scores.  So they depend neither on the order of the samples nor on the batches.
Samples of equal score cannot be separated: they pass a threshold together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Labels = npt.ArrayLike
Scores = npt.ArrayLike


@dataclass(frozen=True)
class Metrics:
    """Metrics of one evaluation.

    Attributes:
        auroc: area under the ROC curve, in [0, 1]; 0.5 is chance.
        ap: average precision, in (0, 1]; `base_rate` is chance.
        fpr95: lowest share of normals that are flagged when at least 95 % of the abnormals are, in [0, 1].
        base_rate: share of abnormals, in (0, 1).
        n_normal, n_abnormal: numbers of samples.
        ties: share of samples whose score another sample has too, in [0, 1].
        auroc_se: DeLong's standard error of `auroc`, which measures the error from the finite test set;
            None if there is a single normal or abnormal sample.
    """

    auroc: float
    ap: float
    fpr95: float
    base_rate: float
    n_normal: int
    n_abnormal: int
    ties: float
    auroc_se: float | None


def evaluate(labels: Labels, scores: Scores) -> Metrics:
    """Return all metrics, computed with one sort.

    Args:
        labels: [N], 1 = abnormal, 0 = normal; at least one of each.
        scores: [N], finite; higher = more abnormal.

    Raises:
        ValueError: if lengths differ, a label is neither 0 nor 1, one of the two is missing, or a
            score is NaN or infinite.
    """
    steps = _steps(labels, scores)
    return Metrics(
        auroc=steps.auroc(),
        ap=steps.average_precision(),
        fpr95=steps.fpr95(),
        base_rate=steps.n_abnormal / (steps.n_normal + steps.n_abnormal),
        n_normal=steps.n_normal,
        n_abnormal=steps.n_abnormal,
        ties=steps.ties(),
        auroc_se=steps.auroc_se(),
    )


def auroc(labels: Labels, scores: Scores) -> float:
    """Return the share of (abnormal, normal) pairs in which the abnormal scores higher; equal counts half.

    This is the Mann-Whitney statistic over midranks, divided by the number of pairs.  It is exact up to
    the rounding of that one division.  Arguments and errors are those of `evaluate`.
    """
    return _steps(labels, scores).auroc()


def influence(labels: Labels, scores: Scores) -> npt.NDArray[np.float64]:
    """Return the contribution of each sample to the sampling error of the AUROC (DeLong et al. 1988).

    The sum of squares is DeLong's variance of the AUROC.  The sum of products with another detector's
    influence on the same samples is the covariance of the two AUROCs.  The mean of several detectors'
    influences is the influence for the mean of their AUROCs.

    Args:
        labels, scores: as for `evaluate`, with two samples or more of each label.

    Returns:
        float64 [N], in the order of the samples.  The sums over normals and over abnormals are 0.

    Raises:
        ValueError: as `evaluate`, or if there is a single sample of a label.
    """
    steps = _steps(labels, scores)
    if min(steps.n_normal, steps.n_abnormal) < 2:
        raise ValueError("a single normal or abnormal sample does not show how such samples vary: two are needed")
    abnormal, normal = steps.centred_components()
    positive = _binary(labels).astype(bool)
    order = np.argsort(np.asarray(scores, dtype=np.float64))[::-1]
    step = np.empty(len(order), dtype=np.int64)
    step[order] = np.repeat(np.arange(len(abnormal)), steps.abnormal + steps.normal)
    contributions: npt.NDArray[np.float64] = np.where(
        positive,
        abnormal[step] / np.sqrt(steps.n_abnormal * (steps.n_abnormal - 1)),
        normal[step] / np.sqrt(steps.n_normal * (steps.n_normal - 1)),
    )
    return contributions


def roc(labels: Labels, scores: Scores) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the ROC curve from (0, 0) to (1, 1), with one point for each distinct score, highest score first.

    Arguments and errors are those of `evaluate`.

    Returns:
        False positive rates and true positive rates, float64 [distinct scores + 1] each, in [0, 1], rising.
    """
    steps = _steps(labels, scores)
    normal, abnormal = (np.concatenate([[0], np.cumsum(counts)]) for counts in (steps.normal, steps.abnormal))
    return normal / steps.n_normal, abnormal / steps.n_abnormal


@dataclass(frozen=True, eq=False)
class _Steps:
    """Counts of samples by distinct score, highest score first.

    Attributes:
        abnormal, normal: int64 [distinct scores], numbers of samples with that score.
    """

    abnormal: npt.NDArray[np.int64]
    normal: npt.NDArray[np.int64]

    @property
    def n_abnormal(self) -> int:
        return int(self.abnormal.sum())

    @property
    def n_normal(self) -> int:
        return int(self.normal.sum())

    def auroc(self) -> float:
        higher = np.cumsum(self.abnormal) - self.abnormal
        half_wins = int((self.normal * (2 * higher + self.abnormal)).sum())
        return half_wins / (2 * self.n_normal * self.n_abnormal)

    def centred_components(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return DeLong's structural components minus the AUROC, [distinct scores] each.

        For an abnormal with that score: the share of normals with a lower score.  For a normal: the share of
        abnormals with a higher score.  Equal scores count half.
        """
        beaten = self.n_normal - np.cumsum(self.normal) + self.normal / 2
        beating = np.cumsum(self.abnormal) - self.abnormal / 2
        area = self.auroc()
        return beaten / self.n_normal - area, beating / self.n_abnormal - area

    def auroc_se(self) -> float | None:
        if min(self.n_normal, self.n_abnormal) < 2:
            return None
        abnormal, normal = self.centred_components()
        of_abnormal = float(self.abnormal @ abnormal**2) / (self.n_abnormal * (self.n_abnormal - 1))
        of_normal = float(self.normal @ normal**2) / (self.n_normal * (self.n_normal - 1))
        return math.sqrt(of_abnormal + of_normal)

    def average_precision(self) -> float:
        flagged = np.cumsum(self.abnormal)
        precision = flagged / (flagged + np.cumsum(self.normal))
        return float((self.abnormal * precision).sum()) / self.n_abnormal

    def fpr95(self) -> float:
        # Compare with 19/20 in integers: 0.95 has no exact float, and one sample can decide.
        enough = int(np.argmax(20 * np.cumsum(self.abnormal) >= 19 * self.n_abnormal))
        return int(self.normal[: enough + 1].sum()) / self.n_normal

    def ties(self) -> float:
        counts = self.abnormal + self.normal
        return int(counts[counts > 1].sum()) / int(counts.sum())


def _steps(labels: Labels, scores: Scores) -> _Steps:
    positive, values = _binary(labels), _finite(scores)
    if positive.shape != values.shape:
        raise ValueError(f"{len(positive)} labels, but {len(values)} scores: there must be as many scores as labels")
    order = np.argsort(values)[::-1]
    values, positive = values[order], positive[order]
    lasts = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    abnormal = np.cumsum(positive)[lasts]
    return _Steps(
        abnormal=np.diff(abnormal, prepend=0),
        normal=np.diff(lasts + 1 - abnormal, prepend=0),
    )


def _binary(labels: Labels) -> npt.NDArray[np.int64]:
    values = np.asarray(labels)
    wrong = np.setdiff1d(values, (0, 1))
    if values.ndim != 1 or len(wrong):
        raise ValueError(
            "labels must be a list of 0 (normal) and 1 (abnormal), not of "
            f"shape {values.shape} with {wrong[:5].tolist()}"
        )
    if len(np.unique(values)) < 2:
        raise ValueError(f"labels must have both 0 (normal) and 1 (abnormal); all {len(values)} are the same")
    return values.astype(np.int64)


def _finite(scores: Scores) -> npt.NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"scores must be a list of numbers, not of shape {values.shape}")
    wrong = np.count_nonzero(~np.isfinite(values))
    if wrong:
        raise ValueError(f"{wrong} of {len(values)} scores are NaN or infinite: a diverged detector has no metrics")
    return values
