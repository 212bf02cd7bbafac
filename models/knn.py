"""kNN: mean Euclidean distance to the nearest training images, on raw pixels.

No learning at all, and on MNIST better than every published GAN: the baseline to beat.

Pixels are whole numbers, and so are their products: sums of up to 1,024 products of numbers from
-128 to 127 are exact in float32.  So a distance depends on neither batch, order nor device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.defaults import KNNHyperparameters
from models.detector import Detector

EXACT = 1024  # products that float32 can add without rounding: 1024 * 128^2 = 2^24
CHUNK = 8192  # training images compared at once


class KNN(Detector):
    """Scores the mean distance to the `neighbours` nearest training images, pixels in [-1, 1].

    Fewer training images than neighbours are all averaged over.
    """

    Hyperparameters = KNNHyperparameters
    train_images: Tensor

    def __init__(
        self,
        channels: int,
        size: int,
        hyperparameters: KNNHyperparameters,
        variant: str = "plain",
        dataset: str = "",
    ) -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        self.register_buffer("train_images", torch.zeros(0, channels * size * size, dtype=torch.uint8))

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels as whole numbers from -128 to 127, float32."""
        self.check_images(images)
        return images.to(torch.float32).sub_(128)

    def fit(self, images: Tensor) -> None:
        """Keep [N, C, S, S] as they are."""
        self.check_images(images)
        self.train_images = images.flatten(1).clone()

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Mean distance to the nearest, [B]."""
        x = batch.flatten(1)
        nearest = x.new_empty(len(x), 0, dtype=torch.float64)
        for part in torch.split(self.train_images, CHUNK):
            squares = torch.cat([nearest, _squared_distances(x, part.to(torch.float32).sub_(128))], 1)
            count = min(self.hyperparameters.neighbours, squares.shape[1])
            nearest = squares.topk(count, largest=False).values
        return {"score": (nearest.sqrt().mean(1) / 127.5).to(torch.float32)}


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """[B, N] in float64 between whole-numbered rows x [B, D] and y [N, D], exact."""
    squares = x.double().square().sum(1)[:, None] + y.double().square().sum(1)
    for a, b in zip(torch.split(x, EXACT, 1), torch.split(y, EXACT, 1), strict=True):
        squares -= 2 * (a @ b.T).double()
    return squares
