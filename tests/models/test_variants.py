"""The variants `paper` and `repo_2018` of two GANs, each against a plain version of its source's training step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from models.catalog import DETECTORS
from models.components import networks
from models.components.adam import linear_decay
from models.ganomaly import RENDERINGS as GANOMALY
from models.ganomaly import GANomaly
from models.skip_ganomaly import RENDERINGS as SKIP_GANOMALY
from models.skip_ganomaly import SkipGANomaly
from tests.models.test_published import WEIGHTS, batches, largest_difference, make
from tests.support.published import Adversarial, Losses

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = ["ganomaly", "skip_ganomaly"]
TRAINED = ["repo_head", "repo_2018", "paper"]
OTHERS = [(kind, variant) for kind in KINDS for variant in ("repo_2018", "paper")]


class SourceStep(Adversarial):
    """Steps of the variants as in their sources: D's whole step, then G's, with one pass for each use."""

    def update(self, optimiser: torch.optim.Optimizer, *losses: Tensor) -> None:
        optimiser.zero_grad()
        for loss in losses:
            torch.autograd.backward(loss, retain_graph=True)
        optimiser.step()

    def ganomaly_repo_2018(self, x: Tensor) -> Losses:
        ones, zeros = torch.ones(len(x)), torch.zeros(len(x))
        d_real = self.bce(self.d(x)[0], ones)
        x_hat, z, z_hat = self.g(x)
        d_fake = self.bce(self.d(x_hat.detach())[0], zeros)
        self.update(self.opt_d, d_real, d_fake)
        adv = self.bce(self.d(x_hat)[0], ones)
        con, enc = nn.L1Loss()(x_hat, x), nn.MSELoss()(z_hat, z)
        loss_g = adv * WEIGHTS[0] + con * WEIGHTS[1] + enc * WEIGHTS[2]
        self.update(self.opt_g, loss_g)
        return {"g": loss_g, "g_adv": adv, "g_con": con, "g_enc": enc, "d": d_real + d_fake, "d_fake": d_fake}

    def ganomaly_paper(self, x: Tensor) -> Losses:
        ones, zeros = torch.ones(len(x)), torch.zeros(len(x))
        x_hat, z, z_hat = self.g(x)
        loss_d = self.bce(self.d(x)[0], ones) + self.bce(self.d(x_hat.detach())[0], zeros)
        self.update(self.opt_d, loss_d)
        f, f_hat = self.d(x)[1], self.d(x_hat)[1]
        adv = (f.mean(0) - f_hat.mean(0)).pow(2).sum().sqrt()
        con, enc = (x - x_hat).abs().mean(), (z - z_hat).abs().mean()
        loss_g = adv * WEIGHTS[0] + con * WEIGHTS[1] + enc * WEIGHTS[2]
        self.update(self.opt_g, loss_g)
        return {"g": loss_g, "g_adv": adv, "g_con": con, "g_enc": enc, "d": loss_d}

    def skip_ganomaly_repo_2018(self, x: Tensor) -> Losses:
        ones, zeros = torch.ones(len(x)), torch.zeros(len(x))
        noise = torch.empty_like(x).normal_(0, 0.2)
        p_real, f_real = self.d(x + noise)
        x_hat = self.g(x + noise)
        p_fake, f_fake = self.d(x_hat.detach())
        lat = nn.MSELoss()(f_fake, f_real)
        self.update(self.opt_d, lat * WEIGHTS[2])
        adv, con = self.bce(self.d(x_hat)[0], ones), nn.L1Loss()(x_hat, x)
        loss_g = adv * WEIGHTS[0] + con * WEIGHTS[1] + lat.detach() * WEIGHTS[2]
        self.update(self.opt_g, loss_g)
        d_real, d_fake = self.bce(p_real, ones), self.bce(p_fake, zeros)
        d = lat * WEIGHTS[2]
        return {"g": loss_g, "g_adv": adv, "g_con": con, "g_lat": lat, "d": d, "d_real": d_real, "d_fake": d_fake}

    def skip_ganomaly_paper(self, x: Tensor) -> Losses:
        x_hat = self.g(x)
        minus_adv = -self.d(x)[0].log().mean() - (1 - self.d(x_hat.detach())[0]).log().mean()
        self.update(self.opt_d, minus_adv)
        f = self.d(x)[1]
        p_fake, f_hat = self.d(x_hat)
        adv, con = (1 - p_fake).log().mean(), (x - x_hat).abs().mean()
        lat = (f - f_hat).flatten(1).pow(2).sum(1).sqrt().mean()
        loss_g = adv * WEIGHTS[0] + con * WEIGHTS[1] + lat * WEIGHTS[2]
        self.update(self.opt_g, loss_g)
        return {"g": loss_g, "g_adv": adv, "g_con": con, "g_lat": lat, "d": minus_adv}


def learns(network: nn.Module) -> bool:
    """Return True if any weight has a gradient that is not zero."""
    return any(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


def discriminator_grads(made: GANomaly | SkipGANomaly) -> list[Tensor]:
    made.train_step(batches(16)[0])
    return [parameter.grad for parameter in made.discriminator.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize(("kind", "variant"), OTHERS)
def test_losses_weights_and_statistics_are_those_of_the_source(kind: str, variant: str, size: int) -> None:
    made = make(kind, size, variant)
    plain = SourceStep(made, ours=True)
    for seed, x in enumerate(batches(size)):
        torch.manual_seed(seed)
        expected: Losses = getattr(plain, f"{kind}_{variant}")(x)
        torch.manual_seed(seed)
        losses = made.train_step(x)
        for name, loss in expected.items():
            torch.testing.assert_close(losses[name], loss.detach(), rtol=2e-6, atol=1e-6)
    assert largest_difference(made.generator, plain.g) < 1e-6
    assert largest_difference(made.discriminator, plain.d) < 1e-6
    assert int(made.d_reinitialisations) == 0


def test_every_variant_of_the_catalog_has_its_rendering_and_no_other() -> None:
    assert GANOMALY.keys() == DETECTORS["ganomaly"].variants.keys()
    assert SKIP_GANOMALY.keys() == DETECTORS["skip_ganomaly"].variants.keys()


# -- losses that each network learns from --------------------------------------------------------


@pytest.mark.parametrize("variant", TRAINED)
@pytest.mark.parametrize(
    ("loss", "learners"),
    [
        ("w_adv", {"encoder1", "decoder"}),
        ("w_con", {"encoder1", "decoder"}),
        ("w_enc", {"encoder1", "decoder", "encoder2"}),
        ("none", set()),
    ],
)
def test_ganomaly_networks_learn_from_their_own_losses_alone(variant: str, loss: str, learners: set[str]) -> None:
    weights = {name: float(name == loss) for name in ("w_adv", "w_con", "w_enc")}
    made = make("ganomaly", 16, variant, "", **weights)
    made.train_step(batches(16)[0])
    parts = dict(made.generator.named_children())
    assert {name for name, part in parts.items() if learns(part)} == learners
    assert learns(made.discriminator)


@pytest.mark.parametrize("variant", TRAINED)
def test_ganomaly_first_encoder_learns_from_its_own_code_too(variant: str) -> None:
    made = make("ganomaly", 16, variant, w_adv=0.0, w_con=0.0, w_enc=1.0)
    assert isinstance(made, GANomaly)
    encoder1 = list(made.generator.encoder1.parameters())
    x = batches(16)[0]
    _, z, z_fake = copy.deepcopy(made.generator).train()(x)
    _, held, again = made.generator(x)
    distance = made.rendering.code_distance
    through_the_image_alone = torch.autograd.grad(distance(again - held.detach()).mean(), encoder1)
    losses = made.train_step(x)
    torch.testing.assert_close(losses["g_enc"], distance(z_fake - z).mean().detach())
    grads = [parameter.grad for parameter in encoder1 if parameter.grad is not None]
    assert not any(torch.allclose(a, b) for a, b in zip(grads, through_the_image_alone, strict=True))


@pytest.mark.parametrize("variant", TRAINED)
def test_ganomaly_discriminator_learns_from_cross_entropy_alone(variant: str) -> None:
    grads = [discriminator_grads(make("ganomaly", 16, variant, w_adv=w, w_con=0.0)) for w in (0.0, 50.0)]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize(
    ("variant", "losses"),
    [
        ("repo_head", {"w_adv", "w_con", "w_lat"}),
        ("repo_2018", {"w_adv", "w_con"}),
        ("paper", {"w_adv", "w_con", "w_lat"}),
    ],
)
def test_skip_ganomaly_generator_learns_from_the_losses_of_its_variant(variant: str, losses: set[str]) -> None:
    found = set()
    names = ("w_adv", "w_con", "w_lat")
    for loss in names:
        made = make("skip_ganomaly", 16, variant, "", **{name: float(name == loss) for name in names})
        made.train_step(batches(16)[0])
        if learns(made.generator):
            found.add(loss)
    assert found == losses


@pytest.mark.parametrize(
    ("variant", "features_move", "classifier_learns"),
    [("repo_head", True, True), ("repo_2018", True, False), ("paper", False, True)],
)
def test_skip_ganomaly_discriminator_learns_from_the_losses_of_its_variant(
    variant: str, features_move: bool, classifier_learns: bool
) -> None:
    found = []
    for lat, adv in ((1.0, 1.0), (9.0, 1.0), (1.0, 50.0)):
        torch.manual_seed(5)
        made = make("skip_ganomaly", 16, variant, w_lat=lat, w_adv=adv)
        made.train_step(batches(16)[0])
        found.append([parameter.grad for parameter in made.discriminator.features.parameters()])
        assert learns(made.discriminator.classifier) == classifier_learns
    without, latent, adversarial = ([grad for grad in grads if grad is not None] for grads in found)
    assert without
    assert all(torch.equal(a, b) for a, b in zip(without, adversarial, strict=True))
    assert features_move != all(torch.equal(a, b) for a, b in zip(without, latent, strict=True))


# -- new weights for a collapsed discriminator --------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("variant", "below", "renewed"),
    [
        ("repo_head", 1e9, 1),
        ("repo_2018", 1e9, 1),
        ("paper", 1e9, 0),
        ("repo_2018", 0.75, 1),  # each cross-entropy starts below it, but their sum above it
        ("repo_2018", 1e-5, 0),
    ],
)
def test_each_variant_renews_its_discriminator_by_its_own_rule(
    kind: str, variant: str, below: float, renewed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "COLLAPSED", below)
    made = make(kind, 16, variant)
    made.train_step(batches(16)[0])
    assert made.counters() == {"d_reinitialisations": renewed}


@pytest.mark.parametrize(
    ("losses", "collapsed"),
    [([9e-6], True), ([1.0], False), ([1.0, 9e-6], True), ([9e-6, 1.0], True), ([1.0, 2.0], False)],
)
def test_one_loss_below_the_bound_is_enough_and_nan_is_none(losses: list[float], collapsed: bool) -> None:
    torch.manual_seed(0)
    network = networks.encoder(16, 1, 4, 6)
    before = copy.deepcopy(network)
    found = networks.reinitialise_collapsed(network, [torch.tensor(loss) for loss in losses])
    assert bool(found) == collapsed == (largest_difference(network, before) > 0)
    assert not networks.reinitialise_collapsed(network, [torch.tensor(float("nan"))] * 2)


# -- learning rate ------------------------------------------------------------------------------


def test_the_learning_rate_is_constant_for_half_of_the_epochs_and_then_falls_linearly_towards_zero() -> None:
    shares = [linear_decay(epoch, 15) for epoch in range(15)]
    assert shares == [1.0] * 8 + [7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]
    assert linear_decay(15, 15) == linear_decay(99, 15) == 0.0
    assert [linear_decay(epoch, 4) for epoch in range(4)] == pytest.approx([1, 1, 2 / 3, 1 / 3])
    assert linear_decay(0, 1) == 1.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", TRAINED)
def test_only_the_papers_learning_rate_changes_and_only_with_the_epoch(kind: str, variant: str) -> None:
    made = make(kind, 16, variant, epochs=4, lr=2e-3)
    for epoch in (0, 1, 2, 3, 3, 0):  # repeated as on a resume, and in any order
        made.begin_epoch(epoch)
        share = [1.0, 1.0, 2 / 3, 1 / 3][epoch] if variant == "paper" else 1.0
        assert made.optimiser_g.lr == made.optimiser_d.lr == pytest.approx(2e-3 * share)


@pytest.mark.parametrize("kind", KINDS)
def test_the_decayed_learning_rate_is_that_of_the_steps(kind: str) -> None:
    for epoch, lr in ((0, 2e-4), (3, 2e-4 / 3)):
        made = make(kind, 16, "paper", epochs=4)
        made.begin_epoch(epoch)
        before = [parameter.detach().clone() for parameter in made.parameters()]
        made.train_step(batches(16)[0])
        moved = [float((p.detach() - old).abs().max()) for p, old in zip(made.parameters(), before, strict=True)]
        assert max(moved) == pytest.approx(lr, rel=0.01)  # Adam's first step has this size for any gradient


# -- noise --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", TRAINED)
def test_noise_is_drawn_in_training_alone_and_by_one_variant_alone(kind: str, variant: str) -> None:
    made = make(kind, 16, variant)
    x = batches(16)[0]
    before = torch.get_rng_state()
    made.score(x)
    assert torch.equal(torch.get_rng_state(), before)
    made.train_step(x)
    noisy = (kind, variant) == ("skip_ganomaly", "repo_2018")
    assert torch.equal(torch.get_rng_state(), before) != noisy


def test_generator_and_discriminator_see_the_same_noisy_image_of_deviation_a_fifth() -> None:
    made = make("skip_ganomaly", 32, "repo_2018")
    seen: list[Tensor] = []
    made.generator.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    made.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    x = batches(32)[0]
    kept = x.clone()
    made.train_step(x)
    by_generator, by_discriminator = seen[0], seen[1]
    assert torch.equal(by_generator, by_discriminator) and torch.equal(x, kept)
    noise = by_generator - x
    assert abs(float(noise.mean())) < 0.01 and abs(float(noise.std()) - 0.2) < 0.01
    seen.clear()
    made.score(x)
    assert torch.equal(seen[0], x) and torch.equal(seen[1], x)


# -- images and scores --------------------------------------------------------------------------


@pytest.mark.parametrize(("variant", "ends"), [("repo_2018", [-0.4242129, 2.8214867]), ("paper", [-1.0, 1.0])])
def test_the_paper_scales_every_dataset_to_the_range_of_tanh(variant: str, ends: list[float]) -> None:
    pixels = torch.tensor([0, 255], dtype=torch.uint8).repeat(1, 1, 16, 8)
    for dataset, expected in (("mnist", ends), ("cifar10", [-1.0, 1.0])):
        scaled = make("ganomaly", 16, variant, dataset).normalise(pixels)
        torch.testing.assert_close(scaled[0, 0, 0, :2], torch.tensor(expected))
        assert make("skip_ganomaly", 16, variant, dataset).normalise(pixels)[0, 0, 0, :2].tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("variant", TRAINED)
def test_ganomaly_scores_codes_by_l1_in_the_paper_and_squared_in_the_code(variant: str) -> None:
    made = make("ganomaly", 16, variant).eval()
    assert isinstance(made, GANomaly)
    x = batches(16)[0]
    fake, z, z_fake = made.generator(x)
    parts = made.score(x)
    codes = (z - z_fake).abs() if variant == "paper" else (z - z_fake).pow(2)
    torch.testing.assert_close(parts["reconstruction"], (x - fake).abs().mean((1, 2, 3)))
    torch.testing.assert_close(parts["latent"], codes.mean((1, 2, 3)))


@pytest.mark.parametrize("variant", TRAINED)
def test_skip_ganomaly_scores_l1_and_norm_in_the_paper_and_squares_in_the_code(variant: str) -> None:
    made = make("skip_ganomaly", 16, variant).eval()
    assert isinstance(made, SkipGANomaly)
    x = batches(16)[0]
    fake = made.generator(x)
    difference = (made.discriminator(x)[1] - made.discriminator(fake)[1]).flatten(1)
    pixels = (x - fake).abs() if variant == "paper" else (x - fake).pow(2)
    features = difference.pow(2).sum(1).sqrt() if variant == "paper" else difference.pow(2).mean(1)
    parts = made.score(x)
    torch.testing.assert_close(parts["reconstruction"], pixels.mean((1, 2, 3)))
    torch.testing.assert_close(parts["latent"], features)
