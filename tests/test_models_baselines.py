"""Baselines against their definitions, computed plainly with numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from models import knn, pca
from models.detector import Detector, build

Floats = npt.NDArray[np.float64]


def images(count: int, seed: int, channels: int = 1) -> Tensor:
    drawn = np.random.RandomState(seed).randint(0, 256, (count, channels, 16, 16))
    return torch.from_numpy(drawn.astype(np.uint8))


def make(name: str, channels: int = 1, **hyperparameters: Any) -> Detector:
    return build(name, channels=channels, size=16, hyperparameters=hyperparameters, variant="plain")


def scores(made: Detector, data: Tensor) -> Floats:
    return made.score(made.normalise(data))["score"].numpy().astype(np.float64)


def flat(data: Tensor) -> Floats:
    return data.flatten(1).numpy().astype(np.float64) / 127.5 - 1


def test_constant_scores_all_alike() -> None:
    made = make("constant")
    made.fit(images(4, 0))
    assert scores(made, images(6, 1)).tolist() == [0] * 6


def test_pixel_mean_is_the_squared_distance_to_the_mean() -> None:
    made = make("pixel_mean")
    made.fit(images(20, 0))
    expected = ((flat(images(6, 1)) - flat(images(20, 0)).mean(0)) ** 2).mean(1)
    np.testing.assert_allclose(scores(made, images(6, 1)), expected, rtol=1e-5)


def plane_residual(train: Floats, test: Floats, components: int) -> Floats:
    mean = train.mean(0)
    _, _, basis = np.linalg.svd(train - mean, full_matrices=False)
    basis = basis[:components]
    centred = test - mean
    residual: Floats = ((centred - centred @ basis.T @ basis) ** 2).mean(1)
    return residual


@pytest.mark.parametrize("largest", [3072, 100], ids=["covariance", "products"])
@pytest.mark.parametrize("components", [1, 5, 12])
def test_pca_is_the_squared_distance_to_the_plane_of_the_leading_components(
    components: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pca, "LARGEST", largest)
    monkeypatch.setattr(pca, "CHUNK", 16)
    made = make("pca", components=components)
    made.fit(images(40, 0))
    expected = plane_residual(flat(images(40, 0)), flat(images(6, 1)), components)
    np.testing.assert_allclose(scores(made, images(6, 1)), expected, rtol=1e-5)


def test_pca_of_many_large_images_takes_evenly_spaced_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pca, "LARGEST", 10)
    many, few = make("pca", components=4), make("pca", components=4)
    many.fit(images(25, 0))
    few.fit(images(25, 0)[::3])
    assert np.array_equal(scores(many, images(6, 1)), scores(few, images(6, 1)))


@pytest.mark.parametrize("largest", [3072, 100], ids=["covariance", "products"])
def test_pca_with_fewer_images_than_components_spans_them_all(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pca, "LARGEST", largest)
    made = make("pca", components=64)
    made.fit(images(5, 0))
    assert scores(made, images(5, 0)).max() < 1e-10
    expected = plane_residual(flat(images(5, 0)), flat(images(6, 1)), components=4)
    np.testing.assert_allclose(scores(made, images(6, 1)), expected, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("neighbours", [1, 4])
def test_knn_is_the_mean_distance_to_the_nearest(
    channels: int, neighbours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knn, "CHUNK", 7)
    monkeypatch.setattr(knn, "EXACT", 100)
    made = make("knn", channels, neighbours=neighbours)
    train, test = images(30, 0, channels), images(6, 1, channels)
    made.fit(train)
    distances = np.sqrt(((flat(test)[:, None] - flat(train)) ** 2).sum(2))
    expected = np.sort(distances, 1)[:, :neighbours].mean(1)
    np.testing.assert_allclose(scores(made, test), expected, rtol=1e-6)


def test_knn_of_a_training_image_is_exactly_zero_and_extremes_are_exact() -> None:
    made = make("knn", neighbours=1)
    black, white = (
        torch.zeros(1, 1, 16, 16, dtype=torch.uint8),
        torch.full((1, 1, 16, 16), 255, dtype=torch.uint8),
    )
    made.fit(torch.cat([images(9, 0), black]))
    assert scores(made, images(9, 0)).tolist() == [0] * 9
    made.fit(black)
    assert scores(made, white).tolist() == [32.0]  # 16 pixels a side, each 2 apart


def test_knn_averages_all_where_there_are_fewer_than_asked() -> None:
    few, three = make("knn", neighbours=100), make("knn", neighbours=3)
    few.fit(images(3, 0))
    three.fit(images(3, 0))
    assert np.array_equal(scores(few, images(6, 1)), scores(three, images(6, 1)))


def test_fitted_twice_keeps_the_second() -> None:
    for name in ("pixel_mean", "pca", "knn"):
        twice, once = make(name), make(name)
        twice.fit(images(9, 0))
        twice.fit(images(5, 1))
        once.fit(images(5, 1))
        assert np.array_equal(scores(twice, images(6, 2)), scores(once, images(6, 2)))
