"""Constant: every image gets the same score.

The floor of any board: AUROC 0.5 by ties alone, average precision the base rate.
"""

from __future__ import annotations

from torch import Tensor

from models.detector import Detector


class Constant(Detector):
    """Scores 0 whatever it sees."""

    def fit(self, images: Tensor) -> None:
        """Nothing to learn."""
        self.check_images(images)

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """0 for each image."""
        return {"score": batch.new_zeros(len(batch))}
