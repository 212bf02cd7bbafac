"""One-class support vector machine on features: scikit-learn's, with a Gaussian kernel.

Schölkopf, Platt, Shawe-Taylor, Smola, Williamson: Estimating the Support of a High-Dimensional Distribution, Neural
Computation 13(7), 2001.  Deep SVDD's paper (Ruff et al. 2018) compares with it on codes of PCA, with nu 0.1 or 0.01 and
the kernel's width chosen on labelled test images.  Here the width is scikit-learn's default, which needs no labels:
gamma is 1 / (F times the variance of all features).

The time of the fit grows with the square of the number of images: it gets at most `max_train` of them, evenly spaced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.defaults import OCSVMHyperparameters
from models.references.features import FeatureReference


class OCSVM(FeatureReference):
    """Reference whose score is the distance to the separating plane, positive outside; variants `pca`, `pretrained`.

    Support vectors and their weights are tensors, so that a stored detector is read without unpickling.
    """

    Hyperparameters = OCSVMHyperparameters
    support: Tensor
    weights: Tensor
    gamma: Tensor
    offset: Tensor

    def __init__(self, channels: int, size: int, hyperparameters: Any, variant: str = "pca", dataset: str = "") -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        self.register_buffer("support", torch.zeros(0, 0, dtype=torch.float64))
        self.register_buffer("weights", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("gamma", torch.zeros((), dtype=torch.float64))
        self.register_buffer("offset", torch.zeros((), dtype=torch.float64))

    def fit_features(self, features: Tensor) -> None:
        """Fit scikit-learn's OneClassSVM."""
        from sklearn.svm import OneClassSVM  # it takes a second, and other detectors do not need it

        limit = self.hyperparameters.max_train
        chosen = features[:: -(-len(features) // limit)].cpu().numpy()
        variance = float(chosen.var())
        gamma = 1 / (chosen.shape[1] * variance) if variance > 0 else 1.0
        fitted = OneClassSVM(kernel="rbf", gamma=gamma, nu=self.hyperparameters.nu).fit(chosen)
        device = features.device
        self.support = torch.from_numpy(fitted.support_vectors_).to(device)
        self.weights = torch.from_numpy(fitted.dual_coef_[0].copy()).to(device)
        self.gamma, self.offset = (
            torch.tensor(float(value), dtype=torch.float64, device=device) for value in (gamma, fitted.intercept_[0])
        )

    def score_features(self, features: Tensor) -> Tensor:
        """Compute -(sum of a_i exp(-gamma |x - s_i|^2) + b) over the support vectors s_i, [B]."""
        squares = features.square().sum(1)[:, None] + self.support.square().sum(1) - 2 * features @ self.support.T
        return -((-self.gamma * squares.clamp(min=0)).exp() @ self.weights + self.offset)
