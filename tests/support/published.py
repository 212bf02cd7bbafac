"""Training steps of the detectors' published code, as plain eager torch without any optimisation.

Every forward pass of the published code is made, including the second ones through the discriminator, and
`loss.backward()` computes gradients of networks that do not step then.  Tests compare the results of the steps in
`models` with these, and benchmarks compare their speed.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from models.anogan import AnoGAN
from models.autoencoder import Autoencoder
from models.components import networks
from models.components.convolution import Conv2d, ConvTranspose2d
from models.detector import Detector
from models.egbad import EGBAD
from models.ganomaly import GANomaly
from models.skip_ganomaly import SkipGANomaly

Losses = dict[str, Tensor]


class PublishedStep:
    """Training steps on copies of a detector's networks.

    Args:
        made: detector whose weights and hyperparameters are used; it does not change.
        ours: True to use the kernels that `models` uses, so that bits can be compared: torch's fused Adam and
            `models.components.convolution`.  False for torch's defaults.

    Attributes:
        networks: trained networks, by their names in the detector.
    """

    def __init__(self, made: Detector, *names: str, ours: bool = False) -> None:
        self.h = made.hyperparameters
        self.ours = ours
        self.networks = {name: self.copy(made.get_submodule(name)) for name in names}
        self.bce, self.l1 = nn.BCELoss(), nn.L1Loss()

    def __call__(self, x: Tensor) -> Losses:
        """Make one step on normalised images [B, C, S, S]; return losses with the names that `train_step` uses."""
        raise NotImplementedError

    def copy(self, network: nn.Module) -> nn.Module:
        copied = copy.deepcopy(network).train()
        for module in () if self.ours else copied.modules():
            if isinstance(module, Conv2d | ConvTranspose2d):
                object.__setattr__(module, "__class__", type(module).__base__)
        return copied

    def adam(self, network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(
            network.parameters(), lr=self.h.lr, betas=(self.h.beta1, 0.999), fused=self.ours or None
        )


class Adversarial(PublishedStep):
    """Parts that these GANs share: generator, discriminator, an optimiser for each, labels."""

    def __init__(self, made: GANomaly | SkipGANomaly | AnoGAN, *, ours: bool = False) -> None:
        super().__init__(made, "generator", "discriminator", ours=ours)
        self.g, self.d = self.networks.values()
        self.opt_g, self.opt_d = self.adam(self.g), self.adam(self.d)

    def labels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.new_ones(len(x)), x.new_zeros(len(x))

    def reinitialise(self, loss_d: Tensor) -> None:
        if loss_d.item() < networks.COLLAPSED:
            self.d.apply(networks.initialise)


class PublishedGANomaly(Adversarial):
    """Step of github.com/samet-akcay/ganomaly, `Ganomaly.optimize_params`, since 2019-10-09."""

    def __call__(self, x: Tensor) -> Losses:
        real, fake = self.labels(x)
        x_hat, z, z_hat = self.g(x)
        p_real, _ = self.d(x)
        p_fake, _ = self.d(x_hat.detach())
        self.opt_g.zero_grad()
        adv = (self.d(x)[1] - self.d(x_hat)[1]).pow(2).mean()
        con = self.l1(x_hat, x)
        enc = (z_hat - z).pow(2).mean()
        loss_g = adv * self.h.w_adv + con * self.h.w_con + enc * self.h.w_enc
        torch.autograd.backward(loss_g, retain_graph=True)
        self.opt_g.step()
        self.opt_d.zero_grad()
        loss_d = (self.bce(p_real, real) + self.bce(p_fake, fake)) * 0.5
        torch.autograd.backward(loss_d)
        self.opt_d.step()
        self.reinitialise(loss_d)
        return {"g": loss_g, "g_adv": adv, "g_con": con, "g_enc": enc, "d": loss_d}


class PublishedSkipGANomaly(Adversarial):
    """Step of github.com/samet-akcay/skip-ganomaly, `Skipganomaly.optimize_params`, since 2019-12-25.

    PyTorch 1.5 and later refuse its order, G's step before D's gradient through G's old graph.  So G's
    gradients are stored here until D's are computed.
    """

    def __call__(self, x: Tensor) -> Losses:
        real, fake = self.labels(x)
        x_hat = self.g(x)
        p_real, f_real = self.d(x)
        p_fake, f_fake = self.d(x_hat)
        self.opt_g.zero_grad()
        adv, con = self.bce(p_fake, real), self.l1(x_hat, x)
        lat = (f_fake - f_real).pow(2).mean()
        loss_g = adv * self.h.w_adv + con * self.h.w_con + lat * self.h.w_lat
        torch.autograd.backward(loss_g, retain_graph=True)
        aside = [parameter.grad for parameter in self.g.parameters()]
        self.opt_g.zero_grad()
        self.opt_d.zero_grad()
        p_fake_again, _ = self.d(x_hat.detach())
        loss_d = self.bce(p_real, real) + self.bce(p_fake_again, fake) + lat * self.h.w_lat
        torch.autograd.backward(loss_d, retain_graph=True)
        for parameter, gradient in zip(self.g.parameters(), aside, strict=True):
            parameter.grad = gradient
        self.opt_g.step()
        self.opt_d.step()
        self.reinitialise(loss_d)
        return {"g": loss_g, "g_adv": adv, "g_con": con, "g_lat": lat, "d": loss_d}


class PlainAutoencoder(PublishedStep):
    """Plain step that was never published in this form: encoder, decoder, L1 loss, Adam."""

    def __init__(self, made: Autoencoder, *, ours: bool = False) -> None:
        super().__init__(made, "network", ours=ours)
        self.network = self.networks["network"]
        self.optimiser = self.adam(self.network)

    def __call__(self, x: Tensor) -> Losses:
        self.optimiser.zero_grad()
        con = self.l1(self.network(x), x)
        torch.autograd.backward(con)
        self.optimiser.step()
        return {"con": con}


class PlainAnoGAN(Adversarial):
    """Plain step that was never published in this form: DCGAN's step with all gradients and all passes."""

    def __init__(self, made: AnoGAN, *, ours: bool = False) -> None:
        super().__init__(made, ours=ours)
        self.nz = made.nz

    def __call__(self, x: Tensor) -> Losses:
        real, generated = self.labels(x)
        fake = self.g(torch.randn(len(x), self.nz, 1, 1, device=x.device))
        self.opt_d.zero_grad()
        d_real = self.bce(self.d(x)[0], real)
        d_fake = self.bce(self.d(fake.detach())[0], generated)
        torch.autograd.backward(d_real + d_fake)
        self.opt_d.step()
        self.opt_g.zero_grad()
        g = self.bce(self.d(fake)[0], real)
        torch.autograd.backward(g)
        self.opt_g.step()
        return {"g": g, "d": d_real + d_fake, "d_real": d_real}


