"""Seconds that training and scoring take on one CPU core, before anything was measured.

Arithmetic counted layer by layer, over a rate measured on one core of an AVX-512 Xeon; good to a
factor of two or so, which orders trials and sizes a cluster.  Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from models.hyperparameters import Scalar

Hyperparameters = Mapping[str, Scalar]
RATE = {"float32": 80e9, "bf16": 200e9}  # multiply-adds x 2 a second, one core, convolutions of these sizes
TRAIN_FACTOR = 3.0  # forward, gradient to the data, gradient to the weights
SCORE_BATCH = 256  # images scored at once
STEP_SECONDS = 0.010  # of a training step that does no arithmetic: about 300 small operations and Adam
IMAGE_SECONDS = 2e-5  # any pass over an image at all


@dataclass(frozen=True)
class Cost:
    """Seconds on one CPU core, as a function of (hyperparameters, images, size, channels, precision).

    Attributes:
        epoch: one epoch of training; for detectors without epochs, the whole of `fit`.
        score: scoring.
    """

    epoch: Callable[[Hyperparameters, int, int, int, str], float]
    score: Callable[[Hyperparameters, int, int, int, str], float]


def nothing(hyperparameters: Hyperparameters, images: int, size: int, channels: int, precision: str) -> float:
    """A pass over the pixels."""
    return images * IMAGE_SECONDS


def steps(hyperparameters: Hyperparameters, images: int) -> int:
    """Steps of an epoch: whole batches, at least one."""
    return max(1, images // int(hyperparameters["batch_size"]))


def encoder_madds(size: int, channels: int, width: int, outputs: int) -> float:
    """Multiply-adds of one image through the DCGAN encoder; its mirror, the decoder, has as many."""
    total, into, out, side = 0.0, channels, width, size // 2
    while side >= 4:
        total += 16.0 * into * out * side * side
        into, out, side = out, 2 * out, side // 2
    return total + 16.0 * into * outputs


def unet_madds(size: int, channels: int, width: int) -> float:
    """Multiply-adds of one image through the U-Net: down to 1x1 and, with twice the input, up again."""
    total, into, out, side = 0.0, channels, width, size // 2
    while side >= 1:
        total += 16.0 * into * out * side * side * (2 if side == 1 else 3)
        into, out, side = out, min(2 * out, 8 * width), side // 2
    return total


def ganomaly_epoch(h: Hyperparameters, images: int, size: int, channels: int, precision: str) -> float:
    """Two encoders and a decoder trained; the discriminator on real and on fake images."""
    width = int(h["width"])
    generator = 3 * encoder_madds(size, channels, width, int(h["nz"]))
    discriminator = 2 * encoder_madds(size, channels, width, 1)
    return _training(h, images, generator + discriminator, precision)


def ganomaly_score(h: Hyperparameters, images: int, size: int, channels: int, precision: str) -> float:
    """One pass through two encoders and a decoder."""
    return _pass(images, 3 * encoder_madds(size, channels, int(h["width"]), int(h["nz"])), precision)


def skip_ganomaly_epoch(h: Hyperparameters, images: int, size: int, channels: int, precision: str) -> float:
    """The U-Net trained; the discriminator on real and on fake images."""
    width, nz = int(h["width"]), int(h["nz"])
    madds = unet_madds(size, channels, width) + 2 * encoder_madds(size, channels, width, nz)
    return _training(h, images, madds, precision)


def skip_ganomaly_score(h: Hyperparameters, images: int, size: int, channels: int, precision: str) -> float:
    """One pass through the U-Net, two through the discriminator."""
    width, nz = int(h["width"]), int(h["nz"])
    madds = unet_madds(size, channels, width) + 2 * encoder_madds(size, channels, width, nz)
    return _pass(images, madds, precision)


def pca_fit(h: Hyperparameters, images: int, size: int, channels: int, precision: str) -> float:
    """Product of all images with themselves, then the eigenvectors of the smaller side."""
    pixels = channels * size * size
    side = min(pixels, images, 4096)
    return images * IMAGE_SECONDS + (2.0 * images * pixels * side + 10.0 * side**3) / FLOAT64_RATE


def pca_score(h: Hyperparameters, images: int, size: int, channels: int, precision: str) -> float:
    """Two products with the basis."""
    madds = 2.0 * channels * size * size * int(h["components"])
    return images * (IMAGE_SECONDS + 2 * madds / FLOAT64_RATE)


def knn_score(h: Hyperparameters, images: int, size: int, channels: int, precision: str) -> float:
    """One product of every image with KNN_TRAIN_IMAGES training images, whose true number is not known here."""
    return images * (IMAGE_SECONDS + 2.0 * KNN_TRAIN_IMAGES * channels * size * size / PRODUCT_RATE)


def unknown_epoch(h: Hyperparameters, images: int, size: int, channels: int, precision: str) -> float:
    """A user's own network: a guess, a tenth of a GANomaly of width 64."""
    return images * (IMAGE_SECONDS + 0.1 * TRAIN_FACTOR * 2 * _unit(size, channels) / RATE[precision])


def unknown_score(h: Hyperparameters, images: int, size: int, channels: int, precision: str) -> float:
    """A user's own network: a guess, a tenth of a GANomaly of width 64."""
    return images * (IMAGE_SECONDS + 0.1 * 2 * _unit(size, channels) / RATE[precision])


FLOAT64_RATE = 20e9
PRODUCT_RATE = 40e9
KNN_TRAIN_IMAGES = 50_000


def _unit(size: int, channels: int) -> float:
    return 5 * encoder_madds(size, channels, 64, 100)


def _training(h: Hyperparameters, images: int, madds: float, precision: str) -> float:
    per_image = IMAGE_SECONDS + TRAIN_FACTOR * 2 * madds / RATE[precision]
    return steps(h, images) * (STEP_SECONDS + int(h["batch_size"]) * per_image)


def _pass(images: int, madds: float, precision: str) -> float:
    return images * (IMAGE_SECONDS + 2 * madds / RATE[precision])
