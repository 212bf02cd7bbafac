"""figures.npz: data of a trained detector for the report's figures, taken once at the end of its trial.

    features          float16 [N, F]     of the discriminator, over their largest magnitude; N <= 1,000 test samples
    feature_labels    uint8 [N]          0 normal, 1 abnormal
    originals         uint8 [K, C, S, S] the 16 easiest and the 16 hardest test samples, at most 64 pixels wide
    reconstructions   uint8 [K, C, S, S]
    image_labels      uint8 [K]
    image_scores      float64 [K]
    image_hard        bool [K]
    epoch             int64              number of epochs of training before the data were taken

An easy sample has a score that fits its label: a normal with a low score, an abnormal with a high score.
A hard sample has the score of the other label.  Half of each group are normal, half abnormal.  The file
leaves out what a detector does not produce.  No file is larger than 3 MiB, and taking the data draws no
random number from torch.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.detector import Detector
from sweep.trial.evaluation import sample

FEATURE_SAMPLES = 1000
FEATURES = 1024  # longer features are randomly projected, which keeps distances between samples within a few percent
EXTREMES = 8  # easiest samples of each label, and as many hardest ones
SIDE = 64  # most pixels along one side of a stored image

Images = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.floating[Any]]


def figure_data(
    detector: Detector,
    images: Images,
    test: npt.NDArray[np.int64],
    labels: npt.NDArray[Any],
    scores: Numbers,
    *,
    epoch: int,
    seed: int,
    device: torch.device,
) -> bytes | None:
    """Return the bytes of figures.npz; None for a detector with neither features nor reconstructions.

    Args:
        detector: trained detector; it is not changed.
        images: uint8 [., C, S, S]; only a few of them are read.
        test: [N], positions of the test samples in `images`.
        labels: [N], 0 normal, 1 abnormal.
        scores: [N], of the detector in its present state; higher is more abnormal.
        epoch: number of epochs for which the detector was trained.
        seed: seed for drawing the samples whose features are kept.
        device: device of the detector.
    """
    arrays: dict[str, Any] = {}
    drawn = sample(labels, FEATURE_SAMPLES, seed)
    features = _in_batches(detector, detector.discriminator_features, images[test[drawn]], device)
    if features is not None:
        arrays |= {"features": _half(_project(features, seed)), "feature_labels": labels[drawn].astype(np.uint8)}
    chosen, hard = extremes(labels, scores)
    pixels = reconstruct(detector, images[test[chosen]], device)
    if pixels is not None:
        arrays |= {
            "originals": _small(images[test[chosen]]),
            "reconstructions": _small(pixels),
            "image_labels": labels[chosen].astype(np.uint8),
            "image_scores": scores[chosen],
            "image_hard": hard,
        }
    if not arrays:
        return None
    buffer = io.BytesIO()
    np.savez_compressed(buffer, epoch=np.int64(epoch), **arrays)
    return buffer.getvalue()


def extremes(labels: npt.NDArray[Any], scores: Numbers) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the indices of the easiest and the hardest samples, and which of them are hard.

    Their order: easy normals, easy abnormals, hard normals, hard abnormals; within each group the most
    extreme sample first.  No sample occurs twice.

    Args:
        labels: [N], 0 normal, 1 abnormal.
        scores: [N], higher is more abnormal.

    Returns:
        Indices, int64 [K], and whether each is hard, bool [K].
    """
    order = np.argsort(scores, kind="stable")
    normal, abnormal = (order[labels[order] == label] for label in (0, 1))
    kinds = [(min(EXTREMES, len(kind) // 2), kind) for kind in (normal, abnormal[::-1])]
    easy = [kind[:count] for count, kind in kinds]
    hard = [kind[::-1][:count] for count, kind in kinds]
    chosen = np.concatenate([*easy, *hard]).astype(np.int64)
    return chosen, np.arange(len(chosen)) >= sum(map(len, easy))


def reconstruct(detector: Detector, images: Images, device: torch.device) -> Numbers | None:
    """Return the detector's reconstruction of images uint8 [N, C, S, S]: the same shape, in [0, 255].

    Returns None for a detector that does not reconstruct.
    """
    made = _in_batches(detector, detector.reconstruction, images, device)
    return None if made is None else np.clip((made * detector.std + detector.mean) * 255, 0, 255)


def _in_batches(detector: Detector, method: Any, images: Images, device: torch.device) -> Numbers | None:
    """Apply a method of the detector to images in batches, as float32; None if the method returns None."""
    parts: list[Tensor] = []
    with detector.evaluating():
        for batch in torch.split(torch.from_numpy(images), detector.score_batch):
            part = method(detector.normalise(batch.to(device)))
            if part is None:
                return None
            parts.append(part.float().cpu())
    return torch.cat(parts).numpy() if parts else None


def _project(features: Numbers, seed: int) -> Numbers:
    """Project features [N, F] to at most `FEATURES` columns."""
    flat = features.reshape(len(features), -1)
    if flat.shape[1] <= FEATURES:
        return flat
    directions = np.random.RandomState([seed, FEATURES]).standard_normal((flat.shape[1], FEATURES))
    projected: Numbers = flat @ (directions / np.sqrt(FEATURES)).astype(np.float32)
    return projected


def _half(features: Numbers) -> npt.NDArray[np.float16]:
    greatest = float(np.abs(features).max(initial=0.0))
    return (features / (greatest or 1.0)).astype(np.float16)


def _small(images: npt.NDArray[Any]) -> Images:
    """Average blocks of pixels until an image is at most `SIDE` wide."""
    count, channels, side, _ = images.shape
    step = max(1, side // SIDE)
    blocks = images.reshape(count, channels, side // step, step, side // step, step)
    averaged: Images = np.rint(blocks.mean((3, 5))).astype(np.uint8)
    return averaged
