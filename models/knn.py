"""kNN: mean Euclidean distance to the nearest training images, on raw pixels.

No learning at all, and on MNIST better than every published GAN: the baseline to beat.

Pixels are whole numbers, and so are their products: sums of up to 1,024 products of numbers from
-128 to 127 are exact in float32.  So a distance depends on neither batch, order nor device.

Most of the time goes into those products, as it should: training images are kept in one byte a pixel, made
float32 a cacheful at a time, their squares are summed once, and few distances are searched.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.defaults import KNNHyperparameters
from models.detector import Detector

EXACT = 1024  # products that float32 can add without rounding: 1024 * 128^2 = 2^24
CHUNK = 1024  # training images compared at once: as float32 they stay in a core's cache
BLOCK = 32  # distances that are looked at only if their least one is among the nearest


class KNN(Detector):
    """Scores the mean distance to the `neighbours` nearest training images, pixels in [-1, 1].

    Fewer training images than neighbours are all averaged over.
    """

    Hyperparameters = KNNHyperparameters
    train_images: Tensor
    train_squares: Tensor

    def __init__(
        self,
        channels: int,
        size: int,
        hyperparameters: KNNHyperparameters,
        variant: str = "plain",
        dataset: str = "",
    ) -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        self.register_buffer("train_images", torch.zeros(0, channels * size * size, dtype=torch.int8))
        self.register_buffer("train_squares", torch.zeros(0, dtype=torch.float64))

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels as whole numbers from -128 to 127, float32."""
        self.check_images(images)
        return images.to(torch.float32).sub_(128)

    def fit(self, images: Tensor) -> None:
        """Keep [N, C, S, S] as whole numbers from -128 to 127, and the sum of the squares of each."""
        self.check_images(images)
        self.train_images = (images.flatten(1) ^ 128).view(torch.int8)  # the upper bit is the sign
        self.train_squares = torch.cat([_squares(part.float()) for part in torch.split(self.train_images, CHUNK)])

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Mean distance to the nearest, [B]."""
        x = batch.flatten(1)
        x_squares = _squares(x)[:, None]
        nearest = x_squares[:, :0]
        for y, y_squares in zip(
            *(torch.split(of, CHUNK) for of in (self.train_images, self.train_squares)), strict=True
        ):
            found = _least(y_squares - 2 * _products(x, y.float()), self.hyperparameters.neighbours)
            nearest = _least(torch.cat([nearest, found], 1), self.hyperparameters.neighbours)
        return {"score": ((x_squares + nearest).sqrt().mean(1) / 127.5).to(torch.float32)}


def _squares(x: Tensor) -> Tensor:
    """Sum of the squares of each row, float64 [B], exact."""
    return x.double().square().sum(1)


def _products(x: Tensor, y: Tensor) -> Tensor:
    """[B, N] in float64 of whole-numbered rows x [B, D] with y [N, D], exact."""
    parts = [(a @ b.T).double() for a, b in zip(torch.split(x, EXACT, 1), torch.split(y, EXACT, 1), strict=True)]
    return sum(parts[1:], parts[0])


def _least(values: Tensor, count: int) -> Tensor:
    """The `count` least of each row of [B, N], or all, ascending.

    They lie in the `count` blocks whose least is least: any other block begins with a value that so
    many are not above.  Block minima cost a fraction of a search through all values.
    """
    blocks = values.shape[1] // BLOCK
    if blocks > count:
        whole, rest = values[:, : blocks * BLOCK], values[:, blocks * BLOCK :]
        blocked = whole.view(len(whole), BLOCK, blocks)  # neighbours in different blocks: minima run along memory
        chosen = blocked.amin(1).topk(count, largest=False, sorted=False).indices
        members = blocked.gather(2, chosen[:, None].expand(-1, BLOCK, -1)).flatten(1)
        values = torch.cat([members, rest], 1)
    return values.topk(min(count, values.shape[1]), largest=False).values
