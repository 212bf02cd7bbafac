"""Estimates of the seconds that training and scoring take on one CPU core, for trials that were not measured yet.

An estimate is the arithmetic of all layers divided by a measured rate, plus other costs of each step and each image.
It is accurate to about a factor of two, which is enough to order trials and to choose the size of a cluster.  This
module imports the standard library alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from models.hyperparameters import PUBLISHED_SIDE, Scalar

Layers = list[tuple[int, int]]  # for each layer: number of weights, and positions of the map where each is applied

# Measured at 32x32x1, batches of 16 and 64, widths 8 to 64, on one core of a busy AVX-512 Xeon.
STEP_SECONDS = 0.020  # cost of a training step without its images: hundreds of small operations, two steps of Adam
WEIGHT_SECONDS = 12e-9  # cost of one weight in a step: Adam, and its gradient if the map is small
TRAIN_IMAGE_SECONDS = 8e-4  # cost of an image in a step without arithmetic: activations, normalisation
SCORE_IMAGE_SECONDS = 2e-4  # cost of one pass of an image through the networks, without arithmetic
SEARCH_IMAGE_SECONDS = 4e-4  # cost of an image in one step of AnoGAN's search, without arithmetic
RATE = {"float32": 60e9, "tf32": 60e9, "bf16": 180e9}  # floating-point operations per second of convolutions
PASSES = 3  # forward, gradient to the data, gradient to the weights
PIXEL_IMAGE_SECONDS = 7e-6  # cost of reading an image in a baseline
FLOAT64_RATE = 40e9  # floating-point operations per second of products in float64
PRODUCT_RATE = 55e9  # the same of products in float32, including the search for the nearest images
FEATURE_SECONDS = 8e-3  # cost of one image's pretrained features at 112 pixels, on one core
FEATURE_SHARE = 0.1  # features are computed once per node and dataset: an estimate charges each trial a tenth
FEATURES = 1280  # assumed length of pretrained features
SVM_PAIR_SECONDS = 4e-7  # cost of one pair of training images in the fit of a support vector machine
FOREST_SECONDS = 3e-7  # cost of one image in one tree of an isolation forest
KNN_TRAIN_IMAGES = 10_000  # assumed number of training images: a scoring estimate does not get the real number


@dataclass(frozen=True)
class Work:
    """One job to estimate: `images` images [channels, size, size], with these hyperparameters and precision."""

    hyperparameters: Mapping[str, Scalar]
    images: int
    size: int
    channels: int
    precision: str

    @property
    def pixels(self) -> int:
        """Number of values in one image."""
        return self.channels * self.size * self.size

    def number(self, name: str) -> int:
        """Return an integer hyperparameter."""
        return int(self.hyperparameters[name])


@dataclass(frozen=True)
class Cost:
    """Estimates for one detector, in seconds on one CPU core.

    Attributes:
        training: estimate of one epoch of training; of `fit` for detectors without epochs.
        scoring: estimate of scoring all images.
    """

    training: Callable[[Work], float]
    scoring: Callable[[Work], float]

    def epoch(
        self, hyperparameters: Mapping[str, Scalar], images: int, size: int, channels: int, precision: str
    ) -> float:
        """Estimate the seconds of one epoch over `images` training images, or of `fit` for detectors without epochs.

        Args:
            hyperparameters: all hyperparameters, as `models.catalog.resolve` returns them.
            images, size, channels: number and shape of the images.
            precision: precision of training, as in `models.components.numerics`.  The estimate for "bf16" is for a
                core with bf16 matrix units; "tf32", which no CPU has, is estimated as float32.
        """
        return self.training(Work(hyperparameters, images, size, channels, precision))

    def score(
        self, hyperparameters: Mapping[str, Scalar], images: int, size: int, channels: int, precision: str
    ) -> float:
        """Estimate the seconds of scoring `images` images; the arguments are those of `epoch`."""
        return self.scoring(Work(hyperparameters, images, size, channels, precision))


def pass_over_pixels(work: Work) -> float:
    """Estimate the time to read every image once, which every detector needs."""
    return work.images * PIXEL_IMAGE_SECONDS


def ganomaly_training(work: Work) -> float:
    """Estimate the training of two encoders and a decoder, and of the discriminator on real and fake images."""
    return _steps(work, _ganomaly(work) + _times(2, _encoder(work, 1)))


def ganomaly_scoring(work: Work) -> float:
    """Estimate one pass through two encoders and a decoder."""
    return _pass(work, _ganomaly(work))


def skip_ganomaly_training(work: Work) -> float:
    """Estimate the training of the U-Net, and of the discriminator on real and fake images."""
    return _steps(work, _unet(work) + _times(2, _encoder(work, work.number("nz"))))


def skip_ganomaly_scoring(work: Work) -> float:
    """Estimate one pass through the U-Net and two through the discriminator."""
    return _pass(work, _unet(work) + _times(2, _encoder(work, work.number("nz"))))


def anogan_training(work: Work) -> float:
    """Estimate the training of the generator, and of the discriminator on real and fake images.

    The discriminator has one more pass for the generator's loss.
    """
    return _steps(work, _encoder(work, work.number("nz")) + _times(3, _encoder(work, 1)))


def anogan_scoring(work: Work) -> float:
    """Estimate the search for the codes of at most `max_test` images.

    Each step of each restart has one pass forward through generator and discriminator, and one backward pass to the
    code alone.
    """
    limit = work.number("max_test")
    images = min(work.images, limit) if limit else work.images
    layers = _encoder(work, work.number("nz")) + _encoder(work, 1)
    step = SEARCH_IMAGE_SECONDS * _area(work) + 2 * _operations(layers) / RATE["float32"]
    search = work.number("restarts") * work.number("steps") * images * step
    return search + _pass(dataclasses.replace(work, images=images), layers)


def egbad_training(work: Work) -> float:
    """Estimate the training of encoder and generator, and of the discriminator on real and fake pairs.

    The discriminator has two more passes, for the losses of encoder and generator.
    """
    if work.size == PUBLISHED_SIDE:
        return _steps(work, _published_generation(work) + _times(4, _published_pairs(work)))
    return _steps(work, 2 * _encoder(work, work.number("nz")) + _times(4, _pairs(work)))


def egbad_scoring(work: Work) -> float:
    """Estimate one pass through encoder and generator and two through the discriminator."""
    if work.size == PUBLISHED_SIDE:
        return _pass(work, _published_generation(work) + _times(2, _published_pairs(work)))
    return _pass(work, 2 * _encoder(work, work.number("nz")) + _times(2, _pairs(work)))


def autoencoder_training(work: Work) -> float:
    """Estimate the training of an encoder and a decoder."""
    return _steps(work, _autoencoder(work))


def autoencoder_scoring(work: Work) -> float:
    """Estimate one pass through the encoder and the decoder."""
    return _pass(work, _autoencoder(work))


def pca_fitting(work: Work) -> float:
    """Estimate the products of all pixels with each other (of all images above 3072 pixels), and the eigenvectors."""
    side = min(work.pixels, 3072)
    operations = 2.0 * work.images * work.pixels * side + 10.0 * side**3
    return pass_over_pixels(work) + operations / FLOAT64_RATE


def pca_scoring(work: Work) -> float:
    """Estimate two products with the basis."""
    operations = 4.0 * work.images * work.pixels * work.number("components")
    return pass_over_pixels(work) + operations / FLOAT64_RATE


def knn_scoring(work: Work) -> float:
    """Estimate the products of every image with every training image."""
    return pass_over_pixels(work) + 2.0 * work.images * KNN_TRAIN_IMAGES * work.pixels / PRODUCT_RATE


def vae_training(work: Work) -> float:
    """Estimate the training of an encoder and a decoder."""
    return _steps(work, _autoencoder(work))


def deep_svdd_training(work: Work) -> float:
    """Estimate the training of one network of 5x5 convolutions."""
    return _steps(work, _svdd(work))


def deep_svdd_scoring(work: Work) -> float:
    """Estimate one pass through the network."""
    return _pass(work, _svdd(work))


def feature_fitting(work: Work) -> float:
    """Estimate the features or codes of all training images, and a covariance of them."""
    side = work.number("components") if not work.hyperparameters.get("weights") else FEATURES
    return _features(work) + (2.0 * work.images * side**2 + 2.0 * side**3) / FLOAT64_RATE


def feature_knn_fitting(work: Work) -> float:
    """Estimate the features of all training images."""
    return _features(work)


def feature_knn_scoring(work: Work) -> float:
    """Estimate the features of every image, and the products with those of every training image."""
    return _features(work) + 2.0 * work.images * KNN_TRAIN_IMAGES * FEATURES / PRODUCT_RATE


def ocsvm_fitting(work: Work) -> float:
    """Estimate features, and a fit whose time grows with the square of the number of images."""
    return _features(work) + min(work.images, work.number("max_train")) ** 2 * SVM_PAIR_SECONDS


def ocsvm_scoring(work: Work) -> float:
    """Estimate features, and the products with the support vectors: a share nu of the training images."""
    vectors = float(work.hyperparameters["nu"]) * work.number("max_train")
    return _features(work) + 2.0 * work.images * vectors * FEATURES / FLOAT64_RATE


def isolation_forest_fitting(work: Work) -> float:
    """Estimate features; the trees see few images."""
    return _features(work) + work.number("trees") * work.number("max_samples") * FOREST_SECONDS


def isolation_forest_scoring(work: Work) -> float:
    """Estimate features, and the path through each tree."""
    return _features(work) + work.images * work.number("trees") * FOREST_SECONDS


def unknown_training(work: Work) -> float:
    """Estimate the training of a user's own network, with an assumed 10,000 multiply-adds per pixel."""
    return _steps(work, [(10_000, work.pixels)])


