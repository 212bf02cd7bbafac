"""Baselines against their definitions, which are computed plainly with numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from models.autoencoder import Autoencoder
from models.build import build
from models.defaults import AutoencoderHyperparameters, GANomalyHyperparameters
from models.detector import Detector
from models.ganomaly import GANomaly
from models.references import knn, pca

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


@pytest.mark.parametrize("channels", [1, 3])
def test_total_variation_is_the_mean_difference_of_neighbours(channels: int) -> None:
    made = make("total_variation", channels)
    made.fit(images(4, 0, channels))
    x = flat(images(6, 1, channels)).reshape(6, channels, 16, 16)
    rows, columns = np.abs(np.diff(x, axis=2)), np.abs(np.diff(x, axis=3))
    expected = (rows.sum((1, 2, 3)) + columns.sum((1, 2, 3))) / (rows[0].size + columns[0].size)
    np.testing.assert_allclose(scores(made, images(6, 1, channels)), expected, rtol=1e-5)


def test_total_variation_of_a_plain_image_is_zero_and_of_a_chessboard_two() -> None:
    made = make("total_variation")
    chessboard = torch.arange(16)[:, None].add(torch.arange(16)).remainder(2).mul(255).to(torch.uint8)
    stripes = torch.arange(16).remainder(2).mul(255).to(torch.uint8).expand(16, 16)
    plain = torch.full((16, 16), 77, dtype=torch.uint8)
    assert scores(made, torch.stack([plain, stripes, chessboard])[:, None]).tolist() == [0, 1, 2]


def autoencoder(**hyperparameters: Any) -> Autoencoder:
    torch.manual_seed(0)
    made = build(
        "autoencoder",
        channels=1,
        size=16,
        hyperparameters={"width": 4, "nz": 6, **hyperparameters},
        variant="plain",
    )
    assert isinstance(made, Autoencoder)
    return made


def test_autoencoder_is_ganomaly_without_adversary_and_codes_as_far_as_the_copy_goes() -> None:
    """GANomaly with L_con alone trains its first encoder and its decoder to the same bits."""
    made = autoencoder()
    twin = GANomaly(1, 16, GANomalyHyperparameters(width=4, nz=6, w_adv=0, w_enc=0, w_con=1))
    twin.generator.encoder1.load_state_dict(made.network[0].state_dict())
    twin.generator.decoder.load_state_dict(made.network[1].state_dict())
    for seed in range(3):
        x = made.normalise(images(8, seed))
        assert torch.equal(made.train_step(x)["con"], twin.train_step(x)["g_con"])
    for ours, other in zip(made.network, (twin.generator.encoder1, twin.generator.decoder), strict=True):
        for name, value in ours.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    x = made.normalise(images(6, 9))
    assert torch.equal(made.score(x)["score"], twin.score(x)["reconstruction"])


def test_autoencoder_learns_to_copy_what_it_is_shown_and_nothing_else() -> None:
    """An autoencoder trained on images with a bright left half fails on images with a bright right half."""
    made = autoencoder(lr=2e-3)
    halves = torch.zeros(32, 1, 16, 16, dtype=torch.uint8)
    halves[..., :8] = torch.linspace(120, 255, 32).to(torch.uint8)[:, None, None, None]
    x, mirrored = made.normalise(halves), made.normalise(halves.flip(3))
    losses = [float(made.train_step(x)["con"]) for _ in range(80)]
    assert losses[-1] < 0.3 * losses[0]
    normal, abnormal = made.score(x)["score"], made.score(mirrored)["score"]
    assert normal.max() < abnormal.min()
    with torch.no_grad():
        copy = made.network.eval()(x)
    torch.testing.assert_close(normal, (x - copy).abs().mean((1, 2, 3)))


@pytest.mark.parametrize(("size", "channels", "count"), [(32, 1, 2_133_632), (32, 3, 2_137_728), (64, 3, 7_153_280)])
def test_autoencoder_has_as_many_parameters_as_its_head_says(size: int, channels: int, count: int) -> None:
    with torch.device("meta"):
        made = Autoencoder(channels, size, AutoencoderHyperparameters())
    assert sum(parameter.numel() for parameter in made.parameters()) == count


def test_autoencoder_scales_mnist_into_the_range_of_its_decoder() -> None:
    made = Autoencoder(1, 16, AutoencoderHyperparameters(width=2), dataset="mnist")
    pixels = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 1, 16, 8)
    assert made.normalise(pixels)[0, 0, 0, :2].tolist() == [-1.0, 1.0]


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
@pytest.mark.parametrize("neighbours", [1, 4, 17])
@pytest.mark.parametrize("chunk", [7, 20, 100])
def test_knn_is_the_mean_distance_to_the_nearest(
    channels: int, neighbours: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knn, "CHUNK", chunk)
    monkeypatch.setattr(knn, "BLOCK", 3)
    monkeypatch.setattr(knn, "EXACT", 100)
    made = make("knn", channels, neighbours=neighbours)
    train, test = images(30, 0, channels), images(6, 1, channels)
    made.fit(train)
    distances = np.sqrt(((flat(test)[:, None] - flat(train)) ** 2).sum(2))
    expected = np.sort(distances, 1)[:, :neighbours].mean(1)
    np.testing.assert_allclose(scores(made, test), expected, rtol=1e-6)


def exact_scores(train: Tensor, test: Tensor, neighbours: int) -> Floats:
    """Compute kNN scores with numpy's int64, without rounding before the square root."""
    y, x = (of.flatten(1).numpy().astype(np.int64) for of in (train, test))
    squares = np.sort(np.stack([((y - row) ** 2).sum(1) for row in x]), 1)[:, :neighbours]
    mean: Floats = np.sqrt(squares.astype(np.float64)).mean(1)
    return mean / 127.5


def test_knn_finds_the_nearest_among_many_and_among_equals() -> None:
    """The images fill several chunks of whole blocks and a rest; few are distinct, so most distances are ties."""
    distinct = images(40, 0)
    train = torch.cat([images(2000, 2), distinct[torch.arange(1100) % 40]])
    test = torch.cat([images(5, 1), distinct[:5]])
    for neighbours in (1, 5, 40):
        made = make("knn", neighbours=neighbours)
        made.fit(train)
        together = scores(made, test)
        np.testing.assert_allclose(together, exact_scores(train, test, neighbours), rtol=1e-7)
        single = [scores(made, test[i : i + 1])[0] for i in range(len(test))]
        assert together.tolist() == single
        made.fit(train.flip(0))
        assert scores(made, test).tolist() == single


@pytest.mark.parametrize("count", [1, 4, 5, 31, 32, 33, 160, 192, 1000])
def test_the_least_of_a_row_are_found_by_blocks(count: int) -> None:
    values = torch.from_numpy(np.random.RandomState(0).randint(0, 300, (7, 1000)).astype(np.float64))
    expected = values.sort(1).values[:, :count]
    assert torch.equal(knn._least(values, count), expected)


def test_knn_of_a_training_image_is_exactly_zero_and_extremes_are_exact() -> None:
    made = make("knn", neighbours=1)
    black, white = (
        torch.zeros(1, 1, 16, 16, dtype=torch.uint8),
        torch.full((1, 1, 16, 16), 255, dtype=torch.uint8),
    )
    made.fit(torch.cat([images(9, 0), black]))
    assert scores(made, images(9, 0)).tolist() == [0] * 9
    made.fit(black)
    assert scores(made, white).tolist() == [32.0]  # sqrt(16 * 16 * 2^2)


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
