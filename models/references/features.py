"""Feature vectors of images: features of a network that was trained on ImageNet, or codes of PCA.

Features of a pretrained network depend on the image alone.  So they can be computed once for a whole dataset and read
from a cache afterwards: `FeatureReference.extract` is what computes them, and may be replaced by a function that looks
them up.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import pretrained
from models.components import efficientnet_lite
from models.components.efficientnet_lite import EfficientNetLite0
from models.defaults import FeatureHyperparameters, PCAHyperparameters
from models.detector import Detector
from models.hyperparameters import ANY_SIZE
from models.references.pca import PCA

REVISION = 1  # must be raised whenever the features of an image change
BATCH = 64  # images that pass the network at once
CHUNK = 4096  # images whose codes are computed at once
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PretrainedFeatures:
    """Function from images to the features of a network that was trained on ImageNet.

    Images are enlarged to `resolution` by bilinear interpolation; grey ones get three equal channels.  The features are
    those that the network's classifier sees, averaged over the last map.  They are rounded to float16.

    Args:
        weights: value of the hyperparameter `weights`, see `models.pretrained`.
        resolution: side of the enlarged images in pixels.

    Raises:
        MissingWeights: the weights are not on this machine; the message has the fix.
    """

    def __init__(self, weights: str, resolution: int) -> None:
        self.weights, self.resolution = pretrained.find(weights), resolution
        self._network: nn.Module | None = None  # loaded when it is first needed: cached features need no network
        self._scale = (efficientnet_lite.MEAN, efficientnet_lite.STD)
        if self.weights.network != pretrained.BUILT_IN:
            self._scale = (IMAGENET_MEAN, IMAGENET_STD)

    @property
    def identity(self) -> str:
        """Hash of everything that decides the features of an image, but for hardware, threads and version of torch."""
        parts = (REVISION, self.weights.network, self.weights.digest, self.resolution, BATCH)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of images uint8 [B, C, S, S]: float16 [B, F] on the same device."""
        if self._network is None:
            with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and then replaced
                network = _load(self.weights)
            self._network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._network.to(images.device)
        with torch.no_grad():
            return torch.cat([self._features(batch) for batch in torch.split(images, BATCH)]).half()

    def _features(self, batch: Tensor) -> Tensor:
        assert self._network is not None
        mean, std = (batch.new_tensor(values, dtype=torch.float32).view(1, 3, 1, 1) for values in self._scale)
        x = (batch.expand(-1, 3, -1, -1).float() / 255 - mean) / std
        x = functional.interpolate(x, size=self.resolution, mode="bilinear", align_corners=False)
        features: Tensor = self._network(x.contiguous(memory_format=torch.channels_last))
        return features.flatten(1)


def _load(weights: pretrained.Weights) -> nn.Module:
    """Return the network without its classifier."""
    try:
        state = torch.load(weights.path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as problem:
        first = str(problem).strip().split("\n")[0]
        raise pretrained.MissingWeights(f"{weights.path} is not a state dict: {first}") from None
    if weights.network == pretrained.BUILT_IN:
        trunk = EfficientNetLite0()
        trunk.load_state_dict({name: value for name, value in state.items() if not name.startswith("_fc.")})
        return trunk
    from torchvision.models import get_model  # it takes a second, and the built-in network does not need it

    network: nn.Module = get_model(weights.network, weights=None)
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError) as problem:
        first = str(problem).strip().split("\n")[0]
        raise pretrained.MissingWeights(
            f"{weights.path} is not a state dict of torchvision's {weights.network}: {first}"
        ) from None
    *_, classifier = (name for name, _ in network.named_children())
    setattr(network, classifier, nn.Identity())
    return network


class FeatureReference(Detector):
    """Base of references that look at feature vectors; write `fit_features` and `score_features`.

    The features are codes of PCA, float64 [B, at most `components`], if the hyperparameter `weights` is empty, and
    otherwise those of the pretrained network that it names.

    Attributes:
        extract: function from images uint8 [B, C, S, S] to features [B, F]; None for codes of PCA.
    """

    Hyperparameters: ClassVar[type[Any]] = FeatureHyperparameters
    sizes = ANY_SIZE
    extract: Callable[[Tensor], Tensor] | None

    def __init__(self, channels: int, size: int, hyperparameters: Any, variant: str = "pca", dataset: str = "") -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        weights: str = hyperparameters.weights
        if variant != "pca" and not weights:
            raise ValueError(f"weights='' is not legal in the variant {variant}: name {pretrained.BUILT_IN}, or a path")
        self.extract = PretrainedFeatures(weights, hyperparameters.resolution) if weights else None
        if not weights:
            self.pca = PCA(channels, size, PCAHyperparameters(hyperparameters.components))

    def fit(self, images: Tensor) -> None:
        """Compute the features of images [N, C, S, S], and learn from them."""
        self.check_images(images)
        if self.extract is None:
            self.pca.fit(images)
        self.fit_features(torch.cat([self._features(part) for part in torch.split(images, CHUNK)]))

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute the score of each image from its features; NaN for an image with NaN, [B]."""
        unknown = batch.flatten(1).isnan().any(1)
        images = batch.nan_to_num().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
        scores = self.score_features(self._features(images)).to(torch.float32)
        return {"score": scores.masked_fill(unknown, torch.nan)}

    def fit_features(self, features: Tensor) -> None:
        """Learn from the features of all training images, float64 [N, F], N >= 1, F >= 1."""
        raise NotImplementedError

    def score_features(self, features: Tensor) -> Tensor:
        """Return the scores [B] of features float64 [B, F]; higher is more abnormal."""
        raise NotImplementedError

    def _features(self, images: Tensor) -> Tensor:
        if self.extract is not None:
            return self.extract(images).double()
        codes = self.pca.codes(self.normalise(images))
        return codes if codes.shape[1] else functional.pad(codes, (0, 1))  # one training image has no component
