"""Every trained detector against a plain version of its published step: losses, weights, statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from models.build import build
from models.catalog import detector
from models.components import networks
from models.defaults import GANomalyHyperparameters, SkipGANomalyHyperparameters
from models.ganomaly import GANomaly
from models.skip_ganomaly import SkipGANomaly
from tests.support.published import PUBLISHED

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = [16, 32]
WEIGHTS = (2.0, 30.0, 3.0)
CHOSEN = {
    "ganomaly": {"w_adv": 2.0, "w_con": 30.0, "w_enc": 3.0},
    "skip_ganomaly": {"w_adv": 2.0, "w_con": 30.0, "w_lat": 3.0},
    "egbad": {"lr": 1e-3},  # the published 1e-5 changes almost nothing in four steps
}


def batches(size: int, count: int = 4) -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.rand(8, 1, size, size) * 2 - 1 for _ in range(count)]


def make(
    kind: str, size: int, variant: str = "repo_head", dataset: str = "", **hyperparameters: float
) -> GANomaly | SkipGANomaly:
    torch.manual_seed(0)
    adv, con, last = WEIGHTS
    chosen = {"w_adv": adv, "w_con": con, "width": 4, "nz": 6, **hyperparameters}
    if kind == "ganomaly":
        values = GANomalyHyperparameters(**{"w_enc": last, **chosen})  # type: ignore[arg-type]  # int or float
        return GANomaly(1, size, values, variant, dataset)
    skip_values = SkipGANomalyHyperparameters(**{"w_lat": last, **chosen})  # type: ignore[arg-type]  # int or float
    return SkipGANomaly(1, size, skip_values, variant, dataset)


def largest_difference(ours: nn.Module, other: nn.Module) -> float:
    pairs = zip(ours.state_dict().values(), other.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PUBLISHED)
def test_losses_weights_and_statistics_are_those_of_the_published_step(name: str, size: int) -> None:
    torch.manual_seed(0)
    chosen = {"width": 4, "nz": 6, **CHOSEN.get(name, {})}
    made = build(name, channels=1, size=size, hyperparameters=chosen, variant=detector(name).default_variant)
    plain = PUBLISHED[name](made, ours=True)
    for number, x in enumerate(batches(size)):
        torch.manual_seed(number)
        expected = plain(x)
        torch.manual_seed(number)
        losses = made.train_step(x)
        for loss, value in expected.items():
            torch.testing.assert_close(losses[loss], value.detach(), rtol=2e-6, atol=1e-7)
    for part, network in plain.networks.items():
        assert largest_difference(made.get_submodule(part), network) < 1e-6, part
    assert made.counters().get("d_reinitialisations", 0) == 0


def test_ganomaly_differs_from_the_published_step_in_no_bit_of_a_weight() -> None:
    made = make("ganomaly", 32)
    plain = PUBLISHED["ganomaly"](made, ours=True)
    for x in batches(32):
        plain(x)
        made.train_step(x)
    for network, other in ((made.generator, plain.g), (made.discriminator, plain.d)):
        for weight, published in zip(network.parameters(), other.parameters(), strict=True):
            assert torch.equal(weight, published)


class RecursiveUNet(nn.Module):
    """U-Net as nested blocks with in-place activations, for comparison with `networks.UNet`."""

    def __init__(self, unet: networks.UNet, level: int) -> None:
        super().__init__()
        self.level = level
        self.conv, self.up = unet.down[level], unet.up[level]
        self.inner = RecursiveUNet(unet, level + 1) if level + 1 < len(unet.down) else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(nn.LeakyReLU(0.2, True)(x))
        y = y if self.inner is None else self.inner(y)
        return torch.cat([x, self.up(nn.ReLU(True)(y))], 1)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_the_unet_is_the_recursive_one_with_its_activations_in_place(size: int) -> None:
    torch.manual_seed(0)
    unet = networks.UNet(size, 3, 4).apply(networks.initialise)
    x = torch.rand(2, 3, size, size)
    expected = torch.tanh(unet.last(nn.ReLU(True)(RecursiveUNet(unet, 0)(unet.first(x)))))
    assert torch.equal(unet(x), expected)


@pytest.mark.parametrize("kind", ["ganomaly", "skip_ganomaly"])
def test_initial_weights_are_drawn_as_published(kind: str) -> None:
    for module in make(kind, 32, width=16).requires_grad_(False).modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            mean = 1 if isinstance(module, nn.BatchNorm2d) else 0
            error = 5 * 0.02 / module.weight.numel() ** 0.5
            assert abs(float(module.weight.mean()) - mean) < error
            assert abs(float(module.weight.std()) - 0.02) < error
            assert module.bias is None or not module.bias.any()


@pytest.mark.parametrize("kind", ["ganomaly", "skip_ganomaly"])
def test_a_collapsed_discriminator_gets_new_weights_and_keeps_the_rest(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, renewed = make(kind, 16), make(kind, 16)
    x = batches(16)[0]
    kept.train_step(x)
    monkeypatch.setattr(networks, "COLLAPSED", 1e9)
    torch.manual_seed(11)
    renewed.train_step(x)
    assert renewed.counters() == {"d_reinitialisations": 1} and kept.counters() == {"d_reinitialisations": 0}

    torch.manual_seed(11)
    expected = copy.deepcopy(kept.discriminator).apply(networks.initialise)  # does not change the statistics
    assert largest_difference(renewed.discriminator, expected) == 0
    assert largest_difference(renewed.generator, kept.generator) == 0
    moments = [[first for _, first, _ in made.optimiser_d.moments.values()] for made in (kept, renewed)]
    assert moments[0] and all(torch.equal(a, b) for a, b in zip(*moments, strict=True))


@pytest.mark.parametrize("kind", ["ganomaly", "skip_ganomaly"])
def test_a_working_discriminator_costs_no_random_number(kind: str) -> None:
    made = make(kind, 16)
    x = batches(16)[0]
    before = torch.get_rng_state()
    made.train_step(x)
    assert torch.equal(torch.get_rng_state(), before)


def test_reinitialising_without_looking_gives_the_same_weights_or_none() -> None:
    torch.manual_seed(0)
    network = networks.encoder(16, 1, 4, 6).apply(networks.initialise)
    looked, unlooked, left = (copy.deepcopy(network) for _ in range(3))
    torch.manual_seed(5)
    networks.reinitialise_if(looked, torch.tensor(True))
    torch.manual_seed(5)
    networks.reinitialise_where(unlooked, torch.tensor(True))
    networks.reinitialise_where(left, torch.tensor(False))
    assert (
        largest_difference(looked, unlooked) == 0
        and largest_difference(network, left) == 0
        and largest_difference(network, looked) > 0
    )


@pytest.mark.parametrize(
    ("kind", "size", "channels", "g", "d"),
    [
        ("ganomaly", 32, 1, 3_200_384, 661_248),
        ("ganomaly", 32, 3, 3_206_528, 663_296),
        ("ganomaly", 64, 3, 10_729_856, 2_765_568),
        ("skip_ganomaly", 32, 1, 16_652_929, 1_067_652),
        ("skip_ganomaly", 32, 3, 16_659_075, 1_069_700),
        ("skip_ganomaly", 64, 3, 29_244_035, 3_577_476),
    ],
)
def test_parameter_counts_are_the_published_ones(kind: str, size: int, channels: int, g: int, d: int) -> None:
    with torch.device("meta"):
        made: GANomaly | SkipGANomaly
        if kind == "ganomaly":
            made = GANomaly(channels, size, GANomalyHyperparameters())
        else:
            made = SkipGANomaly(channels, size, SkipGANomalyHyperparameters())
    assert sum(p.numel() for p in made.generator.parameters()) == g
    assert sum(p.numel() for p in made.discriminator.parameters()) == d


@pytest.mark.parametrize("size", [16, 64, 128])
@pytest.mark.parametrize("kind", ["ganomaly", "skip_ganomaly"])
def test_every_size_maps_images_to_images_and_to_one_score_each(kind: str, size: int) -> None:
    made = make(kind, size, width=2, nz=3)
    for part in made.score(torch.zeros(2, 1, size, size)).values():
        assert part.shape == (2,)


def test_mnist_keeps_its_published_scaling_under_ganomaly_alone() -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 1, 16, 8)
    published = GANomaly(1, 16, GANomalyHyperparameters(width=2), dataset="mnist").normalise(pixels)
    torch.testing.assert_close(published[0, 0, 0, :2], torch.tensor([-0.4242129, 2.8214867]))
    for made in (
        GANomaly(1, 16, GANomalyHyperparameters(width=2), dataset="digits"),
        SkipGANomaly(1, 16, SkipGANomalyHyperparameters(width=2), dataset="mnist"),
    ):
        assert made.normalise(pixels)[0, 0, 0, :2].tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_cross_entropy_is_torchs_own_even_where_the_logarithm_is_cut(target: float) -> None:
    p = torch.tensor([0.0, 1e-30, 0.3, 1.0], requires_grad=True)
    ours, own = networks.binary_cross_entropy(p, target), nn.BCELoss()(p, torch.full_like(p, target))
    assert torch.equal(ours, own)
    assert torch.equal(*(torch.autograd.grad(loss, p)[0] for loss in (ours, own)))
