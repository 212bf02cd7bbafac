"""References on feature vectors, against scikit-learn and plain formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn import decomposition
from sklearn.covariance import ledoit_wolf as shrunk_covariance
from sklearn.ensemble import IsolationForest as Forest
from sklearn.svm import OneClassSVM
from torch import Tensor

from models.build import build
from models.references.features import FeatureReference
from models.references.isolation_forest import IsolationForest
from models.references.mahalanobis import FLOOR, ledoit_wolf
from models.references.ocsvm import OCSVM

pytestmark = pytest.mark.usefixtures("one_thread")
Floats = npt.NDArray[np.float64]


def images(count: int, seed: int, channels: int = 1) -> Tensor:
    """Return images uint8 [count, channels, 16, 16] around one of three patterns, so that features differ in scale."""
    random = np.random.RandomState(seed)
    patterns = np.random.RandomState(99).randint(40, 216, (3, channels, 16, 16))
    noise = random.normal(0, 12, (count, channels, 16, 16))
    return torch.from_numpy((patterns[random.randint(0, 3, count)] + noise).clip(0, 255).astype(np.uint8))


def fitted(name: str, count: int = 200, **hyperparameters: Any) -> FeatureReference:
    torch.manual_seed(5)
    made = build(name, channels=1, size=16, hyperparameters=hyperparameters, variant="pca")
    assert isinstance(made, FeatureReference)
    made.fit(images(count, 0))
    return made


def scores(made: FeatureReference, data: Tensor) -> Floats:
    return made.score(made.normalise(data))["score"].numpy().astype(np.float64)


def codes(train: Tensor, test: Tensor, components: int) -> tuple[Floats, Floats]:
    """Return scikit-learn's codes of training and test images, with the signs of ours."""
    flat = [part.flatten(1).numpy().astype(np.float64) / 127.5 - 1 for part in (train, test)]
    plain = decomposition.PCA(components, svd_solver="full").fit(flat[0])
    ours = fitted("mahalanobis", components=components).pca.basis.numpy()[::-1]
    signs = np.sign((plain.components_ * ours).sum(1))
    return plain.transform(flat[0]) * signs, plain.transform(flat[1]) * signs


@pytest.mark.parametrize("components", [1, 5, 30])
def test_mahalanobis_is_the_distance_under_scikit_learns_shrunk_covariance(components: int) -> None:
    train, test = codes(images(200, 0), images(20, 1), components)
    covariance, _ = shrunk_covariance(train)
    precision = np.linalg.inv(covariance + FLOOR * np.eye(components))
    expected = np.einsum("ij,jk,ik->i", test - train.mean(0), precision, test - train.mean(0))
    np.testing.assert_allclose(scores(fitted("mahalanobis", components=components), images(20, 1)), expected, rtol=1e-5)


@pytest.mark.parametrize(("count", "width"), [(3, 40), (40, 3), (500, 60), (2, 1)])
def test_the_shrunk_covariance_is_scikit_learns(count: int, width: int) -> None:
    x = np.random.RandomState(0).normal(size=(count, width)) @ np.diag(np.linspace(0.1, 3, width))
    x -= x.mean(0)
    expected, _ = shrunk_covariance(x, assume_centered=True)
    np.testing.assert_allclose(ledoit_wolf(torch.from_numpy(x)).numpy(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("nu", [0.02, 0.1, 0.5])
def test_ocsvm_is_scikit_learns_with_the_width_that_needs_no_labels(nu: float) -> None:
    train, test = codes(images(200, 0), images(20, 1), 8)
    plain = OneClassSVM(nu=nu, gamma="scale").fit(train)
    made = fitted("ocsvm", components=8, nu=nu)
    np.testing.assert_allclose(scores(made, images(20, 1)), -plain.decision_function(test), rtol=1e-3, atol=1e-4)


def test_ocsvm_of_many_images_takes_evenly_spaced_ones() -> None:
    made = fitted("ocsvm", count=100, components=4, max_train=30)
    assert isinstance(made, OCSVM) and len(made.support) <= 25, "every fourth image"
    assert np.array_equal(
        scores(made, images(9, 1)), scores(fitted("ocsvm", 100, components=4, max_train=25), images(9, 1))
    )


@pytest.mark.parametrize("max_samples", [2, 16, 256])
def test_isolation_forest_is_scikit_learns(max_samples: int) -> None:
    made = fitted("isolation_forest", components=6, trees=25, max_samples=max_samples)
    assert isinstance(made, IsolationForest)
    torch.manual_seed(5)
    seed = int(torch.randint(2**31 - 1, ()))
    features = [made._features(part).float().numpy() for part in (images(200, 0), images(20, 1))]
    plain = Forest(n_estimators=25, max_samples=min(max_samples, 200), random_state=seed).fit(features[0])
    expected = -plain.score_samples(features[1])
    np.testing.assert_allclose(scores(made, images(20, 1)), expected, rtol=1e-6)


def test_isolation_forests_of_two_seeds_differ_and_of_one_seed_agree() -> None:
    found = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        made = build("isolation_forest", channels=1, size=16, hyperparameters={"components": 4}, variant="pca")
        made.fit(images(300, 0))
        found.append(made.score(made.normalise(images(20, 1)))["score"])
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])


@pytest.mark.parametrize("name", ["mahalanobis", "ocsvm", "isolation_forest"])
def test_a_foreign_image_is_more_abnormal_than_any_normal_one(name: str) -> None:
    made = fitted(name, components=8)
    foreign = torch.from_numpy(np.random.RandomState(7).randint(0, 256, (20, 1, 16, 16)).astype(np.uint8))
    normal, abnormal = scores(made, images(50, 2)), scores(made, foreign)
    assert np.median(abnormal) > np.quantile(normal, 0.95)


def test_a_variant_on_pretrained_features_needs_weights() -> None:
    with pytest.raises(ValueError, match="weights='' is not legal in the variant pretrained: name efficientnet_lite0"):
        build("mahalanobis", channels=1, size=16, hyperparameters={"weights": ""}, variant="pretrained")
