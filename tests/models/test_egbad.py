"""EGBAD: the loss that each network learns from, the averages of the published step, and its scores."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from models.components.bigan import EPSILON, MOMENTUM, BatchNorm1d
from models.defaults import EGBADHyperparameters
from models.egbad import EGBAD, PairDiscriminator
from sweep.errors import UserError
from sweep.spec.load import load_recorded, resolve
from sweep.spec.trial import TrialSpec
from tests.models.test_published import batches, largest_difference
from tests.models.test_variants import learns
from tests.plan.test_expand import work_of
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


def make_published(channels: int = 1) -> EGBAD:
    torch.manual_seed(0)
    return EGBAD(channels, 28, EGBADHyperparameters(), variant="repo")


def test_the_published_networks_have_the_published_sizes() -> None:
    """Counts by hand from `bigan/mnist_utilities.py`: weights, biases, and two values of BatchNorm for a channel."""
    made = make_published()
    encoder = 9 * 32 + 32 + 9 * 32 * 64 + 3 * 64 + 9 * 64 * 128 + 3 * 128 + 6272 * 200 + 200
    generator = 200 * 1024 + 3 * 1024 + 1024 * 6272 + 3 * 6272 + 16 * 128 * 64 + 3 * 64 + 16 * 64 + 1
    images = 16 * 64 + 64 + 16 * 64 * 64 + 3 * 64
    discriminator = images + 200 * 512 + 512 + (3136 + 512) * 1024 + 1024 + 1024 + 1
    counts = [sum(p.numel() for p in network.parameters()) for network in made.learned]
    assert counts == [encoder, generator, discriminator] == [1_347_656, 6_781_505, 3_907_329]


def test_the_published_encoder_pads_as_tensorflow_does() -> None:
    """With "same" padding and stride 2, the row and the column of zeros are at the end alone."""
    made = make_published()
    halve = made.encoder[1:3]  # padding and convolution
    convolution = made.encoder[2]
    assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
    x = torch.randn(1, 32, 28, 28)
    padded = functional.pad(x, (0, 1, 0, 1))
    found = halve(x)
    assert found.shape == (1, 64, 14, 14)
    corner = (padded[0, :, 26:29, 26:29] * convolution.weight[5]).sum() + convolution.bias[5]
    torch.testing.assert_close(found[0, 5, 13, 13], corner)


def test_the_published_networks_start_at_the_published_weights() -> None:
    made = make_published()
    for network in made.learned:
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                assert (module.weight == 1).all() and (module.eps, module.momentum) == (1e-3, 0.01)
            elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module.weight.numel() > 10_000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
                assert module.bias is not None and not module.bias.any()


def test_a_batch_of_one_is_normalised_as_in_tensorflow() -> None:
    """Its mean is itself and its variance 0: the bias is left."""
    layer = BatchNorm1d(3, EPSILON, MOMENTUM)
    nn.init.constant_(layer.bias, 0.25)
    x = torch.tensor([[1.0, 2.0, 3.0]])
    assert layer(x).tolist() == [[0.25] * 3]
    assert layer.running_mean is not None and layer.running_var is not None
    torch.testing.assert_close(layer.running_mean, 0.01 * x[0])
    torch.testing.assert_close(layer.running_var, torch.full((3,), 0.99))


@pytest.mark.parametrize("size", [16, 32, 64])
def test_other_sizes_are_refused_with_one_reason(size: int) -> None:
    raw = {"storage": "x", "data": {"size": size}, "sweep": {"studies": [
        {"name": n, "kind": "error_bars", "datasets": ["mnist"], "detectors": ["egbad"], "variants": ["repo"]}
        for n in ("one", "two")
    ]}}  # fmt: skip
    with pytest.raises(UserError) as caught:
        resolve(raw)
    assert caught.value.problems == [
        f"egbad repo has the published networks, which are for 28 x 28 images alone, not {size} x {size}: set "
        "data.size=28, or use the variant dcgan"
    ]
    assert resolve({**raw, "data": {"size": 28}}).preparation("mnist") == "s28-bilinear-1"


def test_results_of_the_variant_that_was_called_repo_stay_valid() -> None:
    """`dcgan` is stored under its old name, so its keys are those of before; today's `repo` has keys of its own."""
    work = work_of(detectors=["egbad"], variants=["dcgan"], seeds=1)
    spec = work.fixed[0].spec
    assert (spec.variant, spec.to_dict()["variant"]) == ("dcgan", "repo")
    assert TrialSpec.from_dict(spec.to_dict()) == spec and spec.key == "7a3cadc7beed18b20293"
    published = dataclasses.replace(spec, variant="repo")
    assert published.to_dict()["variant"] == "published" and TrialSpec.from_dict(published.to_dict()) == published


def test_a_recorded_launch_of_the_old_repo_is_read_as_dcgan() -> None:
    study = {"name": "one", "kind": "error_bars", "datasets": ["digits"], "detectors": ["egbad"]}
    sweep = resolve({"storage": "x", "sweep": {"studies": [{**study, "variants": ["dcgan"]}]}})
    old = sweep.model_dump(mode="json")
    old["studies"][0]["variants"] = ["repo"]
    assert load_recorded(old, "x") == sweep
    new = resolve({"storage": "x", "data": {"size": 28}, "sweep": {"studies": [{**study, "variants": ["repo"]}]}})
    assert load_recorded(new.model_dump(mode="json"), "x") == new
