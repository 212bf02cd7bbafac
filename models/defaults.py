"""Training hyperparameters of each detector: defaults, which are the published codes', legal and search ranges.

Standard library only, so that planning a sweep loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.hyperparameters import hyperparameter

WEIGHT: dict[str, Any] = {"low": 0, "high": 1e6, "search": {"low": 0.1, "high": 100.0, "log": True}}
CODE: dict[str, Any] = {"low": 1, "high": 4096, "search": {"low": 8, "high": 512, "log": True}}


@dataclass(frozen=True)
class NetworkHyperparameters:
    """What every network here has that is trained by epochs; defaults are GANomaly's code's."""

    epochs: int = hyperparameter(
        15, "passes over the training images", low=0, high=10_000, search={"low": 5, "high": 30, "log": False}
    )
    batch_size: int = hyperparameter(
        64,
        "images a step; an epoch's last, smaller batch is dropped",
        low=1,
        high=4096,
        search={"choices": [32, 64, 128]},
    )
    lr: float = hyperparameter(
        2e-4, "learning rate of every Adam in training", low=0, high=1, search={"low": 1e-5, "high": 1e-2, "log": True}
    )
    beta1: float = hyperparameter(
        0.5,
        "first decay rate of every Adam in training",
        low=0,
        high=0.999,
        search={"low": 0.0, "high": 0.9, "log": False},
    )
    nz: int = hyperparameter(100, "length of the latent code", **CODE)
    width: int = hyperparameter(
        64, "channels of the outermost layer", low=2, high=512, search={"choices": [16, 32, 64]}
    )


@dataclass(frozen=True)
class AutoencoderHyperparameters(NetworkHyperparameters):
    """Training hyperparameters of the autoencoder."""


@dataclass(frozen=True)
class AdversarialHyperparameters(NetworkHyperparameters):
    """What GANomaly and Skip-GANomaly share; defaults are the published codes'."""

    w_adv: float = hyperparameter(1.0, "weight of the adversarial loss", **WEIGHT)
    w_con: float = hyperparameter(50.0, "weight of the reconstruction loss", **WEIGHT)
    early_stopping: bool = hyperparameter(
        False, "stop when the validation AUROC starts to decrease; without validation never"
    )


@dataclass(frozen=True)
class GANomalyHyperparameters(AdversarialHyperparameters):
    """Training hyperparameters of GANomaly."""

    w_enc: float = hyperparameter(1.0, "weight of the encoder loss", **WEIGHT)


@dataclass(frozen=True)
class SkipGANomalyHyperparameters(AdversarialHyperparameters):
    """Training hyperparameters of Skip-GANomaly.

    Its option and the paper say 15 epochs, its CIFAR-10 script 25: the two that agree win.
    """

    nz: int = hyperparameter(100, "length of the discriminator's features f(x)", **CODE)
    w_lat: float = hyperparameter(1.0, "weight of the latent loss", **WEIGHT)


@dataclass(frozen=True)
class AnoGANHyperparameters(NetworkHyperparameters):
    """Hyperparameters of AnoGAN: of its DCGAN, then of the search for each image's latent code."""

    steps: int = hyperparameter(
        500,
        "Adam steps of the search for the latent code of an image",
        low=0,
        high=100_000,
        search={"low": 100, "high": 1000, "log": True},
    )
    restarts: int = hyperparameter(
        1, "searches from different starts, of which the best counts", low=1, high=1000, search={"choices": [1, 2, 4]}
    )
    max_test: int = hyperparameter(
        2000, "test images that are scored, drawn by the split seed; 0 for all", low=0, high=10**9
    )


@dataclass(frozen=True)
class EGBADHyperparameters(NetworkHyperparameters):
    """Training hyperparameters of EGBAD, as its code for MNIST has them; the epochs are its paper's.

    At this learning rate 15 epochs, which do for the other adversarial detectors, teach next to nothing.
    """

    epochs: int = hyperparameter(
        100, "passes over the training images", low=0, high=10_000, search={"low": 25, "high": 200, "log": False}
    )
    batch_size: int = hyperparameter(
        100,
        "images a step; an epoch's last, smaller batch is dropped",
        low=1,
        high=4096,
        search={"choices": [50, 100, 200]},
    )
    lr: float = hyperparameter(
        1e-5,
        "learning rate of every Adam in training",
        low=0,
        high=1,
        search={"low": 1e-6, "high": 1e-3, "log": True},
    )
    nz: int = hyperparameter(200, "length of the latent code", **CODE)


@dataclass(frozen=True)
class PCAHyperparameters:
    """Hyperparameters of the principal-component baseline.

    16, because digits are 8x8 images enlarged: 64 components leave nothing but rounding.
    """

    components: int = hyperparameter(
        16, "principal components kept", low=1, high=4096, search={"low": 4, "high": 256, "log": True}
    )


@dataclass(frozen=True)
class KNNHyperparameters:
    """Hyperparameters of the nearest-neighbour baseline."""

    neighbours: int = hyperparameter(
        5,
        "nearest training images averaged over",
        low=1,
        high=1000,
        search={"low": 1, "high": 50, "log": True},
    )
