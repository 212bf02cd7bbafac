"""Total variation: the mean difference of neighbouring pixels, the simplest measure of an image's complexity.

The score depends on the image alone and not on training.  So its mean AUROC is 0.5 by construction if classes of equal
size are the abnormal class in turn, even if single classes differ: on MNIST from 0.01 for the digit 1 to 0.81 for 0,
mean 0.50.  If a detector's AUROCs of single classes follow these numbers, it has learned the complexity of images, and
not which images are normal.
"""

from __future__ import annotations

from torch import Tensor

from models.detector import Detector
from models.hyperparameters import ANY_SIZE


class TotalVariation(Detector):
    """Baseline whose score is the mean |difference| of horizontal and vertical neighbours, with pixels in [-1, 1]."""

    sizes = ANY_SIZE

    def fit(self, images: Tensor) -> None:
        """Check the images; there is nothing to learn."""
        self.check_images(images)

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute the anisotropic total variation divided by the number of pairs, [B] in [0, 2]."""
        horizontal, vertical = batch.diff(dim=3).abs(), batch.diff(dim=2).abs()
        return {"score": (horizontal.flatten(1).mean(1) + vertical.flatten(1).mean(1)) / 2}
