"""kNN: mean Euclidean distance to the nearest training images, on raw pixels.

It learns nothing, and on MNIST it is better than every published GAN: it is the baseline to beat.

Pixels are integers, and so are their products: sums of up to 1,024 products of numbers from -128 to 127 are exact in
float32.  So a distance depends neither on the batch, nor on the order, nor on the device.

Most of the time is spent on those products.  Training images are stored with one byte per pixel, and converted to
float32 in chunks that fit the cache.  Their squares are summed only once, and only few distances are sorted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.defaults import KNNHyperparameters
from models.detector import Detector
from models.hyperparameters import ANY_SIZE

EXACT = 1024  # number of products that float32 can add without rounding: 1024 * 128^2 = 2^24
CHUNK = 1024  # training images that are compared at once: as float32 they stay in a core's cache
BLOCK = 32  # distances in a block; a block is sorted only if its smallest distance is among the nearest


class KNN(Detector):
    """Baseline whose score is the mean distance to the `neighbours` nearest training images, with pixels in [-1, 1].

    If there are fewer training images than neighbours, the mean is over all of them.
    """

    sizes = ANY_SIZE
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
        """Convert pixels to integers from -128 to 127, stored as float32."""
        self.check_images(images)
        return images.to(torch.float32).sub_(128)

    def fit(self, images: Tensor) -> None:
        """Store images [N, C, S, S] as integers from -128 to 127, and the sum of squares of each."""
        self.check_images(images)
        self.train_images = (images.flatten(1) ^ 128).view(torch.int8)  # flips the sign bit: the same as minus 128
        self.train_squares = torch.cat([_squares(part.float()) for part in torch.split(self.train_images, CHUNK)])

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute the mean distance to the nearest training images, [B]."""
        x = batch.flatten(1)
        x_squares = _squares(x)[:, None]
        nearest = x_squares[:, :0]
        for y, y_squares in zip(
            *(torch.split(buffer, CHUNK) for buffer in (self.train_images, self.train_squares)), strict=True
        ):
            candidates = _least(y_squares - 2 * _products(x, y.float()), self.hyperparameters.neighbours)
            nearest = _least(torch.cat([nearest, candidates], 1), self.hyperparameters.neighbours)
        return {"score": ((x_squares + nearest).sqrt().mean(1) / 127.5).to(torch.float32)}


def _squares(x: Tensor) -> Tensor:
    """Return the exact sum of squares of each row, float64 [B]."""
    return x.double().square().sum(1)


def _products(x: Tensor, y: Tensor) -> Tensor:
    """Return the exact products of integer rows x [B, D] with integer rows y [N, D], float64 [B, N]."""
    parts = [(a @ b.T).double() for a, b in zip(torch.split(x, EXACT, 1), torch.split(y, EXACT, 1), strict=True)]
    return sum(parts[1:], parts[0])


def _least(values: Tensor, count: int) -> Tensor:
    """Return the `count` smallest values of each row of [B, N], or all values if there are fewer, ascending.

    They are in the `count` blocks with the smallest minima: for every value in another block, each of these
    blocks has a value that is not greater.  Finding the blocks' minima costs much less than sorting all values.
    """
    blocks = values.shape[1] // BLOCK
    if blocks > count:
        whole, rest = values[:, : blocks * BLOCK], values[:, blocks * BLOCK :]
        blocked = whole.view(len(whole), BLOCK, blocks)  # adjacent values are in different blocks: faster minima
        chosen = blocked.amin(1).topk(count, largest=False, sorted=False).indices
        members = blocked.gather(2, chosen[:, None].expand(-1, BLOCK, -1)).flatten(1)
        values = torch.cat([members, rest], 1)
    return values.topk(min(count, values.shape[1]), largest=False).values
