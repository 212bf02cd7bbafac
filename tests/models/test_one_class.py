"""VAE and Deep SVDD against the formulas of their papers."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from models import deep_svdd, vae
from models.deep_svdd import DeepSVDD
from models.defaults import DeepSVDDHyperparameters, VAEHyperparameters
from models.vae import VAE

pytestmark = pytest.mark.usefixtures("one_thread")


def images(count: int, seed: int, channels: int = 1) -> Tensor:
    drawn = np.random.RandomState(seed).randint(0, 256, (count, channels, 16, 16))
    return torch.from_numpy(drawn.astype(np.uint8))


def make_vae(**hyperparameters: Any) -> VAE:
    torch.manual_seed(0)
    return VAE(1, 16, VAEHyperparameters(**{"width": 4, "nz": 6, **hyperparameters}))


def make_svdd(**hyperparameters: Any) -> DeepSVDD:
    torch.manual_seed(0)
    return DeepSVDD(1, 16, DeepSVDDHyperparameters(**{"width": 4, "nz": 6, **hyperparameters}))


@pytest.mark.parametrize(("module", "kind"), [(vae, VAE), (deep_svdd, DeepSVDD)], ids=["vae", "deep_svdd"])
def test_a_network_has_as_many_parameters_as_its_head_says(module: Any, kind: Any) -> None:
    stated = re.findall(r"(\d+)x\d+x(\d) ([\d,]+)", module.__doc__.replace("\n", " "))
    assert len(stated) == 3
    for size, channels, count in stated:
        with torch.device("meta"):
            made = kind(int(channels), int(size), kind.Hyperparameters())
        assert sum(parameter.numel() for parameter in made.parameters()) == int(count.replace(",", ""))


# -- VAE ------------------------------------------------------------------------------------------


def test_the_components_are_the_terms_of_the_negative_elbo_at_the_mean_code() -> None:
    made = make_vae(variance=0.3).eval()
    x = made.normalise(images(7, 1))
    with torch.no_grad():
        average, log_variance = made.encode(x)
        fake = made.decoder(average)
    posterior = Normal(average, (log_variance / 2).exp())
    parts = made.score(x)
    likelihood = functional.gaussian_nll_loss(fake, x, torch.full_like(x, 0.3), reduction="none").flatten(1).sum(1)
    torch.testing.assert_close(parts["reconstruction"], likelihood - 256 * math.log(0.3) / 2, rtol=1e-4, atol=1e-3)
    divergence = kl_divergence(posterior, Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(parts["latent"], divergence, rtol=1e-4, atol=1e-6)


def test_a_step_descends_the_sum_of_both_terms_with_one_sampled_code() -> None:
    made, twin = make_vae(), make_vae()
    x = made.normalise(images(8, 1))
    torch.manual_seed(3)
    losses = made.train_step(x)
    torch.manual_seed(3)
    twin.train()
    average, log_variance = twin.encode(x)
    z = average + (log_variance / 2).exp() * torch.randn_like(average)
    loss = twin.reconstruction_loss(x, twin.decoder(z)).mean() + twin.divergence(average, log_variance).mean()
    assert torch.equal(losses["elbo"], loss.detach())
    torch.testing.assert_close(losses["elbo"], losses["reconstruction"] + losses["kl"])
    torch.autograd.backward(loss)
    for ours, plain in zip(made.parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None and plain.grad is not None
        torch.testing.assert_close(ours.grad, plain.grad)


def test_a_vae_learns_to_give_each_image_a_higher_elbo_than_its_mirror_image() -> None:
    made = make_vae(lr=2e-3)
    halves = torch.zeros(32, 1, 16, 16, dtype=torch.uint8)
    halves[..., :8] = torch.linspace(120, 255, 32).to(torch.uint8)[:, None, None, None]
    x = made.normalise(halves)
    for _ in range(80):
        made.train_step(x)
    normal, abnormal = (sum(made.score(batch).values()) for batch in (x, made.normalise(halves.flip(3))))
    assert torch.less(torch.as_tensor(normal), torch.as_tensor(abnormal)).all()


# -- Deep SVDD ------------------------------------------------------------------------------------


def test_no_layer_has_a_bias_and_no_activation_is_bounded() -> None:
    made = make_svdd()
    assert all(name.endswith("weight") for name, _ in made.named_parameters())
    kinds = {type(module) for module in made.network.modules()} - {nn.Sequential}
    assert kinds == {nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU, nn.MaxPool2d, nn.Flatten, nn.Linear}


def test_the_centre_is_the_first_mean_output_away_from_zero_and_stays() -> None:
    made, twin = make_svdd(), make_svdd()
    x = made.normalise(images(8, 1))
    made.train_step(x)
    twin.train()
    average = twin.represent(x).mean(0).detach()
    expected = torch.where(average.abs() < 0.1, torch.where(average < 0, -0.1, 0.1), average)
    torch.testing.assert_close(made.centre, expected)
    before = made.centre.clone()
    made.train_step(made.normalise(images(8, 2)))
    assert torch.equal(made.centre, before) and int(made.steps) == 2


def test_the_loss_is_the_mean_squared_distance_and_the_gradient_has_the_decay() -> None:
    made, twin = make_svdd(decay=0.5), make_svdd(decay=0.5)
    x = made.normalise(images(8, 1))
    (distance,) = made.train_step(x).values()
    twin.train()
    expected = (twin.represent(x) - made.centre).square().sum(1).mean()
    assert torch.equal(distance, expected.detach())
    torch.autograd.backward(expected)
    for ours, plain in zip(made.parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None and plain.grad is not None
        torch.testing.assert_close(ours.grad, plain.grad + 0.5 * plain.detach())


def test_contrast_is_normalised_for_each_image() -> None:
    made = make_svdd().eval()
    x = made.normalise(images(4, 1))
    with torch.no_grad():
        torch.testing.assert_close(made.represent(x), made.represent(0.3 * x + 0.2), rtol=1e-4, atol=1e-5)


def test_the_learning_rate_falls_to_a_tenth_after_a_third_of_the_epochs() -> None:
    made = make_svdd(epochs=150, lr=1e-4)
    rates = []
    for epoch in (0, 49, 50, 149, 0):
        made.begin_epoch(epoch)
        rates.append(made.optimiser.lr)
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-4])


def test_training_brings_normal_images_nearer_to_the_centre_than_others() -> None:
    made = make_svdd(lr=1e-3)
    halves = torch.zeros(32, 1, 16, 16, dtype=torch.uint8)
    halves[..., :8] = torch.linspace(120, 255, 32).to(torch.uint8)[:, None, None, None]
    noisy = (halves.int() + images(32, 5).int() // 8).clamp(max=255).to(torch.uint8)
    x = made.normalise(noisy)
    for _ in range(60):
        made.train_step(x)
    assert made.score(x)["score"].median() < made.score(made.normalise(noisy.flip(3)))["score"].median()
