"""VAE: variational autoencoder.

Kingma, Welling: Auto-Encoding Variational Bayes, ICLR 2014, arXiv:1312.6114.  An encoder gives mean and variance of a
Gaussian over the code z of an image, and a decoder the mean of a Gaussian over images, whose variance s^2 is fixed.
The loss is the negative ELBO of eq. 10 with one sample of z, without constants:

    |x - decode(z)|^2 / (2 s^2)  +  KL(q(z | x), N(0, I))        summed over pixels and over the code, mean over images

The score is the same sum at the mean code, so that it is not random: "reconstruction" is its first term and "latent"
its second.  At lambda 0.5, the default, it ranks images by the negative ELBO; at lambda 1, by the reconstruction error.

The networks are GANomaly's encoder, with two values for each of the code, and its decoder, with their initial weights.
The paper has one hidden layer and Adagrad; here it is Adam.  The length of the code and the variance are our choices.

Parameters at nz 32, width 64: 32x32x1 1,707,648; 32x32x3 1,711,744; 64x64x3 6,301,312.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.components import networks
from models.components.adam import Adam
from models.defaults import VAEHyperparameters
from models.detector import Detector

LIMIT = 20.0  # largest magnitude of a logarithm of a variance, so that its exponential is finite


class VAE(Detector):
    """Variational autoencoder; variants `plain` and `untrained`."""

    Hyperparameters = VAEHyperparameters

    def __init__(
        self,
        channels: int,
        size: int,
        hyperparameters: VAEHyperparameters,
        variant: str = "plain",
        dataset: str = "",
    ) -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        h = hyperparameters
        self.encoder = networks.encoder(size, channels, h.width, 2 * h.nz)
        self.decoder = networks.decoder(size, channels, h.width, h.nz)
        self.apply(networks.initialise)
        self.optimiser = Adam(self.parameters(), lr=h.lr, betas=(h.beta1, 0.999))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the variance of the codes, [B, nz, 1, 1] each."""
        average, log_variance = self.encoder(x).chunk(2, 1)
        return average, log_variance.clamp(-LIMIT, LIMIT)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """Make one step of Adam on the negative ELBO."""
        average, log_variance = self.encode(batch)
        z = average + (log_variance / 2).exp() * torch.randn_like(average)
        reconstruction = self.reconstruction_loss(batch, self.decoder(z)).mean()
        divergence = self.divergence(average, log_variance).mean()
        loss = reconstruction + divergence
        networks.differentiate(loss, self)
        self.optimiser.step()
        return {"elbo": loss, "reconstruction": reconstruction, "kl": divergence}

    def reconstruction_loss(self, x: Tensor, fake: Tensor) -> Tensor:
        """Compute |x - x^|^2 / (2 s^2) of each image, [B]."""
        errors: Tensor = (x - fake).square().flatten(1).sum(1) / (2 * self.hyperparameters.variance)
        return errors

    def divergence(self, average: Tensor, log_variance: Tensor) -> Tensor:
        """Compute KL(q(z | x), N(0, I)) of each image (the paper's appendix B), [B]."""
        return (average.square() + log_variance.exp() - 1 - log_variance).flatten(1).sum(1) / 2

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute both terms of the negative ELBO at the mean code, [B] each."""
        average, log_variance = self.encode(batch)
        return {
            "reconstruction": self.reconstruction_loss(batch, self.decoder(average)),
            "latent": self.divergence(average, log_variance),
        }

    def reconstruction(self, batch: Tensor) -> Tensor:
        """Return the image that is decoded from the mean code."""
        fake: Tensor = self.decoder(self.encode(batch)[0])
        return fake
