"""EGBAD: the loss that each network learns from, the averages of the published step, and its scores."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.defaults import EGBADHyperparameters
from models.egbad import EGBAD, PairDiscriminator
from tests.models.test_published import batches, largest_difference
from tests.models.test_variants import learns
from tests.support.published import PublishedEGBAD

LR = 1e-3  # larger than published, so that averages differ from weights after a few steps


pytestmark = pytest.mark.usefixtures("one_thread")


def make(size: int = 16, **hyperparameters: float) -> EGBAD:
    torch.manual_seed(0)
    chosen = {"width": 4, "nz": 6, "lr": LR, **hyperparameters}
    return EGBAD(1, size, EGBADHyperparameters(**chosen))  # type: ignore[arg-type]  # int or float


def make_trained() -> EGBAD:
    made = make()
    for x in batches(16):
        made.train_step(x)
    return made


def test_averages_are_those_of_the_published_step() -> None:
    made = make()
    plain = PublishedEGBAD(made, ours=True)
    for step in (plain, made.train_step):
        torch.manual_seed(1)
        for x in batches(16):
            step(x)
    for network, averages in zip(made.averaged, plain.averages, strict=True):
        for weight, average in zip(network.parameters(), averages, strict=True):
            torch.testing.assert_close(weight.detach(), average, rtol=1e-5, atol=1e-7)


def test_each_network_learns_from_its_own_loss_alone() -> None:
    made = make(lr=0.0)  # so the losses of G and E use the discriminator from before the step
    e, g, d = (copy.deepcopy(network).train() for network in made.learned)
    x = batches(16)[0]
    torch.manual_seed(5)
    made.train_step(x)

    torch.manual_seed(5)
    z = torch.randn(len(x), made.nz, 1, 1)
    code, fake = e(x), g(z)
    loss_d = functional.softplus(-d(x, code.detach())).mean() + functional.softplus(d(fake.detach(), z)).mean()
    loss_g = functional.softplus(-d(fake, z)).mean()
    loss_e = functional.softplus(d(x, code)).mean()
    for network, ours, loss in zip((e, g, d), made.learned, (loss_e, loss_g, loss_d), strict=True):
        expected = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        for parameter, gradient in zip(ours.parameters(), expected, strict=True):
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)
    assert all(learns(network) for network in made.learned)


def test_averages_start_at_the_initial_weights_trail_behind_and_never_learn() -> None:
    made = make()
    for average, network in zip(made.averaged, made.learned, strict=True):
        assert largest_difference(average, network) == 0
    start = copy.deepcopy(made.averaged)
    for x in batches(16):
        made.train_step(x)
    assert not learns(made.averaged) and not any(p.requires_grad for p in made.averaged.parameters())
    for first, average, network in zip(start, made.averaged, made.learned, strict=True):
        for old, now, learned in zip(first.parameters(), average.parameters(), network.parameters(), strict=True):
            assert 0 < (now - old).norm() < 0.01 * (learned - old).norm()


def test_averages_keep_batchnorms_statistics_of_the_last_step() -> None:
    made = make_trained()
    for average, network in zip(made.averaged, made.learned, strict=True):
        for mean, last in zip(average.buffers(), network.buffers(), strict=True):
            assert torch.equal(mean, last) and mean.data_ptr() != last.data_ptr()


def test_scores_are_those_of_the_averages_and_not_of_the_weights() -> None:
    made = make_trained()
    x = batches(16)[1]
    parts = made.score(x)
    e, g, d = (copy.deepcopy(network).eval() for network in made.averaged)
    assert isinstance(d, PairDiscriminator)
    z = e(x)
    fake = g(z)
    torch.testing.assert_close(parts["reconstruction"], (x - fake).abs().sum((1, 2, 3)))
    difference = d.features(x, d.codes(z)) - d.features(fake, d.codes(z))
    torch.testing.assert_close(parts["latent"], difference.abs().sum(1))
    with torch.no_grad():
        for network in made.learned:
            for weight in network.parameters():
                weight.zero_()
    assert all(torch.equal(part, parts[name]) for name, part in made.score(x).items())


def test_the_logit_is_made_of_the_features_alone() -> None:
    made = make_trained()
    d = made.discriminator.eval()
    x, z = batches(16)[0], torch.randn(8, made.nz, 1, 1)
    f = d.features(x, d.codes(z))
    assert f.shape == (8, 1024)
    torch.testing.assert_close(d(x, z), d.classifier(f).flatten())


def test_dropout_draws_in_training_alone() -> None:
    made = make()
    d = made.discriminator
    code = torch.randn(4, made.nz, 1, 1)
    assert not torch.equal(d.train().codes(code), d.codes(code))
    assert torch.equal(d.eval().codes(code), d.codes(code))


def test_initial_weights_are_drawn_as_published() -> None:
    for module in make(32, width=16).requires_grad_(False).discriminator.modules():
        if isinstance(module, nn.Linear):
            error = 5 * 0.02 / module.weight.numel() ** 0.5
            assert abs(float(module.weight.mean())) < error
            assert abs(float(module.weight.std()) - 0.02) < error
            assert module.bias is not None and not module.bias.any()


@pytest.mark.parametrize(
    ("size", "channels", "counts"),
    [
        (32, 1, [1_476_352, 1_476_480, 5_480_705]),
        (32, 3, [1_478_400, 1_478_528, 5_482_753]),
        (64, 3, [4_395_776, 4_395_904, 11_775_233]),
    ],
)
def test_parameter_counts_are_those_of_the_head(size: int, channels: int, counts: list[int]) -> None:
    with torch.device("meta"):
        made = EGBAD(channels, size, EGBADHyperparameters())
    assert [sum(p.numel() for p in network.parameters()) for network in made.learned] == counts


@pytest.mark.parametrize("size", [64, 128])
def test_other_sizes_give_one_score_an_image(size: int) -> None:
    made = make(size, width=2, nz=3)
    for part in made.score(torch.zeros(2, 1, size, size)).values():
        assert part.shape == (2,)
