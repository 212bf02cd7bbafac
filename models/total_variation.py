"""Total variation: how much neighbouring pixels differ, the simplest measure of an image's complexity.

It looks at nothing but the image itself, so over classes of equal size in turn abnormal its mean AUROC is
0.5 by construction, whatever single classes say (on MNIST from 0.01 for the digit 1 to 0.81 for 0, mean
0.50).  A detector whose single classes follow these numbers has learned how busy an image is, not what is
normal.
"""

from __future__ import annotations

from torch import Tensor

from models.detector import Detector


class TotalVariation(Detector):
    """Scores the mean |difference| over all pairs of horizontal and vertical neighbours, pixels in [-1, 1]."""

    def fit(self, images: Tensor) -> None:
        """Nothing to learn."""
        self.check_images(images)

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Anisotropic total variation over the number of pairs, [B] in [0, 2]."""
        horizontal, vertical = batch.diff(dim=3).abs(), batch.diff(dim=2).abs()
        return {"score": (horizontal.flatten(1).mean(1) + vertical.flatten(1).mean(1)) / 2}