class PublishedEGBAD(PublishedStep):
    """Published losses and order of EGBAD on our networks: D's step, then G's and E's, then the averages."""

    def __init__(self, made: EGBAD, *, ours: bool = False) -> None:
        super().__init__(made, "encoder", "generator", "discriminator", ours=ours)
        self.nz = made.nz
        self.e, self.g, self.d = self.networks.values()
        self.opt_e, self.opt_g, self.opt_d = (self.adam(network) for network in self.networks.values())
        self.averages = [[p.detach().clone() for p in network.parameters()] for network in self.networks.values()]

    def __call__(self, x: Tensor) -> Losses:
        bce, ones, zeros = nn.BCEWithLogitsLoss(), x.new_ones(len(x)), x.new_zeros(len(x))
        z = torch.randn(len(x), self.nz, 1, 1, device=x.device)
        z_gen, x_gen = self.e(x), self.g(z)
        d_enc = bce(self.d(x, z_gen), ones)
        d_gen = bce(self.d(x_gen, z), zeros)
        self.opt_d.zero_grad()
        torch.autograd.backward(d_enc + d_gen, retain_graph=True)
        self.opt_d.step()
        g = bce(self.d(x_gen, z), ones)
        e = bce(self.d(x, z_gen), zeros)
        for loss, optimiser in ((g, self.opt_g), (e, self.opt_e)):
            optimiser.zero_grad()
            torch.autograd.backward(loss, retain_graph=True)
        self.opt_g.step()
        self.opt_e.step()
        for network, averages in zip(self.networks.values(), self.averages, strict=True):
            for average, weight in zip(averages, network.parameters(), strict=True):
                average.mul_(0.999).add_(weight.detach(), alpha=0.001)
        return {"g": g, "e": e, "d": d_enc + d_gen, "d_real": d_enc}


PUBLISHED: dict[str, Any] = {
    "ganomaly": PublishedGANomaly,
    "skip_ganomaly": PublishedSkipGANomaly,
    "anogan": PlainAnoGAN,
    "egbad": PublishedEGBAD,
    "autoencoder": PlainAutoencoder,
}
