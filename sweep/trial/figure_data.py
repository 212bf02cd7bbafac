"""figures.npz: what figures need of a trained detector, taken once when its trial ends.

    features          float16 [N, F]     of the discriminator, over their greatest magnitude; N <= 1,000 test samples
    feature_labels    uint8 [N]          0 normal, 1 abnormal
    originals         uint8 [K, C, S, S] the 16 easiest and the 16 hardest test samples, at most 64 pixels wide
    reconstructions   uint8 [K, C, S, S]
    image_labels      uint8 [K]
    image_scores      float64 [K]
    image_hard        bool [K]
    epoch             int64              after which all of it was taken

An easy sample is ranked where it belongs: a normal of low score, an abnormal of high score; a hard one
where the other kind belongs.  Half of each are normal, half abnormal.  What a detector has not, its file
has not.  No file is larger than 3 MiB, and taking it draws no random number of torch's.
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
FEATURES = 1024  # longer features are projected at random: distances between samples stay within a few percent
EXTREMES = 8  # easiest, and hardest, of each kind
SIDE = 64  # of a stored image, at most

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
    """The file, or None for a detector with neither features nor reconstructions.

    Args:
        detector: trained; it stays as it is.
        images: uint8 [., C, S, S], of which few are read.
        test: [N], which of them are test samples.
        labels: [N], 0 normal, 1 abnormal.
        scores: [N], of the detector as it is; higher is more abnormal.
        epoch: after which the detector is.
        seed: draws the samples of which features are kept.
        device: where the detector is.
    """
    found: dict[str, Any] = {}
    drawn = sample(labels, FEATURE_SAMPLES, seed)
    features = _in_batches(detector, detector.discriminator_features, images[test[drawn]], device)
    if features is not None:
        found |= {"features": _half(_project(features, seed)), "feature_labels": labels[drawn].astype(np.uint8)}
    chosen, hard = extremes(labels, scores)
    pixels = reconstruct(detector, images[test[chosen]], device)
    if pixels is not None:
        found |= {
            "originals": _small(images[test[chosen]]),
            "reconstructions": _small(pixels),
            "image_labels": labels[chosen].astype(np.uint8),
            "image_scores": scores[chosen],
            "image_hard": hard,
        }
    if not found:
        return None
    buffer = io.BytesIO()
    np.savez_compressed(buffer, epoch=np.int64(epoch), **found)
    return buffer.getvalue()


def extremes(labels: npt.NDArray[Any], scores: Numbers) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Indices of the easiest and the hardest samples, easiest and hardest first, and which are hard.

    In order: easy normals, easy abnormals, hard normals, hard abnormals; no sample twice.
    """
    order = np.argsort(scores, kind="stable")
    normal, abnormal = (order[labels[order] == label] for label in (0, 1))
    kinds = [(min(EXTREMES, len(kind) // 2), kind) for kind in (normal, abnormal[::-1])]
    easy = [kind[:count] for count, kind in kinds]
    hard = [kind[::-1][:count] for count, kind in kinds]
    chosen = np.concatenate([*easy, *hard]).astype(np.int64)
    return chosen, np.arange(len(chosen)) >= sum(map(len, easy))


def reconstruct(detector: Detector, images: Images, device: torch.device) -> Numbers | None:
    """What a detector makes of images uint8 [N, C, S, S]: of that shape, in [0, 255]; None for one that makes none."""
    made = _in_batches(detector, detector.reconstruction, images, device)
    return None if made is None else np.clip((made * detector.std + detector.mean) * 255, 0, 255)


def _in_batches(detector: Detector, method: Any, images: Images, device: torch.device) -> Numbers | None:
    """What a method of the detector's gives for images, float32; None where it has nothing to give."""
    parts: list[Tensor] = []
    with detector.evaluating():
        for batch in torch.split(torch.from_numpy(images), detector.score_batch):
            part = method(detector.normalise(batch.to(device)))
            if part is None:
                return None
            parts.append(part.float().cpu())
    return torch.cat(parts).numpy() if parts else None


def _project(features: Numbers, seed: int) -> Numbers:
    """[N, F] to at most `FEATURES` columns."""
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
    """Pixels averaged until an image is at most `SIDE` wide."""
    count, channels, side, _ = images.shape
    step = max(1, side // SIDE)
    blocks = images.reshape(count, channels, side // step, step, side // step, step)
    averaged: Images = np.rint(blocks.mean((3, 5))).astype(np.uint8)
    return averaged