def unknown_scoring(work: Work) -> float:
    """Estimate scoring with a user's own network, with an assumed 10,000 multiply-adds per pixel."""
    return _pass(work, [(10_000, work.pixels)])


def _steps(work: Work, layers: Layers) -> float:
    """Return the seconds of an epoch's steps: full batches, at least one."""
    batch = int(work.hyperparameters.get("batch_size", 64))
    image = TRAIN_IMAGE_SECONDS * _area(work) + PASSES * _operations(layers) / RATE[work.precision]
    parameters = sum(weights for weights, _ in layers)
    return max(1, work.images // batch) * (STEP_SECONDS + WEIGHT_SECONDS * parameters + batch * image)


def _pass(work: Work, layers: Layers) -> float:
    return work.images * (SCORE_IMAGE_SECONDS * _area(work) + _operations(layers) / RATE["float32"])


def _operations(layers: Layers) -> float:
    """Return the floating-point operations of one image's pass through the layers."""
    return 2.0 * sum(weights * positions for weights, positions in layers)


def _area(work: Work) -> float:
    """Return the area of an image relative to 32x32, the size at which the seconds per image were measured."""
    return (work.size / 32) ** 2


def _times(passes: int, layers: Layers) -> Layers:
    """Return layers that several images pass, such as the real image and its reconstruction."""
    return [(weights, passes * positions) for weights, positions in layers]


def _ganomaly(work: Work) -> Layers:
    """Return the layers of GANomaly's generator; its decoder mirrors an encoder and costs as much."""
    return 3 * _encoder(work, work.number("nz"))


def _autoencoder(work: Work) -> Layers:
    """Return the layers of an encoder and of the decoder that mirrors it."""
    return 2 * _encoder(work, work.number("nz"))


def _encoder(work: Work, outputs: int) -> Layers:
    """Return the layers of the DCGAN encoder."""
    layers, into, out, side = [], work.channels, work.number("width"), work.size // 2
    while side >= 4:
        layers.append((16 * into * out, side * side))
        into, out, side = out, 2 * out, side // 2
    return [*layers, (16 * into * outputs, 1)]


def _svdd(work: Work) -> Layers:
    """Return the layers of Deep SVDD's network, with a module for each halving of the map down to 4x4."""
    layers, into, out, side = [], work.channels, work.number("width"), work.size
    while side > 4:
        layers.append((25 * into * out, side * side))
        into, out, side = out, 2 * out, side // 2
    return [*layers, (16 * into * work.number("nz"), 1)]


def _features(work: Work) -> float:
    """Return the seconds of feature vectors: codes of PCA, or each trial's share of pretrained features."""
    if not work.hyperparameters.get("weights"):
        return pass_over_pixels(work) + 4.0 * work.images * work.pixels * work.number("components") / FLOAT64_RATE
    enlarged = (work.number("resolution") / 112) ** 2
    return pass_over_pixels(work) + FEATURE_SHARE * FEATURE_SECONDS * enlarged * work.images


def _pairs(work: Work) -> Layers:
    """Return the layers of EGBAD's discriminator.

    They are the encoder without its last layer, codes to 512, both to 1024 features, and features to a logit.
    """
    trunk = _encoder(work, 1)
    map_4x4 = trunk.pop()[0]
    return [*trunk, (512 * work.number("nz"), 1), (1024 * (map_4x4 + 512), 1), (1024, 1)]


def _published_generation(work: Work) -> Layers:
    """Return the layers of the encoder and the generator that EGBAD's authors published for 28x28 images."""
    nz, channels = work.number("nz"), work.channels
    encoder = [(9 * channels * 32, 784), (9 * 32 * 64, 196), (9 * 64 * 128, 49), (6272 * nz, 1)]
    return [*encoder, (nz * 1024, 1), (1024 * 6272, 1), (16 * 128 * 64, 49), (16 * 64 * channels, 196)]


def _published_pairs(work: Work) -> Layers:
    """Return the layers of the discriminator that EGBAD's authors published for 28x28 images."""
    trunk = [(16 * work.channels * 64, 196), (16 * 64 * 64, 49)]
    return [*trunk, (512 * work.number("nz"), 1), (1024 * (3136 + 512), 1), (1024, 1)]


def _unet(work: Work) -> Layers:
    """Return the layers of the U-Net down to 1x1, and up again with twice the input channels."""
    width = work.number("width")
    layers, into, out, side = [], work.channels, width, work.size // 2
    while side >= 1:
        layers.append((16 * into * out * (2 if side == 1 else 3), side * side))
        into, out, side = out, min(2 * out, 8 * width), side // 2
    return layers
