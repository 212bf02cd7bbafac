"""AnoGAN: unsupervised anomaly detection with generative adversarial networks to guide marker discovery.

Paper: Schlegl, Seeböck, Waldstein, Schmidt-Erfurth, Langs, IPMI 2017 (arXiv:1703.05921).  A DCGAN learns to generate
normal images.  To score an image x, AnoGAN searches the latent code z whose G(z) is nearest to x.  The remaining
difference of the two, in pixels and in the discriminator's features f, is the anomaly score.

There is no official code (github.com/tSchlegl/f-AnoGAN is the successor), and public implementations differ:

                      here, `dcgan`         LeeDoYup/AnoGAN         EGBAD's authors, `gan`
    networks          GANomaly's blocks     DCGAN of 5x5 kernels    28x28 only, fully connected layers
    D, G steps        1, 1 (same fakes)     1, 2                    1, 1 (each on its own batch)
    Adam, batch       2e-4, 0.5; 64         2e-4, 0.5; 64           1e-5, 0.5; 100
    epochs            15                    25                      the user's
    z, nz             N(0, I), 100          U(-1, 1), 100           N(0, I), 200
    search            500 steps             100 steps               500 steps
    its Adam          0.01 to 0.0005, 0.9   0.001, 0.5              0.01 to 0.0005, 0.9
    its start         N(0, I)               U(-1, 1)                truncated normal
    its BatchNorm     running statistics    D: of the one image     running statistics
    its weights       the last              the last                G: averages over steps, D: the last

`dcgan` is the paper's method: G is GANomaly's decoder, D is GANomaly's discriminator, and f is D's last map before the
classifier.  It trains for 15 epochs instead of the paper's 20, as the detectors with which it is compared.  G(z) is
computed once and used in D's step and in G's.  G's step passes it through D again, because D has changed in between.
Real and generated images are separate batches, because BatchNorm would otherwise mix their statistics.

The search runs over all images of a batch at once.  Every image starts at the same codes, which are drawn from a fixed
seed.  The loss of an image is a separate term of the sum, and Adam treats every number separately.  So a score depends
neither on the other images of the batch nor on torch's random state, up to rounding.  Gradients are computed for z
alone.

Parameters at nz 100, width 64: 32x32x1 G 1,066,880 D 661,248; 32x32x3 G 1,068,928 D 663,296;
64x64x3 G 3,576,704 D 2,765,568.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.components import networks
from models.components.adam import Adam
from models.components.networks import binary_cross_entropy, decoder, encoder
from models.defaults import AnoGANHyperparameters
from models.detector import Detector

LAMBDA = 0.1  # the paper's value: share of the discrimination loss in the loss that the search minimises
START_SEED = 0  # seed of the codes at which searches start


class AnoGAN(Detector):
    """AnoGAN with the variants `dcgan` and `untrained`."""

    Hyperparameters = AnoGANHyperparameters

    def __init__(
        self,
        channels: int,
        size: int,
        hyperparameters: AnoGANHyperparameters,
        variant: str = "dcgan",
        dataset: str = "",
    ) -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        h = hyperparameters
        self.nz, self.steps, self.restarts = h.nz, h.steps, h.restarts
        self.score_batch = max(1, min(256, 256 * 32**2 // size**2))  # one batch is minutes of search on one core
        self.generator = decoder(size, channels, h.width, h.nz)
        layers = encoder(size, channels, h.width, 1)
        self.discriminator = networks.Discriminator(layers[:-1], layers[-1])
        self.generator.apply(networks.initialise)
        self.discriminator.apply(networks.initialise)
        betas = (h.beta1, 0.999)
        self.optimiser_g = Adam(self.generator.parameters(), lr=h.lr, betas=betas)
        self.optimiser_d = Adam(self.discriminator.parameters(), lr=h.lr, betas=betas)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """Make D's step, then G's step against the updated D; G minimises -log D(G(z)), the usual GAN loss."""
        x = batch
        fake = self.generator(torch.randn(len(x), self.nz, 1, 1, device=x.device))

        p_real, _ = self.discriminator(x)
        p_fake, _ = self.discriminator(fake.detach())
        real = binary_cross_entropy(p_real, 1.0)
        loss_d = real + binary_cross_entropy(p_fake, 0.0)
        networks.differentiate(loss_d, self.discriminator)
        self.optimiser_d.step()

        p_fake, _ = self.discriminator(fake)
        loss_g = binary_cross_entropy(p_fake, 1.0)
        networks.differentiate(loss_g, self.generator)
        self.optimiser_g.step()
        return {"g": loss_g, "d": loss_d, "d_real": real}

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Return R(x) and D(x) of the paper's score A = (1 - 0.1) R + 0.1 D: both losses at the best code found."""
        residual, discrimination, _ = self.nearest(batch)
        return {"reconstruction": residual, "latent": discrimination}

    def discriminator_features(self, batch: Tensor) -> Tensor:
        """Return f(x), the last map before the classifier."""
        f: Tensor = self.discriminator.features(batch)
        return f.flatten(1)

    def reconstruction(self, batch: Tensor) -> Tensor:
        """Return G(z) at the best code found; this is as slow as scoring."""
        _, _, z = self.nearest(batch)
        fake: Tensor = self.generator(z)
        return fake

    def nearest(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return both losses, [B] each, and the code [B, nz, 1, 1] of the best search of each image."""
        f = self.discriminator.features(batch)
        codes = [self.search(batch, f, start) for start in self.starts(batch.device)]
        results = [self.losses(batch, f, z) for z in codes]
        residual, discrimination = (torch.stack(losses) for losses in zip(*results, strict=True))
        best = _total(residual, discrimination).argmin(0)
        image = torch.arange(len(batch), device=batch.device)
        return residual[best, image], discrimination[best, image], torch.stack(codes)[best, image]

    def starts(self, device: torch.device) -> list[Tensor]:
        """Return the codes [1, nz, 1, 1] at which the searches start; more restarts add codes and change none."""
        source = torch.Generator().manual_seed(START_SEED)
        return [torch.randn(1, self.nz, 1, 1, generator=source).to(device) for _ in range(self.restarts)]

    def search(self, x: Tensor, f: Tensor, start: Tensor) -> Tensor:
        """Return the code of each image after all steps of the search.

        Args:
            x: images float32 [B, C, S, S].
            f: their features f(x) [B, c, 4, 4].
            start: code [1, nz, 1, 1] at which the search of every image starts.

        Returns:
            float32 [B, nz, 1, 1].
        """
        z = start.repeat(len(x), 1, 1, 1).requires_grad_()
        optimiser = Adam([z], lr=0.01)
        for step in range(self.steps):
            optimiser.lr = learning_rate(step, self.steps)
            with torch.enable_grad():
                loss = _total(*self.losses(x, f, z)).sum()
            z.grad = None
            torch.autograd.backward(loss, inputs=[z])
            optimiser.step()
        return z.detach()

    def losses(self, x: Tensor, f: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the residual loss L_R and the discrimination loss L_D of each image, [B] each.

        The arguments x and f are those of `search`; z is [B, nz, 1, 1].
        """
        fake = self.generator(z)
        residual = (x - fake).abs().flatten(1).sum(1)  # L_R(z) = sum |x - G(z)|
        f_fake = self.discriminator.features(fake)
        discrimination = (f - f_fake).abs().flatten(1).sum(1)  # L_D(z) = sum |f(x) - f(G(z))|
        return residual, discrimination


def learning_rate(step: int, steps: int) -> float:
    """Return the learning rate of a step of the search: 0.01, then 0.001 after 40 % of the steps, 0.0005 after 60 %.

    The code of EGBAD's authors has 500 steps: steps 201 to 300 have the second rate, later ones the third, counted
    from 0.
    """
    if 5 * step <= 2 * steps:
        return 0.01
    return 0.001 if 5 * step <= 3 * steps else 0.0005


def _total(residual: Tensor, discrimination: Tensor) -> Tensor:
    """Compute L(z) = (1 - lambda) L_R(z) + lambda L_D(z), which the search minimises."""
    return (1 - LAMBDA) * residual + LAMBDA * discrimination
