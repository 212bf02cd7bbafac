"""Scoring of samples after an epoch: `clean`, or in the way in which published code tests.

Evaluations together with selections (`sweep.trial.selection`: how the epoch is chosen) form the audit
grid.  The grid shows how much of a published AUC comes from the protocol.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.detector import Detector
from sweep.trial.images import Images

VALIDATION = "validation"  # name of the clean scores of the validation samples
LEGACY_BATCH = 64  # batch size of the published code; legacy scores depend on it
Components = dict[str, npt.NDArray[np.float32]]
Scoring = Generator[None, None, Components]  # pauses after each batch: AnoGAN needs minutes for one


def clean(detector: Detector, images: Images) -> Scoring:
    """Score N images with BatchNorm in evaluation mode; returns score components, float32 [N] each."""
    parts = []
    for start in range(0, len(images), detector.score_batch):
        batch = images[start : start + detector.score_batch]
        parts.append(detector.score(detector.normalise(batch)))
        yield
    return _join(parts)


def finished(scoring: Scoring) -> Components:
    """Run a scoring to its end, ignoring its pauses, and return its components."""
    while True:
        try:
            next(scoring)
        except StopIteration as ended:
            components: Components = ended.value
            return components


def legacy(detector: Detector, images: Images, order: npt.NDArray[np.int64]) -> Scoring:
    """Score images in the way in which the published code of GANomaly and Skip-GANomaly tests.

    BatchNorm stays in training mode.  So an image's score depends on the other images of its batch of 64,
    and the running statistics change.  This happens to a copy of the detector.  If the last batch would
    hold a single image, that image joins the batch before: one image alone has no deviation.

    Args:
        detector: detector to score with; it is not changed.
        images: N images.
        order: order of the images in the loader, a permutation of N.

    Returns:
        Score components, float32 [N] each, in the order of `images`.
    """
    tested = copy.deepcopy(detector)
    arranged = images.reorder(order)
    count = max(1, (len(images) + LEGACY_BATCH - 2) // LEGACY_BATCH)
    bounds = [*(LEGACY_BATCH * number for number in range(count)), len(images)]
    parts = []
    for start, stop in pairwise(bounds):
        parts.append(tested.score_in_training_mode(tested.normalise(arranged[start:stop])))
        yield
    scored = _join(parts)
    back = np.argsort(order)
    return {name: values[back] for name, values in scored.items()}


def loader_order(evaluation: str, labels: npt.NDArray[Any], seed: int) -> npt.NDArray[np.int64]:
    """Return the order of test samples in a published loader: normals first, or shuffled by the split's seed.

    Args:
        evaluation: "legacy_ordered" or "legacy_shuffled".
        labels: 0 normal, 1 abnormal, [N].
        seed: seed of the split.

    Returns:
        int64 [N], a permutation.
    """
    if evaluation == "legacy_ordered":
        return np.argsort(labels, kind="stable")
    return np.random.RandomState([seed, 64]).permutation(len(labels))


def sample(labels: npt.NDArray[Any], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the indices of at most `count` samples, in ascending order.  Keeps the shares of the classes.

    It is meant for detectors that need seconds to score one image.

    Args:
        labels: 0 normal, 1 abnormal, [N].
        count: the most samples to return, and at least two; 0 for all.
        seed: seed of the random choice.
    """
    if not count or max(2, count) >= len(labels):
        return np.arange(len(labels))
    count = max(2, count)  # AUROC needs a sample of each class
    random = np.random.RandomState([seed, count])
    abnormal = min(max(1, round(count * float(np.mean(labels)))), count - 1)
    drawn = [random.permutation(np.flatnonzero(labels == label)) for label in (0, 1)]
    return np.sort(np.concatenate([drawn[0][: count - abnormal], drawn[1][:abnormal]]))


def _join(parts: list[dict[str, Tensor]]) -> Components:
    return {name: torch.cat([part[name] for part in parts]).float().cpu().numpy() for name in parts[0]}
