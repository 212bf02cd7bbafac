"""How samples are scored after an epoch: `clean`, or as published code tests.

Together with how the epoch is chosen (`sweep.trial.selection`) this is the audit grid, which says how much of
a published AUC is protocol.
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

VALIDATION = "validation"  # among what is scored: the validation samples, clean
LEGACY_BATCH = 64  # as published; legacy scores depend on it
Components = dict[str, npt.NDArray[np.float32]]
Scoring = Generator[None, None, Components]  # pauses after each batch: a search for codes takes minutes for one


def clean(detector: Detector, images: Images) -> Scoring:
    """Score components of N images, float32 [N] each, BatchNorm in evaluation mode."""
    parts = []
    for start in range(0, len(images), detector.score_batch):
        batch = images[start : start + detector.score_batch]
        parts.append(detector.score(detector.normalise(batch)))
        yield
    return _join(parts)


def finished(scoring: Scoring) -> Components:
    """What a scoring comes to, where nobody waits for its pauses."""
    while True:
        try:
            next(scoring)
        except StopIteration as ended:
            found: Components = ended.value
            return found


def legacy(detector: Detector, images: Images, order: npt.NDArray[np.int64]) -> Scoring:
    """Score components as GANomaly's and Skip-GANomaly's published code takes them.

    BatchNorm stays in training mode, so an image's score depends on the 64 that it is scored with, and
    the running statistics move.  All of it happens to a copy.  An image that would be alone in the last
    batch, where a batch has no deviation, goes with the batch before.

    Args:
        detector: untouched.
        images: N of them.
        order: of the images in the loader, a permutation of N.

    Returns:
        float32 [N] each, in the order of `images`.
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
    """Order of test samples in a published loader: normals first, or shuffled by the split's seed."""
    if evaluation == "legacy_ordered":
        return np.argsort(labels, kind="stable")
    return np.random.RandomState([seed, 64]).permutation(len(labels))


def sample(labels: npt.NDArray[Any], count: int, seed: int) -> npt.NDArray[np.int64]:
    """Indices of `count` samples, ascending, with the classes' shares kept; all where there are no more.

    For detectors that need seconds to score one image.

    Args:
        labels: 0 normal, 1 abnormal, [N].
        count: how many at most, and two at least; 0 for all.
        seed: draws them.
    """
    if not count or max(2, count) >= len(labels):
        return np.arange(len(labels))
    count = max(2, count)  # of one class alone there is no AUROC
    random = np.random.RandomState([seed, count])
    abnormal = min(max(1, round(count * float(np.mean(labels)))), count - 1)
    drawn = [random.permutation(np.flatnonzero(labels == label)) for label in (0, 1)]
    return np.sort(np.concatenate([drawn[0][: count - abnormal], drawn[1][:abnormal]]))


def _join(parts: list[dict[str, Tensor]]) -> Components:
    return {name: torch.cat([part[name] for part in parts]).float().cpu().numpy() for name in parts[0]}
