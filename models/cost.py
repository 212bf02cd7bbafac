"""Seconds that training and scoring take on one CPU core, before anything was measured.

Arithmetic counted layer by layer over a measured rate, plus what each step and each image cost
besides; good to a factor of two or so, which orders trials and sizes a cluster.  Standard library
only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from models.hyperparameters import Scalar

Layers = list[tuple[int, int]]  # of each layer: weights, and positions of the map that each one meets

# Measured at 32x32x1, batches of 16 and 64, widths 8 to 64, one core of a busy AVX-512 Xeon.
STEP_SECONDS = 0.020  # of a training step besides its images: hundreds of small operations, two Adams
WEIGHT_SECONDS = 12e-9  # of a weight in a step: Adam, and its gradient where the map is small
TRAIN_IMAGE_SECONDS = 8e-4  # of an image in a step besides arithmetic: activations, normalisation
SCORE_IMAGE_SECONDS = 2e-4  # of an image through the networks once, besides arithmetic
SEARCH_IMAGE_SECONDS = 4e-4  # of an image in a step of AnoGAN's search, besides arithmetic
RATE = {"float32": 60e9, "tf32": 60e9, "bf16": 180e9}  # floating-point operations a second of convolutions
PASSES = 3  # forward, gradient to the data, gradient to the weights
PIXEL_IMAGE_SECONDS = 7e-6  # of an image that a baseline looks at
FLOAT64_RATE = 40e9  # products in float64
PRODUCT_RATE = 55e9  # products in float32, and the search for the nearest
KNN_TRAIN_IMAGES = 10_000  # stands for the number of training images, which a hint is not told


@dataclass(frozen=True)
class Work:
    """What there is to do: `images` of [channels, size, size] under these hyperparameters."""

    hyperparameters: Mapping[str, Scalar]
    images: int
    size: int
    channels: int
    precision: str

    @property
    def pixels(self) -> int:
        return self.channels * self.size * self.size

    def number(self, name: str) -> int:
        """A whole-numbered hyperparameter."""
        return int(self.hyperparameters[name])


@dataclass(frozen=True)
class Cost:
    """Seconds on one CPU core.

    Attributes:
        training: one epoch of training; for detectors without epochs, the whole of `fit`.
        scoring: scores of all images.
    """

    training: Callable[[Work], float]
    scoring: Callable[[Work], float]

    def epoch(
        self, hyperparameters: Mapping[str, Scalar], images: int, size: int, channels: int, precision: str
    ) -> float:
        """Seconds of one epoch over `images` training images; of `fit` for detectors without epochs.

        Args:
            hyperparameters: resolved.
            images, size, channels: number and shape of the images.
            precision: of training, as in `models.components.numerics`; "bf16" on a core with bf16 matrix units, "tf32",
                which no CPU has, as float32.
        """
        return self.training(Work(hyperparameters, images, size, channels, precision))

    def score(
        self, hyperparameters: Mapping[str, Scalar], images: int, size: int, channels: int, precision: str
    ) -> float:
        """Seconds of scoring `images`; the arguments are those of `epoch`."""
        return self.scoring(Work(hyperparameters, images, size, channels, precision))


def pass_over_pixels(work: Work) -> float:
    """What any detector needs to look at every image once."""
    return work.images * PIXEL_IMAGE_SECONDS


def ganomaly_training(work: Work) -> float:
    """Two encoders and a decoder trained; the discriminator on real and on fake images."""
    return _steps(work, _ganomaly(work) + _times(2, _encoder(work, 1)))


def ganomaly_scoring(work: Work) -> float:
    """One pass through two encoders and a decoder."""
    return _pass(work, _ganomaly(work))


def skip_ganomaly_training(work: Work) -> float:
    """The U-Net trained; the discriminator on real and on fake images."""
    return _steps(work, _unet(work) + _times(2, _encoder(work, work.number("nz"))))


def skip_ganomaly_scoring(work: Work) -> float:
    """One pass through the U-Net, two through the discriminator."""
    return _pass(work, _unet(work) + _times(2, _encoder(work, work.number("nz"))))


def anogan_training(work: Work) -> float:
    """The generator trained; the discriminator on real and on fake images, and once more for the generator."""
    return _steps(work, _encoder(work, work.number("nz")) + _times(3, _encoder(work, 1)))


def anogan_scoring(work: Work) -> float:
    """Each step of each restart passes generator and discriminator forward, and backward to the code alone.

    Of all images, `max_test` are scored.
    """
    limit = work.number("max_test")
    images = min(work.images, limit) if limit else work.images
    layers = _encoder(work, work.number("nz")) + _encoder(work, 1)
    step = SEARCH_IMAGE_SECONDS * _area(work) + 2 * _operations(layers) / RATE["float32"]
    search = work.number("restarts") * work.number("steps") * images * step
    return search + _pass(dataclasses.replace(work, images=images), layers)


def egbad_training(work: Work) -> float:
    """Encoder and generator trained; the discriminator on real and on fake pairs, and twice more for those two."""
    return _steps(work, 2 * _encoder(work, work.number("nz")) + _times(4, _pairs(work)))


def egbad_scoring(work: Work) -> float:
    """One pass through encoder and generator, two through the discriminator."""
    return _pass(work, 2 * _encoder(work, work.number("nz")) + _times(2, _pairs(work)))


def autoencoder_training(work: Work) -> float:
    """One encoder and a decoder trained."""
    return _steps(work, _autoencoder(work))


def autoencoder_scoring(work: Work) -> float:
    """One pass through the encoder and the decoder."""
    return _pass(work, _autoencoder(work))


def pca_fitting(work: Work) -> float:
    """Products of all pixels with each other, or of images beyond 3072 pixels; then eigenvectors."""
    side = min(work.pixels, 3072)
    operations = 2.0 * work.images * work.pixels * side + 10.0 * side**3
    return pass_over_pixels(work) + operations / FLOAT64_RATE


def pca_scoring(work: Work) -> float:
    """Two products with the basis."""
    operations = 4.0 * work.images * work.pixels * work.number("components")
    return pass_over_pixels(work) + operations / FLOAT64_RATE


def knn_scoring(work: Work) -> float:
    """One product of every image with every training image."""
    return pass_over_pixels(work) + 2.0 * work.images * KNN_TRAIN_IMAGES * work.pixels / PRODUCT_RATE


def unknown_training(work: Work) -> float:
    """A user's own network, for want of knowledge: 10,000 multiply-adds a pixel."""
    return _steps(work, [(10_000, work.pixels)])


