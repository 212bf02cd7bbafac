"""The contract of every detector, built-in or a user's own."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.build import build
from models.catalog import detector, resolve
from models.components.numerics import PRECISIONS
from models.detector import Detector
from models.hyperparameters import ANY_SIZE, CHANNELS
from models.scoring import combine
from tests.support.detector_cases import BLIND, CASES, UNLEARNED, Case, small

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*embeddings:DeprecationWarning"),  # anomalib of its own default argument
]


def state_bits(made: Detector) -> dict[str, bytes]:
    """Return every parameter and buffer as bytes, so that NaN equals itself."""
    return {name: value.numpy().tobytes() for name, value in made.state_dict().items()}


def parts_of(made: Detector, data: Tensor) -> dict[str, np.ndarray[Any, Any]]:
    return {name: part.numpy() for name, part in made.score(made.normalise(data)).items()}


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.fixture(params=[case for case in CASES if detector(case[0]).trains_by_epoch], ids="-".join)
def stepping(request: pytest.FixtureRequest) -> Case:
    """Return a case that is trained batch by batch."""
    return Case(*request.param)


@pytest.fixture(params=[case for case in CASES if case[0] not in UNLEARNED], ids="-".join)
def learning(request: pytest.FixtureRequest) -> Case:
    """Return a case whose scores depend on the training images."""
    return Case(*request.param)


@pytest.fixture(params=[case for case in CASES if case[0] not in BLIND], ids="-".join)
def looking(request: pytest.FixtureRequest) -> Case:
    """Return a case whose scores depend on the scored image."""
    return Case(*request.param)


@pytest.fixture(params=[case for case in CASES if case[2] == "bf16"], ids="-".join)
def rounding(request: pytest.FixtureRequest) -> Case:
    """Return a case that is trained in a lower precision than float32."""
    return Case(*request.param)


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(*request.param)


class TestDetectorContract:
    @pytest.mark.parametrize("channels", CHANNELS)
    def test_each_image_gets_one_finite_float32_per_component(self, case: Case, channels: int) -> None:
        made = case.trained(channels)
        parts = made.score(made.normalise(case.images(5, channels, seed=8)))
        lam = case.info.variants[case.variant].lam
        assert set(parts) == ({"score"} if lam is None else {"reconstruction", "latent"})
        for part in parts.values():
            assert part.dtype == torch.float32 and part.shape == (5,) and part.isfinite().all()
        combined = combine(parts_of(made, case.images(5, channels, seed=8)), lam)
        assert combined.dtype == np.float64 and combined.shape == (5,)

    def test_losses_are_detached_finite_scalars(self, case: Case) -> None:
        for losses in case.train(case.make()):
            assert losses
            for loss in losses.values():
                assert loss.shape == () and not loss.requires_grad and loss.isfinite()

    def test_a_step_in_bf16_is_one_in_float32_but_for_rounding(self, rounding: Case) -> None:
        found = []
        for precision in ("float32", "bf16"):
            made = replace(rounding, precision=precision).make()
            (losses,) = rounding.train(made, steps=1)
            found.append((losses, parts_of(made, rounding.images(5))))
        (exact, exact_parts), (rounded, rounded_parts) = found
        assert any(exact[name] != rounded[name] for name in exact)
        for name in exact:
            torch.testing.assert_close(rounded[name], exact[name], rtol=0.01, atol=0)
        for name in exact_parts:
            np.testing.assert_allclose(rounded_parts[name], exact_parts[name], rtol=0.05, atol=1e-7)

    def test_bf16_leaves_weights_statistics_gradients_and_moments_in_float32(self, rounding: Case) -> None:
        made = rounding.trained()
        kept = [*made.parameters(), *made.buffers(), *(p.grad for p in made.parameters() if p.grad is not None)]
        kept += _tensors(made.training_state())
        assert {part.dtype for part in kept} - {torch.int64} == {torch.float32}
        assert all(loss.dtype == torch.float32 for losses in rounding.train(made) for loss in losses.values())

    def test_a_step_after_an_evaluation_trains_all_the_same(self, stepping: Case) -> None:
        trained, evaluated = stepping.trained(), stepping.trained()
        evaluated.eval()
        random = torch.get_rng_state()
        for made in (trained, evaluated):
            torch.set_rng_state(random)
            stepping.train(made, seed=9)
        assert state_bits(trained) == state_bits(evaluated)

    def test_same_seed_gives_the_same_bits(self, case: Case) -> None:
        one, two = case.trained(), case.trained()
        assert state_bits(one) == state_bits(two)
        for a, b in zip(parts_of(one, case.images(5)).values(), parts_of(two, case.images(5)).values(), strict=True):
            assert np.array_equal(a, b)

    def test_another_seed_gives_other_weights_unless_deterministic(self, case: Case) -> None:
        same = state_bits(case.trained(seed=0)) == state_bits(case.trained(seed=1))
        assert same == case.info.deterministic

    def test_training_changes_what_is_scored(self, learning: Case) -> None:
        made = learning.trained()
        before = parts_of(made, learning.images(5))
        learning.train(made, seed=9)
        after = parts_of(made, learning.images(5))
        assert any(not np.array_equal(before[name], after[name]) for name in before)

    def test_a_detector_keeps_a_state_exactly_if_it_learns(self, case: Case) -> None:
        assert bool(state_bits(case.trained())) == (case.name not in UNLEARNED)

    def test_scores_ignore_order_batch_size_and_mates(self, case: Case) -> None:
        made = case.trained()
        data = case.images(11, seed=8)
        whole = parts_of(made, data)
        order = np.random.RandomState(0).permutation(11)
        shuffled = parts_of(made, data[torch.from_numpy(order)])
        single = [parts_of(made, data[i : i + 1]) for i in range(11)]
        mates = parts_of(made, torch.cat([data[:1], torch.full_like(data, 255)]))
        for name, part in whole.items():
            np.testing.assert_allclose(shuffled[name], part[order], rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose([one[name][0] for one in single], part, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(mates[name][0], part[0], rtol=1e-5, atol=1e-7)

    def test_scoring_changes_no_parameter_buffer_mode_or_random_state(self, case: Case) -> None:
        made = case.trained()
        made.train()
        next(made.children(), made).eval()
        modes = [module.training for module in made.modules()]
        bits, random = state_bits(made), torch.get_rng_state()
        numpy_random = repr(np.random.get_state())
        batch = made.normalise(case.images(6))
        kept = batch.clone()
        parts = made.score(batch)
        assert state_bits(made) == bits
        assert torch.equal(torch.get_rng_state(), random)
        assert repr(np.random.get_state()) == numpy_random
        assert [module.training for module in made.modules()] == modes
        assert torch.equal(batch, kept)
        assert not any(part.requires_grad for part in parts.values())

    def test_what_figures_are_drawn_from_ignores_batch_mates_and_changes_nothing(self, case: Case) -> None:
        made = case.trained()
        batch = made.normalise(case.images(6))
        kept, bits, random = batch.clone(), state_bits(made), torch.get_rng_state()
        for method in (made.discriminator_features, made.reconstruction):
            with made.evaluating():
                whole, single = method(batch), method(batch[:1])
            if whole is None or single is None:
                assert whole is None and single is None
                continue
            assert whole.dtype == torch.float32 and len(whole) == 6 and whole.isfinite().all()
            assert torch.allclose(whole[:1], single, rtol=1e-4, atol=1e-6)
            if method == made.reconstruction:
                assert whole.shape == batch.shape
            else:
                assert whole.dim() == 2
        assert made.training or not case.info.trains_by_epoch, "the mode must be the same as before"
        assert state_bits(made) == bits and torch.equal(torch.get_rng_state(), random)
        assert torch.equal(batch, kept)

    def test_normalising_and_training_leave_the_given_images_alone(self, case: Case) -> None:
        made = case.make()
        data = case.images(8)
        batch = made.normalise(data)
        kept = batch.clone()
        if case.info.trains_by_epoch:
            made.train_step(batch)
        else:
            made.fit(data)
        assert torch.equal(data, case.images(8)) and torch.equal(batch, kept)

    def test_saved_loaded_and_trained_on_equals_never_stopped(self, case: Case) -> None:
        never = case.trained()
        state = through_a_file(never.training_state())
        random = torch.get_rng_state()
        never_losses = case.train(never, seed=9)

        resumed = case.make(seed=5)
        resumed.load_training_state(state)
        torch.set_rng_state(random)
        resumed_losses = case.train(resumed, seed=9)
        assert never_losses == resumed_losses
        assert state_bits(never) == state_bits(resumed)
        never_state, resumed_state = never.training_state(), resumed.training_state()
        assert torch.equal(_all_numbers(never_state), _all_numbers(resumed_state))

    def test_saved_and_loaded_scores_the_same_without_more_training(self, case: Case) -> None:
        trained, loaded = case.trained(), case.make(seed=5)
        loaded.load_training_state(through_a_file(trained.training_state()))
        for name, part in parts_of(trained, case.images(5)).items():
            assert np.array_equal(parts_of(loaded, case.images(5))[name], part)

    def test_a_taken_state_does_not_change_when_training_goes_on(self, case: Case) -> None:
        made = case.trained()
        state = made.training_state()
        before = _all_numbers(state).clone()
        case.train(made, seed=9)
        assert torch.equal(_all_numbers(state), before)

    @pytest.mark.parametrize("count", [1, 3])
    def test_one_image_or_an_odd_batch_trains_and_scores(self, case: Case, count: int) -> None:
        made = case.make()
        if case.info.trains_by_epoch:
            losses = made.train_step(made.normalise(case.images(count)))
            assert all(loss.isfinite() for loss in losses.values())
        else:
            made.fit(case.images(count))
        for part in made.score(made.normalise(case.images(count))).values():
            assert part.shape == (count,) and part.isfinite().all()

    @pytest.mark.parametrize("value", [0, 128, 255])
    def test_constant_images_train_and_score(self, case: Case, value: int) -> None:
        made = case.make()
        data = torch.full((6, 1, case.size, case.size), value, dtype=torch.uint8)
        if case.info.trains_by_epoch:
            assert all(loss.isfinite() for loss in made.train_step(made.normalise(data)).values())
        else:
            made.fit(data)
        assert all(part.isfinite().all() for part in made.score(made.normalise(data)).values())

    def test_nan_input_gives_nan_losses_not_a_crash(self, stepping: Case) -> None:
        made = stepping.trained()
        losses = made.train_step(torch.full((4, 1, stepping.size, stepping.size), float("nan")))
        assert all(loss.isnan() for loss in losses.values())

    def test_nan_input_gives_a_nan_score_and_spares_its_mates(self, looking: Case) -> None:
        made = looking.trained()
        batch = made.normalise(looking.images(3))
        clean = made.score(batch)
        batch[1] = float("nan")
        for name, part in made.score(batch).items():
            assert part[1].isnan()
            assert torch.allclose(part[[0, 2]], clean[name][[0, 2]], rtol=1e-5)

    def test_wrong_images_are_refused_with_the_legal_form(self, case: Case) -> None:
        made = case.make()
        good = case.images(2)
        legal = rf"\[B, 1, {case.size}, {case.size}\]"
        for bad in (good.float(), case.images(2, 3), good[:, :, :8], good[0], good[:0]):
            with pytest.raises(ValueError, match=legal):
                made.normalise(bad)
            if not case.info.trains_by_epoch:
                with pytest.raises(ValueError, match=legal):
                    made.fit(bad)
        floats = made.normalise(good)
        for bad in (good, floats.double(), floats.repeat(1, 3, 1, 1), floats[..., :8], floats[0], floats[:0]):
            with pytest.raises(ValueError, match=legal):
                made.score(bad)
            with pytest.raises(ValueError, match=legal):
                made.train_step(bad)

    def test_wrong_channels_and_size_are_refused_together_with_the_legal_ones(self, case: Case) -> None:
        with pytest.raises(ValueError) as problem:
            build(case.name, channels=2, size=20, hyperparameters={}, variant=case.variant)
        assert "channels=2" in str(problem.value) and "size=20" in str(problem.value)
        assert all(str(legal) in str(problem.value) for legal in (*CHANNELS, *case.info.variant(case.variant).sizes))

    @pytest.mark.parametrize("size", ANY_SIZE[:4])
    def test_images_of_a_size_are_scored_if_the_catalog_says_so_and_else_refused(self, case: Case, size: int) -> None:
        problem = case.info.size_problem(case.variant, size)
        values = resolve(case.info, case.variant, small(case.name))
        arguments: dict[str, Any] = {"channels": 1, "size": size, "hyperparameters": values, "variant": case.variant}
        if problem:
            with pytest.raises(ValueError, match=r"data\.size") as caught:
                build(case.name, **arguments)
            assert str(caught.value) == problem
            return
        made = build(case.name, **arguments)
        data = torch.zeros(3, 1, size, size, dtype=torch.uint8)
        if not case.info.trains_by_epoch:
            made.fit(data)
        assert all(len(part) == 3 for part in made.score(made.normalise(data)).values())

    def test_unknown_variants_and_hyperparameters_are_refused(self, case: Case) -> None:
        with pytest.raises(ValueError, match=case.info.default_variant):
            build(case.name, channels=1, size=case.size, hyperparameters={}, variant="nonesuch")
        with pytest.raises(ValueError, match="nonesuch"):
            resolve(case.info, case.variant, {"nonesuch": 1})

    def test_hyperparameters_reach_the_detector_coerced(self, case: Case) -> None:
        values = small(case.name)
        given = {field.name: str(values.get(field.name, field.default)) for field in case.info.fields}
        made = build(case.name, channels=1, size=case.size, hyperparameters=given, variant=case.variant)
        for field in case.info.fields:
            value = getattr(made.hyperparameters, field.name)
            assert str(value) == given[field.name] and type(value) is field.type

    def test_it_is_either_fitted_or_trained_by_epochs(self, case: Case) -> None:
        made = case.make()
        with pytest.raises(NotImplementedError, match="call"):
            if case.info.trains_by_epoch:
                made.fit(case.images(2))
            else:
                made.train_step(made.normalise(case.images(2)))

    def test_counters_are_whole_numbers(self, case: Case) -> None:
        assert all(type(count) is int for count in case.trained().counters().values())

    def test_cost_hints_grow_with_the_images(self, case: Case) -> None:
        values = resolve(case.info, case.variant, {})
        for precision in PRECISIONS:
            for seconds in (case.info.cost.epoch, case.info.cost.score):
                assert 0 < seconds(values, 1000, 32, 1, precision) < seconds(values, 50_000, 32, 1, precision)


def _all_numbers(state: Any) -> Tensor:
    """Return all numbers of a nested state as one float64 vector in a fixed order."""
    if isinstance(state, Tensor):
        return state.double().flatten()
    if isinstance(state, dict):
        parts = [_all_numbers(value) for _, value in sorted(state.items(), key=lambda item: str(item[0]))]
    elif isinstance(state, list | tuple):
        parts = [_all_numbers(value) for value in state]
    else:
        parts = [torch.tensor([float(state)])] if isinstance(state, bool | int | float) else []
    return torch.cat([torch.zeros(0, dtype=torch.float64), *parts]).double()


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict | list | tuple):
        for value in state.values() if isinstance(state, dict) else state:
            yield from _tensors(value)
