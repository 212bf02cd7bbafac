"""Mahalanobis distance of features to a Gaussian with a shrunk covariance.

After Rippel, Mertens, Merhof: Modeling the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly
Detection, ICPR 2020, arXiv:2005.14140: a Gaussian on features of an EfficientNet, whose covariance is shrunk as Ledoit
and Wolf do (A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices, 2004).  They take the features of
several layers; here they are those of the last one, or codes of PCA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.references.features import FeatureReference

FLOOR = 1e-6  # added to every variance, so that features that do not vary have a finite distance


class Mahalanobis(FeatureReference):
    """Reference whose score is (x - m)^T S^-1 (x - m); variants `pca` and `pretrained`."""

    average: Tensor
    whitening: Tensor

    def __init__(self, channels: int, size: int, hyperparameters: Any, variant: str = "pca", dataset: str = "") -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        self.register_buffer("average", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("whitening", torch.zeros(0, 0, dtype=torch.float64))

    def fit_features(self, features: Tensor) -> None:
        """Compute the mean [F], and a matrix W [F, F] with W^T W = S^-1, in float64."""
        self.average = features.mean(0)
        covariance = ledoit_wolf(features - self.average)
        covariance.diagonal().add_(FLOOR)
        eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        self.whitening = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), eye, upper=False)

    def score_features(self, features: Tensor) -> Tensor:
        """Compute the squared Mahalanobis distance, [B]."""
        return ((features - self.average) @ self.whitening.T).square().sum(1)


def ledoit_wolf(centred: Tensor) -> Tensor:
    """Return the shrunk covariance (1 - d) S + d m I of centred rows, float64 [F, F].

    S is the empirical covariance and m its mean variance.  The share d minimises the expected squared error
    (Ledoit and Wolf 2004, section 3.3).
    """
    count, width = centred.shape
    empirical = centred.T @ centred / count
    variance = empirical.diagonal().mean()
    fourth = centred.square().sum(1).square().sum() / count
    errors = (fourth - empirical.square().sum()) / count
    distance = empirical.square().sum() - width * variance**2
    share = torch.clamp(errors / distance, 0, 1) if distance > 0 else distance.new_ones(())
    shrunk = (1 - share) * empirical
    shrunk.diagonal().add_(share * variance)
    return shrunk
