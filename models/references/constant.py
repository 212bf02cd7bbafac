"""Constant: every image gets the same score.

This is the lowest baseline of every board: its AUROC is 0.5 by ties alone, its average precision is the base rate.
"""

from __future__ import annotations

from torch import Tensor

from models.detector import Detector
from models.hyperparameters import ANY_SIZE


class Constant(Detector):
    """Baseline with score 0 for every image."""

    sizes = ANY_SIZE

    def fit(self, images: Tensor) -> None:
        """Check the images; there is nothing to learn."""
        self.check_images(images)

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Return 0 for each image."""
        return {"score": batch.new_zeros(len(batch))}
