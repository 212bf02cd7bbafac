"""Detectors trained as one stack against the same detectors trained apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from models.build import build
from models.catalog import DETECTORS
from models.catalog import detector as find_detector
from models.components import networks
from models.detector import Detector
from models.stacked import STACKABLE, RandomState, StackedDetectors

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = [
    ("ganomaly", "repo_head"),
    ("ganomaly", "repo_2018"),
    ("ganomaly", "paper"),
    ("skip_ganomaly", "repo_head"),
    ("skip_ganomaly", "repo_2018"),
    ("skip_ganomaly", "paper"),
    ("autoencoder", "plain"),
]
SEEDS = [0, 1, 2]
STEPS, EPOCHS, BATCH = 20, 4, 4
LR = 5e-5  # small, so that 20 steps do not make much of rounding
History = list[dict[str, Tensor]]


def maker(name: str, variant: str, **hyperparameters: float) -> Callable[[], Detector]:
    chosen = {"width": 4, "nz": 6, "lr": LR, "epochs": EPOCHS, "batch_size": BATCH, **hyperparameters}
    return lambda: build(name, channels=1, size=16, hyperparameters=chosen, variant=variant)


def batches() -> Tensor:
    """uint8 [STEPS, k, BATCH, 1, 16, 16]."""
    shape = (STEPS, len(SEEDS), BATCH, 1, 16, 16)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


def train(made: Detector | StackedDetectors, images: Tensor, begin: int = 0) -> History:
    history = []
    for step, batch in enumerate(images, begin):
        if step % (STEPS // EPOCHS) == 0:
            made.begin_epoch(step // (STEPS // EPOCHS))
        history.append(made.train_step(made.normalise(batch)))
    return history


def train_apart(name: str, variant: str) -> tuple[list[Detector], list[History]]:
    """Each detector trained alone, seed by seed."""
    detectors, histories = [], []
    for place, seed in enumerate(SEEDS):
        torch.manual_seed(seed)
        detectors.append(maker(name, variant)())
        histories.append(train(detectors[-1], batches()[:, place]))
    return detectors, histories


apart = cache(train_apart)


def assert_alike(found: Detector, expected: Detector) -> None:
    """Equal up to what rounding does: Adam may turn it into whole steps where a gradient is all but zero."""
    for name, tensor in expected.state_dict().items():
        difference = (found.state_dict()[name] - tensor).abs().double()
        assert difference.mean() < 0.02 * LR, name
        assert difference.max() < 5 * LR, name
    images = expected.normalise(batches()[0, 0])
    for component, score in expected.score(images).items():
        torch.testing.assert_close(found.score(images)[component], score, rtol=1e-4, atol=1e-6)
    assert found.counters() == expected.counters()


def assert_losses_alike(stacked: History, alone: list[History]) -> None:
    for place, history in enumerate(alone):
        for of_all, of_one in zip(stacked, history, strict=True):
            assert of_all.keys() == of_one.keys()
            for name, loss in of_one.items():
                assert of_all[name].shape == (len(SEEDS),)
                torch.testing.assert_close(of_all[name][place], loss, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "variant"), KINDS)
def test_20_steps_as_one_are_20_steps_apart(name: str, variant: str) -> None:
    expected, alone = apart(name, variant)
    random = torch.get_rng_state()
    stack = StackedDetectors.build(maker(name, variant), SEEDS)
    history = train(stack, batches())
    assert torch.equal(torch.get_rng_state(), random)
    assert_losses_alike(history, alone)
    for found, wanted in zip(stack.split(), expected, strict=True):
        assert_alike(found, wanted)
    for loss in history[-1].values():
        assert len(set(loss.tolist())) == len(SEEDS), "detectors so alike that nothing is tested"


def test_every_variant_that_is_trained_is_tested() -> None:
    names = [name for name, info in DETECTORS.items() if type_of(name) in STACKABLE]
    trained = {(name, variant) for name in names for variant in DETECTORS[name].variants if variant != "untrained"}
    assert trained == set(KINDS)


def type_of(name: str) -> type[Detector]:
    return type(build(name, channels=1, size=16, hyperparameters={}, variant=find_detector(name).default_variant))


@pytest.mark.parametrize(
    ("name", "variant", "looking"),
    [(*kind, True) for kind in KINDS if "repo" in kind[1]]
    + [("ganomaly", "repo_head", False), ("skip_ganomaly", "repo_2018", False)],  # as on a GPU
)
def test_a_discriminator_is_renewed_when_its_own_loss_collapses(
    name: str, variant: str, looking: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, alone = apart(name, variant)
    watched = "d_fake" if variant == "repo_2018" else "d"
    losses = sorted(float(history[0][watched]) for history in alone)
    monkeypatch.setattr(networks, "COLLAPSED", (losses[0] + losses[1]) / 2)  # now some have, some have not
    if not looking:
        monkeypatch.setattr(networks, "reinitialise_if", networks.reinitialise_where)
    expected, alone = train_apart(name, variant)
    stack = StackedDetectors.build(maker(name, variant), SEEDS)
    assert_losses_alike(train(stack, batches()), alone)
    renewed = [found.counters()["d_reinitialisations"] for found in stack.detectors]
    assert renewed == [wanted.counters()["d_reinitialisations"] for wanted in expected]
    assert len(set(renewed)) > 1
    for found, wanted in zip(stack.split(), expected, strict=True):
        assert_alike(found, wanted)


@pytest.mark.parametrize(("name", "variant"), KINDS)
def test_split_detectors_go_on_alone_or_in_another_stack(name: str, variant: str) -> None:
    expected, _ = apart(name, variant)
    images = batches()
    first = StackedDetectors.build(maker(name, variant), SEEDS)
    train(first, images[:5])
    second = StackedDetectors(first.split(), first.random_states)
    train(second, images[5:12], begin=5)
    detectors = second.split()
    for place, wanted in enumerate(expected):
        with second.random_states[place].used():
            train(detectors[place], images[12:, place], begin=12)
        assert_alike(detectors[place], wanted)


def test_a_detector_is_scored_while_it_is_in_the_stack_and_saved_after() -> None:
    make = maker("ganomaly", "repo_head")
    stack = StackedDetectors.build(make, SEEDS)
    train(stack, batches())
    images = stack.detectors[0].normalise(batches()[0, 0])
    within = [detector.score(images) for detector in stack.detectors]
    for scores, detector in zip(within, stack.split(), strict=True):
        resumed = make()
        resumed.load_training_state(detector.training_state())
        for component, score in scores.items():
            assert torch.equal(detector.score(images)[component], score)
            assert torch.equal(resumed.score(images)[component], score)


def test_split_detectors_share_nothing() -> None:
    stack = StackedDetectors.build(maker("ganomaly", "repo_head"), SEEDS)
    train(stack, batches()[:2])
    first, *others = stack.split()
    before = [other.training_state() for other in others]
    train(first, batches()[:, 0])
    for other, state in zip(others, before, strict=True):
        after = other.training_state()
        for name, tensor in state["weights"].items():
            assert torch.equal(after["weights"][name], tensor)
        for name, optimiser in state["optimisers"].items():
            for place, moments in optimiser["moments"].items():
                assert all(map(torch.equal, after["optimisers"][name]["moments"][place], moments))


def test_what_cannot_be_stacked_is_refused() -> None:
    make = maker("ganomaly", "repo_head")
    state = RandomState(torch.device("cpu"))
    with pytest.raises(ValueError, match="no detectors"):
        StackedDetectors([], [])
    with pytest.raises(ValueError, match="EGBAD cannot be stacked: one of GANomaly, SkipGANomaly, Autoencoder"):
        StackedDetectors.build(maker("egbad", "repo"), SEEDS)
    with pytest.raises(ValueError, match="these in hyperparameters"):
        StackedDetectors([make(), maker("ganomaly", "repo_head", nz=7)()], [state, state])
    with pytest.raises(ValueError, match="these in variant"):
        StackedDetectors([make(), maker("ganomaly", "paper")()], [state, state])
    rounded = make()
    rounded.precision = "bf16"
    with pytest.raises(ValueError, match="float32 or tf32"):
        StackedDetectors([rounded], [state])
    ahead = make()
    ahead.train_step(ahead.normalise(batches()[0, 0]))
    with pytest.raises(ValueError, match="equally many steps"):
        StackedDetectors([make(), ahead], [state, state])


@pytest.mark.parametrize("shape", [(2, 4, 1, 16, 16), (3, 4, 3, 16, 16), (3, 0, 1, 16, 16), (4, 1, 16, 16)])
def test_batches_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    stack = StackedDetectors.build(maker("autoencoder", "plain"), SEEDS)
    with pytest.raises(ValueError, match=r"3 stacked detectors take float32 images \[3, B, 1, 16, 16\]"):
        stack.train_step(torch.zeros(shape))
