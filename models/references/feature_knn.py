"""Feature kNN: mean cosine distance to the nearest training images, on features of a network trained on ImageNet.

After DN2 (Bergman, Cohen, Hoshen: Deep Nearest Neighbor Anomaly Detection, 2020, arXiv:2002.10445), which takes the
squared Euclidean distance to 2 neighbours on features of a ResNet of 101 layers at 224 pixels.  Here the distance is
1 - cosine to 5 neighbours, and the default network is EfficientNet-Lite0 at 112 pixels, which needs 8 ms for an image
on one core.  No network is trained on the dataset, but the features saw 1.28 million labelled photographs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from models.defaults import FeatureKNNHyperparameters
from models.references.features import FeatureReference

CHUNK = 4096  # training images that are compared at once


class FeatureKNN(FeatureReference):
    """Reference whose score is the mean of 1 - cosine over the `neighbours` nearest training images.

    If there are fewer training images than neighbours, the mean is over all of them.
    """

    Hyperparameters = FeatureKNNHyperparameters
    directions: Tensor

    def __init__(
        self, channels: int, size: int, hyperparameters: Any, variant: str = "plain", dataset: str = ""
    ) -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        self.register_buffer("directions", torch.zeros(0, 0))

    def fit_features(self, features: Tensor) -> None:
        """Store the features' directions, float32 [N, F]."""
        self.directions = _directions(features)

    def score_features(self, features: Tensor) -> Tensor:
        """Compute the mean of 1 - cosine to the nearest directions, [B] in [0, 2]."""
        count = min(self.hyperparameters.neighbours, len(self.directions))
        x = _directions(features)
        nearest = torch.cat(
            [(x @ part.T).topk(min(count, len(part))).values for part in torch.split(self.directions, CHUNK)], 1
        )
        return 1 - nearest.topk(count).values.double().mean(1)


def _directions(features: Tensor) -> Tensor:
    """Return features of length 1, float32; a vector of zeros stays one."""
    return functional.normalize(features, dim=1).float()