def unknown_scoring(work: Work) -> float:
    """A user's own network, for want of knowledge: 10,000 multiply-adds a pixel."""
    return _pass(work, [(10_000, work.pixels)])


def _steps(work: Work, layers: Layers) -> float:
    """An epoch's steps: whole batches, at least one."""
    batch = int(work.hyperparameters.get("batch_size", 64))
    image = TRAIN_IMAGE_SECONDS * _area(work) + PASSES * _operations(layers) / RATE[work.precision]
    parameters = sum(weights for weights, _ in layers)
    return max(1, work.images // batch) * (STEP_SECONDS + WEIGHT_SECONDS * parameters + batch * image)


def _pass(work: Work, layers: Layers) -> float:
    return work.images * (SCORE_IMAGE_SECONDS * _area(work) + _operations(layers) / RATE["float32"])


def _operations(layers: Layers) -> float:
    """Floating-point operations of one image through the layers."""
    return 2.0 * sum(weights * positions for weights, positions in layers)


def _area(work: Work) -> float:
    """Pixels against those of the 32x32 image that the seconds per image were measured on."""
    return (work.size / 32) ** 2


def _times(passes: int, layers: Layers) -> Layers:
    """The same weights met by several images, as the real one and its copy."""
    return [(weights, passes * positions) for weights, positions in layers]


def _ganomaly(work: Work) -> Layers:
    """The generator; the decoder mirrors an encoder and costs as much."""
    return 3 * _encoder(work, work.number("nz"))


def _autoencoder(work: Work) -> Layers:
    """The encoder and the decoder that mirrors it."""
    return 2 * _encoder(work, work.number("nz"))


def _encoder(work: Work, outputs: int) -> Layers:
    """The DCGAN encoder."""
    layers, into, out, side = [], work.channels, work.number("width"), work.size // 2
    while side >= 4:
        layers.append((16 * into * out, side * side))
        into, out, side = out, 2 * out, side // 2
    return [*layers, (16 * into * outputs, 1)]


def _pairs(work: Work) -> Layers:
    """EGBAD's discriminator: the encoder without its last layer; codes to 512, both to 1024 features, to a logit."""
    trunk = _encoder(work, 1)
    map_4x4 = trunk.pop()[0]
    return [*trunk, (512 * work.number("nz"), 1), (1024 * (map_4x4 + 512), 1), (1024, 1)]


def _unet(work: Work) -> Layers:
    """The U-Net down to 1x1, and up again with twice the input."""
    width = work.number("width")
    layers, into, out, side = [], work.channels, width, work.size // 2
    while side >= 1:
        layers.append((16 * into * out * (2 if side == 1 else 3), side * side))
        into, out, side = out, min(2 * out, 8 * width), side // 2
    return layers
