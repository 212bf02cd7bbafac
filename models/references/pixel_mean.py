"""Pixel mean: squared distance to the mean training image.

A detector that is not better than this baseline has learned no more than the average image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.detector import Detector
from models.hyperparameters import ANY_SIZE


class PixelMean(Detector):
    """Baseline whose score is the mean (x - m)^2 over pixels in [-1, 1]; m is the mean of the training images."""

    sizes = ANY_SIZE
    average: Tensor

    def __init__(
        self, channels: int, size: int, hyperparameters: object, variant: str = "plain", dataset: str = ""
    ) -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        self.register_buffer("average", torch.zeros(channels, size, size))

    def fit(self, images: Tensor) -> None:
        """Compute the mean of images [N, C, S, S]; sums are integers, so they do not depend on the order."""
        self.check_images(images)
        total = images.sum(0, dtype=torch.int64)
        self.average.copy_(total.to(torch.float64) / len(images) / 127.5 - 1)

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute the mean squared distance to the average, [B]."""
        return {"score": (batch - self.average).square().flatten(1).mean(1)}
