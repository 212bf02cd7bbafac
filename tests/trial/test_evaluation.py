"""Evaluations change no state, legacy scores depend on the batch as in published code, selections are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.build import build
from models.catalog import detector as find
from models.catalog import resolve
from models.detector import Detector
from sweep.spec.trial import EVALUATIONS
from sweep.trial.evaluation import LEGACY_BATCH, VALIDATION, clean, finished, legacy, loader_order, sample
from sweep.trial.images import Images
from sweep.trial.selection import Selections

SIZE = 16


def trained(name: str) -> Detector:
    """Return a small detector after a few steps on random images."""
    torch.manual_seed(0)
    info = find(name)
    values = resolve(info, info.default_variant, {"width": 4, "nz": 6})
    made = build(name, channels=1, size=SIZE, hyperparameters=values, variant=info.default_variant)
    for step in range(3):
        made.train_step(made.normalise(images(8, seed=step)))
    return made


def images(count: int, seed: int = 0) -> Tensor:
    random = np.random.RandomState(seed)
    return torch.from_numpy(random.randint(0, 256, (count, 1, SIZE, SIZE)).astype(np.uint8))


def taken(pixels: Tensor) -> Images:
    return Images(pixels.numpy(), np.arange(len(pixels)), torch.device("cpu"))


def bits(made: Detector) -> bytes:
    return b"".join(value.numpy().tobytes() for value in made.state_dict().values())


@pytest.fixture(params=["ganomaly", "skip_ganomaly"])
def detector(request: pytest.FixtureRequest) -> Detector:
    return trained(request.param)


def test_no_evaluation_changes_a_weight_a_statistic_a_mode_or_a_random_state(detector: Detector) -> None:
    before, random = bits(detector), torch.get_rng_state()
    modes = [module.training for module in detector.modules()]
    finished(clean(detector, taken(images(70))))
    finished(legacy(detector, taken(images(70)), np.arange(70)))
    assert bits(detector) == before
    assert [module.training for module in detector.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)


def test_clean_scores_ignore_the_order_and_legacy_ones_do_not(detector: Detector) -> None:
    data = images(100)
    order = np.random.RandomState(1).permutation(100)
    whole, shuffled = finished(clean(detector, taken(data))), finished(clean(detector, taken(data).reorder(order)))
    for name, values in whole.items():
        np.testing.assert_allclose(shuffled[name], values[order], rtol=1e-5, atol=1e-7)
    straight, mixed = (
        finished(legacy(detector, taken(data), np.arange(100))),
        finished(legacy(detector, taken(data), order)),
    )
    assert any(not np.allclose(straight[name], mixed[name], rtol=1e-3) for name in straight)


def test_legacy_scores_are_the_published_loops(detector: Detector) -> None:
    """Compare with networks in training mode that score batches of 64, one after the other."""
    data, order = images(150), np.random.RandomState(2).permutation(150)
    found = finished(legacy(detector, taken(data), order))
    plain = trained("ganomaly" if type(detector).__name__ == "GANomaly" else "skip_ganomaly")
    plain.train()
    expected: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for first in range(0, 150, LEGACY_BATCH):
            batch = data[torch.from_numpy(order[first : first + LEGACY_BATCH])]
            for name, part in plain.components(plain.normalise(batch)).items():
                expected.setdefault(name, []).append(part)
    for name, parts in expected.items():
        np.testing.assert_array_equal(found[name][order], torch.cat(parts).numpy())


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 66, 128, 129])
def test_every_image_is_scored_once_and_none_alone(count: int, detector: Detector) -> None:
    sizes = []
    score = type(detector).score_in_training_mode

    class Counting(type(detector)):  # type: ignore[misc]
        def score_in_training_mode(self, batch: Tensor) -> dict[str, Tensor]:
            sizes.append(len(batch))
            found: dict[str, Tensor] = score(self, batch)
            return found

    detector.__class__ = Counting
    found = finished(legacy(detector, taken(images(count)), np.arange(count)))
    assert all(values.shape == (count,) for values in found.values())
    assert sum(sizes) == count
    assert count == 1 or min(sizes) > 1
    assert max(sizes) <= LEGACY_BATCH + 1


def test_ordered_loaders_have_normals_first_and_shuffled_ones_do_not() -> None:
    labels = np.array([1, 0, 1, 0, 0, 1] * 40)
    ordered = loader_order("legacy_ordered", labels, seed=3)
    assert list(labels[ordered]) == sorted(labels)
    assert list(ordered[:3]) == [1, 3, 4], "within a kind the order is the split's"
    shuffled = loader_order("legacy_shuffled", labels, seed=3)
    assert sorted(shuffled) == list(range(240)) and list(labels[shuffled]) != sorted(labels)
    assert np.array_equal(shuffled, loader_order("legacy_shuffled", labels, seed=3))
    assert not np.array_equal(shuffled, loader_order("legacy_shuffled", labels, seed=4))


@given(
    labels=st.lists(st.integers(0, 1), min_size=2, max_size=60).filter(lambda found: 0 < sum(found) < len(found)),
    count=st.integers(0, 70),
    seed=st.integers(0, 9),
)
def test_a_sample_keeps_both_classes_and_their_shares(labels: list[int], count: int, seed: int) -> None:
    found = sample(np.array(labels), count, seed)
    assert list(found) == sorted(set(found))
    assert np.array_equal(found, sample(np.array(labels), count, seed))
    if not 0 < count < len(labels):
        assert list(found) == list(range(len(labels)))
    else:
        drawn = np.array(labels)[found]
        assert len(found) == max(2, count)
        assert 0 < drawn.sum() < len(found)
        assert abs(drawn.mean() - np.mean(labels)) <= 1 / len(found) + 1e-9


def scored(*values: float) -> dict[str, Any]:
    return {name: {"score": np.array([value], np.float32)} for name, value in zip(EVALUATIONS, values, strict=False)}


def test_each_evaluation_has_a_best_epoch_of_its_own_and_validation_chooses_for_all() -> None:
    found = Selections()
    for epoch, (validation, *tests) in enumerate([(0.6, 0.7, 0.9), (0.8, 0.6, 0.8), (0.7, 0.9, 0.7)], start=1):
        parts = {**scored(*tests), VALIDATION: {"score": np.zeros(1, np.float32)}}
        found.take(epoch, parts, {**dict(zip(EVALUATIONS, tests, strict=False)), VALIDATION: validation})
    epochs = {(s, e): entry["epoch"] for s, e, entry in found.each() if e != VALIDATION}
    assert epochs == {
        ("last", "clean"): 3, ("last", "legacy_ordered"): 3,
        ("val", "clean"): 2, ("val", "legacy_ordered"): 2,
        ("oracle", "clean"): 3, ("oracle", "legacy_ordered"): 1,
    }  # fmt: skip


def test_a_resumed_selection_goes_on_as_it_was() -> None:
    first, second = Selections(), Selections()
    first.take(1, scored(0.7), {"clean": 0.7})
    second.load_state(first.state())
    for found in (first, second):
        found.take(2, scored(0.6), {"clean": 0.6})
    assert {(s, e): entry["epoch"] for s, e, entry in second.each()} == {
        (s, e): entry["epoch"] for s, e, entry in first.each()
    }
    assert second.chosen["oracle"]["clean"]["components"]["score"][0] == np.float32(0.7)
