"""Pretrained features of a trial's images, computed once for each dataset and node."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.storage.derived import CHUNK, derived
from data.storage.loader import Dataset
from models.detector import Detector
from models.references.features import FeatureReference, PretrainedFeatures

Pixels = npt.NDArray[np.uint8]


class KnownFeatures:
    """Function from images to features that looks up those of a dataset, and computes those of other images.

    Args:
        images: uint8 [N, C, S, S] of the dataset.
        features: the features of each chunk of `CHUNK` images, in order.
        compute: computes the features of images uint8 [B, C, S, S].
    """

    def __init__(self, images: Pixels, features: list[Any], compute: PretrainedFeatures) -> None:
        self.compute, self.features = compute, features
        self.rows = {_digest(image): row for row, image in enumerate(images.view(np.ndarray))}

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of images uint8 [B, C, S, S], float16 [B, F]."""
        rows = [self.rows.get(_digest(image)) for image in images.cpu().numpy()]
        if None in rows:
            return self.compute(images)
        known = np.stack([self.features[row // CHUNK][row % CHUNK] for row in rows if row is not None])
        return torch.from_numpy(known).to(images.device)


def prepare_features(detector: Detector, dataset: Dataset, device: torch.device, cache_bytes: float) -> Iterator[None]:
    """Make a detector that looks at pretrained features read those of the dataset; other detectors do not change.

    The features are part of the node's copy of the dataset.  Their name is a hash of the network, its weights, the
    resolution, the version of torch, the kind of the device and the number of threads: what decides their bits.

    Args:
        detector: detector of a trial.
        dataset: the trial's dataset.
        device: the trial's device.
        cache_bytes: limit of the size of the node's cache.

    Yields:
        after each chunk of images.

    Raises:
        DataError: the cache cannot be written.
    """
    if not isinstance(detector, FeatureReference) or not isinstance(detector.extract, PretrainedFeatures):
        return
    extract = detector.extract
    kind = "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
    parts = (extract.identity, torch.__version__, kind, torch.get_num_threads())
    identity = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def compute(images: Pixels) -> npt.NDArray[np.float16]:
        features: npt.NDArray[np.float16] = extract(torch.from_numpy(images).to(device)).cpu().numpy()
        return features

    found: list[Any] = []
    yield from derived(dataset, identity, compute, cache_bytes, found)
    detector.extract = KnownFeatures(dataset.images, found, extract)


def _digest(image: Pixels) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()
