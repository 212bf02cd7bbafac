"""Training hyperparameters of each detector: defaults, legal ranges and search ranges.

The defaults are those of the published code.  This module imports the standard library alone, so that planning a sweep
does not load torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from models.hyperparameters import hyperparameter
from models.pretrained import BUILT_IN

WEIGHT: dict[str, Any] = {"low": 0, "high": 1e6, "search": {"low": 0.1, "high": 100.0, "log": True}}
CODE: dict[str, Any] = {"low": 1, "high": 4096, "search": {"low": 8, "high": 512, "log": True}}


@dataclass(frozen=True)
class NetworkHyperparameters:
    """Hyperparameters of all networks that are trained by epochs; the defaults are those of GANomaly's code."""

    epochs: int = hyperparameter(
        15, "passes over the training images", low=0, high=10_000, search={"low": 5, "high": 30, "log": False}
    )
    batch_size: int = hyperparameter(
        64,
        "images per step; an epoch's last, smaller batch is dropped",
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
class VAEHyperparameters(NetworkHyperparameters):
    """Training hyperparameters of the variational autoencoder."""

    lr: float = hyperparameter(
        1e-3, "learning rate of Adam", low=0, high=1, search={"low": 1e-5, "high": 1e-2, "log": True}
    )
    beta1: float = hyperparameter(
        0.9, "first decay rate of Adam", low=0, high=0.999, search={"low": 0.0, "high": 0.9, "log": False}
    )
    nz: int = hyperparameter(32, "length of the latent code", **CODE)
    variance: float = hyperparameter(
        0.1,
        "variance of a pixel around its reconstruction, for pixels in [-1, 1]",
        low=1e-6,
        high=1e6,
        search={"low": 1e-3, "high": 10.0, "log": True},
    )


@dataclass(frozen=True)
class DeepSVDDHyperparameters(NetworkHyperparameters):
    """Training hyperparameters of Deep SVDD; the defaults are those of its code for CIFAR-10."""

    epochs: int = hyperparameter(
        150, "passes over the training images", low=0, high=10_000, search={"low": 25, "high": 200, "log": False}
    )
    batch_size: int = hyperparameter(
        200,
        "images per step; an epoch's last, smaller batch is dropped",
        low=1,
        high=4096,
        search={"choices": [50, 100, 200]},
    )
    lr: float = hyperparameter(
        1e-4,
        "learning rate of Adam in the first third of the epochs; then a tenth of it",
        low=0,
        high=1,
        search={"low": 1e-5, "high": 1e-2, "log": True},
    )
    beta1: float = hyperparameter(
        0.9, "first decay rate of Adam", low=0, high=0.999, search={"low": 0.0, "high": 0.9, "log": False}
    )
    nz: int = hyperparameter(128, "length of the output phi(x)", **CODE)
    width: int = hyperparameter(32, "channels of the outermost layer", low=2, high=512, search={"choices": [8, 16, 32]})
    decay: float = hyperparameter(
        0.5e-6, "weight of the squares of all weights", low=0, high=1, search={"low": 1e-7, "high": 1e-4, "log": True}
    )


@dataclass(frozen=True)
class AdversarialHyperparameters(NetworkHyperparameters):
    """Hyperparameters that GANomaly and Skip-GANomaly share; the defaults are those of the published code."""

    w_adv: float = hyperparameter(1.0, "weight of the adversarial loss", **WEIGHT)
    w_con: float = hyperparameter(50.0, "weight of the reconstruction loss", **WEIGHT)
    early_stopping: bool = hyperparameter(
        False, "stop when the validation AUROC falls, or the loss rises (stop_on); no effect without validation"
    )


@dataclass(frozen=True)
class GANomalyHyperparameters(AdversarialHyperparameters):
    """Training hyperparameters of GANomaly."""

    w_enc: float = hyperparameter(1.0, "weight of the encoder loss", **WEIGHT)


@dataclass(frozen=True)
class SkipGANomalyHyperparameters(AdversarialHyperparameters):
    """Training hyperparameters of Skip-GANomaly.

    The default of 15 epochs is that of the published code's option and of the paper; its CIFAR-10 script has 25.
    """

    nz: int = hyperparameter(100, "length of the discriminator's features f(x)", **CODE)
    w_lat: float = hyperparameter(1.0, "weight of the latent loss", **WEIGHT)


@dataclass(frozen=True)
class AnoGANHyperparameters(NetworkHyperparameters):
    """Hyperparameters of AnoGAN: those of its DCGAN, then those of the search for each image's latent code."""

    steps: int = hyperparameter(
        500,
        "steps of Adam in the search for an image's latent code",
        low=0,
        high=100_000,
        search={"low": 100, "high": 1000, "log": True},
    )
    restarts: int = hyperparameter(
        1, "searches from different starts; the best one counts", low=1, high=1000, search={"choices": [1, 2, 4]}
    )
    max_test: int = hyperparameter(
        2000, "number of test images to score, drawn by the split seed; 0 for all", low=0, high=10**9
    )


@dataclass(frozen=True)
class EGBADHyperparameters(NetworkHyperparameters):
    """Training hyperparameters of EGBAD; the defaults are those of its code for MNIST, the epochs those of its paper.

    At its learning rate, the networks learn almost nothing in 15 epochs, which are enough for the other adversarial
    detectors.
    """

    epochs: int = hyperparameter(
        100, "passes over the training images", low=0, high=10_000, search={"low": 25, "high": 200, "log": False}
    )
    batch_size: int = hyperparameter(
        100,
        "images per step; an epoch's last, smaller batch is dropped",
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

    The default is 16 because the images of `digits` are enlarged from 8x8 pixels: 64 components would reconstruct them
    except for rounding.
    """

    components: int = hyperparameter(
        16, "number of principal components", low=1, high=4096, search={"low": 4, "high": 256, "log": True}
    )


@dataclass(frozen=True)
class KNNHyperparameters:
    """Hyperparameters of the nearest-neighbour baseline."""

    neighbours: int = hyperparameter(
        5,
        "number of nearest training images whose distances are averaged",
        low=1,
        high=1000,
        search={"low": 1, "high": 50, "log": True},
    )


@dataclass(frozen=True)
class FeatureHyperparameters:
    """Hyperparameters of references that look at feature vectors: codes of PCA, or features of a pretrained network."""

    components: int = hyperparameter(64, "length of the codes in the variant pca", low=1, high=4096)
    weights: str = hyperparameter(
        "",
        f"variant pretrained: {BUILT_IN} (extra `pretrained`), or PATH/NETWORK-HASH.pth of a torchvision network",
    )
    resolution: int = hyperparameter(
        112, "variant pretrained: side in pixels to which images are enlarged", low=32, high=512
    )


@dataclass(frozen=True)
class FeatureKNNHyperparameters:
    """Hyperparameters of nearest neighbours on features of a pretrained network."""

    neighbours: int = hyperparameter(
        5,
        "number of nearest training images whose distances are averaged",
        low=1,
        high=1000,
        search={"low": 1, "high": 50, "log": True},
    )
    weights: str = hyperparameter(
        BUILT_IN, f"{BUILT_IN} (extra `pretrained`), or PATH/NETWORK-HASH.pth of a torchvision network"
    )
    resolution: int = hyperparameter(112, "side in pixels to which images are enlarged", low=32, high=512)


@dataclass(frozen=True)
class OCSVMHyperparameters(FeatureHyperparameters):
    """Hyperparameters of the one-class support vector machine."""

    nu: float = hyperparameter(
        0.1,
        "largest share of training images outside, and smallest share of support vectors",
        low=1e-4,
        high=1,
        search={"low": 0.01, "high": 0.5, "log": True},
    )
    max_train: int = hyperparameter(
        5000, "number of training images to fit, evenly spaced; the time grows with its square", low=1, high=10**6
    )


@dataclass(frozen=True)
class IsolationForestHyperparameters(FeatureHyperparameters):
    """Hyperparameters of the isolation forest; the defaults are those of its paper."""

    trees: int = hyperparameter(
        100, "number of trees", low=1, high=10_000, search={"low": 50, "high": 500, "log": True}
    )
    max_samples: int = hyperparameter(
        256,
        "training images in the sample of each tree",
        low=2,
        high=10**6,
        search={"low": 64, "high": 4096, "log": True},
    )
