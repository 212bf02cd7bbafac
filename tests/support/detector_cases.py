"""Each variant of each detector at a size that trains in milliseconds, for tests of the contract."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.build import build
from models.catalog import DETECTORS, detector, resolve
from models.detector import Detector
from models.info import DetectorInfo
from tests.support.random_weights import random_weights

NETWORKS = ("ganomaly", "skip_ganomaly", "egbad", "autoencoder", "vae", "deep_svdd")
SMALL: dict[str, dict[str, Any]] = {
    **{name: {"width": 4, "nz": 6} for name in NETWORKS},
    "anogan": {"width": 4, "nz": 6, "steps": 3, "restarts": 2},
    "pca": {"components": 3},
    "mahalanobis": {"components": 3},
    "feature_knn": {"neighbours": 3},
    "ocsvm": {"components": 3},
    "isolation_forest": {"components": 3, "trees": 7},
    "tests.own_detector:DenoisingAutoencoder": {"width": 4},
    "tests.anomalib_detector:PatchCore": {"pretrained": False, "resolution": 32, "share": 0.5},
}
OWN = ["tests.own_detector:DenoisingAutoencoder"]
if find_spec("anomalib"):  # it is no dependency: these cases run where it is installed
    OWN.append("tests.anomalib_detector:PatchCore")
    with warnings.catch_warnings(action="ignore"):  # of its own dependencies, when they are imported
        detector(OWN[-1])
NAMES = [*DETECTORS, *OWN]
# `untrained` is left out: it is the default variant with 0 epochs, hence the same code.
CASES = [
    (name, variant, "float32") for name in NAMES for variant in detector(name).variants if variant != "untrained"
] + [(name, detector(name).default_variant, "bf16") for name in NAMES if detector(name).trains_by_epoch]
UNLEARNED = {"constant", "total_variation"}  # their scores do not depend on training images
BLIND = {"constant"}  # its scores do not depend on the scored image either


def small(name: str) -> dict[str, Any]:
    """Return hyperparameters with which a detector trains in milliseconds; pretrained networks have random weights."""
    values = SMALL.get(name, {})
    pretrained = any(field.name == "weights" for field in detector(name).fields)
    return {**values, "weights": random_weights(), "resolution": 32} if pretrained else values


def blobs(size: int, count: int, channels: int = 1, seed: int = 7) -> Tensor:
    """Return random blobs, uint8 [count, channels, size, size]; neighbouring pixels are equal, as in photographs."""
    coarse = np.random.RandomState(seed).randint(0, 256, (count, channels, size // 4, size // 4))
    return torch.from_numpy(coarse.repeat(4, axis=2).repeat(4, axis=3).astype(np.uint8))


@dataclass(frozen=True)
class Case:
    """One variant of a detector at a size that trains in milliseconds."""

    name: str
    variant: str
    precision: str = "float32"

    @property
    def info(self) -> DetectorInfo:
        return detector(self.name)

    @property
    def size(self) -> int:
        """Smallest legal size of images, in pixels."""
        return self.info.variant(self.variant).sizes[0]

    def images(self, count: int, channels: int = 1, seed: int = 7) -> Tensor:
        """Return random images of this case's size, uint8 [count, channels, S, S]."""
        return blobs(self.size, count, channels, seed)

    def make(self, channels: int = 1, seed: int = 0) -> Detector:
        torch.manual_seed(seed)
        values = resolve(self.info, self.variant, small(self.name))
        return build(
            self.name,
            channels=channels,
            size=self.size,
            hyperparameters=values,
            variant=self.variant,
            precision=self.precision,
        )

    def train(self, made: Detector, seed: int = 7, steps: int = 3) -> list[dict[str, Tensor]]:
        data = self.images(24, made.channels, seed)
        if not self.info.trains_by_epoch:
            made.fit(data)
            return []
        batches = [data[8 * step % 24 :][:8] for step in range(steps)]
        return [made.train_step(made.normalise(batch)) for batch in batches]

    def trained(self, channels: int = 1, seed: int = 0) -> Detector:
        made = self.make(channels, seed)
        self.train(made)
        return made
