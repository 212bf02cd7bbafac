"""figures.npz is small, the same every time, contains the right samples, and leaves the detector unchanged."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.build import build
from models.catalog import detector, resolve
from models.detector import Detector
from sweep.trial.figure_data import FEATURE_SAMPLES, FEATURES, SIDE, extremes, figure_data

pytestmark = pytest.mark.usefixtures("one_thread")
LIMIT = 5 * 2**20


def made(name: str, channels: int = 1, size: int = 16, **hyperparameters: Any) -> Detector:
    info = detector(name)
    values = resolve(info, info.default_variant, {"width": 4, "nz": 8, **hyperparameters})
    torch.manual_seed(0)
    return build(name, channels=channels, size=size, hyperparameters=values, variant=info.default_variant)


def taken(found: Detector, count: int = 60, seed: int = 0) -> dict[str, Any]:
    random = np.random.RandomState(1)
    images = random.randint(0, 256, (count, found.channels, found.size, found.size)).astype(np.uint8)
    labels, scores = np.arange(count) % 3 == 0, random.rand(count)
    data = figure_data(
        found,
        images[::-1],
        np.arange(count)[::-1],
        labels.astype(np.uint8),
        scores,
        epoch=2,
        seed=seed,
        device=torch.device("cpu"),
    )
    assert data is not None
    assert len(data) <= LIMIT
    return {**np.load(io.BytesIO(data)), "images": images, "scores": scores, "labels": labels}


def test_it_holds_features_originals_and_reconstructions() -> None:
    found = made("skip_ganomaly")
    data = taken(found)
    assert data["features"].shape == (60, 8) and data["features"].dtype == np.float16
    assert data["feature_labels"].sum() == 20
    assert data["originals"].shape == data["reconstructions"].shape == (32, 1, 16, 16)
    assert data["image_hard"].sum() == 16 and data["epoch"] == 2
    where = [int(np.flatnonzero(data["scores"] == score)[0]) for score in data["image_scores"]]
    assert np.array_equal(data["images"][where], data["originals"])
    assert np.array_equal(data["labels"][where], data["image_labels"])
    with found.evaluating():
        batch = found.normalise(torch.from_numpy(data["originals"]))
        again = found.reconstruction(batch)
        features = found.discriminator_features(found.normalise(torch.from_numpy(data["images"])))
    assert again is not None and features is not None
    assert np.abs((again.numpy() + 1) * 127.5 - data["reconstructions"]).max() <= 0.51
    stored, true = data["features"].astype(float).ravel(), features.numpy().ravel()
    assert np.corrcoef(stored, true)[0, 1] > 0.999


def test_taking_it_leaves_no_trace_and_gives_the_same_bytes_again() -> None:
    found = made("ganomaly")
    bits = {name: value.clone() for name, value in found.state_dict().items()}
    random, other = torch.get_rng_state(), np.random.get_state()
    first = taken(found)
    torch.rand(3)
    second = taken(found)
    torch.set_rng_state(random)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert all(torch.equal(value, bits[name]) for name, value in found.state_dict().items())
    assert found.training
    assert repr(np.random.get_state()) == repr(other)


def test_a_file_of_large_images_and_wide_features_stays_small() -> None:
    found = made("ganomaly", channels=3, size=128, width=4)
    found.score_batch = 8
    data = taken(found, count=40)
    assert data["originals"].shape == (30, 3, SIDE, SIDE), "14 abnormals make 7 easy and 7 hard ones"
    assert data["features"].shape[1] == FEATURES  # 64 channels of 4x4
    upper_bound = FEATURE_SAMPLES * FEATURES * 2 + 2 * 32 * 3 * SIDE**2
    assert upper_bound < LIMIT


def test_projected_features_keep_distances() -> None:
    found = made("ganomaly", size=16, width=64)  # 128 channels of 4x4
    data = taken(found)
    with found.evaluating():
        features = found.discriminator_features(found.normalise(torch.from_numpy(data["images"])))
    assert features is not None and features.shape[1] == 2048
    true, kept = (torch.cdist(f, f).ravel() for f in (features, torch.from_numpy(data["features"].astype("float32"))))
    ratio = (kept / true)[~torch.eye(len(features), dtype=torch.bool).ravel()]
    assert ratio.std() / ratio.mean() < 0.05


@pytest.mark.parametrize(("name", "missing"), [("autoencoder", "features"), ("pca", "features")])
def test_what_a_detector_has_not_its_file_has_not(name: str, missing: str) -> None:
    info = detector(name)
    values = resolve(info, info.default_variant, {})
    found = build(name, channels=1, size=16, hyperparameters=values, variant=info.default_variant)
    if name == "pca":
        found.fit(torch.randint(0, 256, (30, 1, 16, 16), dtype=torch.uint8))
    data = taken(found)
    assert missing not in data
    assert "reconstructions" in data


def test_a_detector_with_neither_has_no_file() -> None:
    found = build("constant", channels=1, size=16, hyperparameters={}, variant="plain")
    images = np.zeros((4, 1, 16, 16), np.uint8)
    labels = np.array([0, 0, 1, 1])
    assert (
        figure_data(found, images, np.arange(4), labels, np.zeros(4), epoch=0, seed=0, device=torch.device("cpu"))
        is None
    )


@given(st.lists(st.tuples(st.booleans(), st.floats(-1, 1)), min_size=2, max_size=80))
def test_hard_samples_rank_where_the_other_kind_belongs(samples: list[tuple[bool, float]]) -> None:
    labels = np.array([label for label, _ in samples]).astype(int)
    scores = np.array([score for _, score in samples])
    chosen, hard = extremes(labels, scores)
    assert len(set(chosen)) == len(chosen) == len(hard) <= 32
    for label, sign in ((0, 1), (1, -1)):
        kind = chosen[labels[chosen] == label]
        is_hard = hard[labels[chosen] == label]
        badness = sign * scores[kind]
        rest = sign * scores[np.setdiff1d(np.flatnonzero(labels == label), kind)]
        assert is_hard.sum() * 2 == len(kind)
        if len(kind):
            assert badness[~is_hard].max() <= badness[is_hard].min()
            assert all(badness[~is_hard].max() <= value <= badness[is_hard].min() for value in rest)
