"""Autoencoder: GANomaly's first encoder and its decoder, trained only to reconstruct normal images.

GANomaly also has a discriminator, a second encoder and the distance between codes.  This baseline shows how much these
parts add.  So initial weights, loss (L_con, the mean |x - x^|), optimiser and defaults are GANomaly's.  The score is
the loss of each single image.

Images are scaled to [-1, 1] on every dataset, including MNIST.  The published GANomaly scales MNIST to values beyond
the decoder's range (-1, 1), which no reconstruction can reach.

Parameters at nz 100, width 64: 32x32x1 2,133,632; 32x32x3 2,137,728; 64x64x3 7,153,280.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from models.components import networks
from models.components.adam import Adam
from models.defaults import AutoencoderHyperparameters
from models.detector import Detector


class Autoencoder(Detector):
    """Autoencoder; variants `plain` and `untrained`."""

    Hyperparameters = AutoencoderHyperparameters

    def __init__(
        self,
        channels: int,
        size: int,
        hyperparameters: AutoencoderHyperparameters,
        variant: str = "plain",
        dataset: str = "",
    ) -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        h = hyperparameters
        self.network = nn.Sequential(
            networks.encoder(size, channels, h.width, h.nz),
            networks.decoder(size, channels, h.width, h.nz),
        )
        self.network.apply(networks.initialise)
        self.optimiser = Adam(self.network.parameters(), lr=h.lr, betas=(h.beta1, 0.999))

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """Make one step of Adam on the mean |x - x^|."""
        con = self.reconstruction_loss(batch, self.network(batch))
        networks.differentiate(con, self.network)
        self.optimiser.step()
        return {"con": con}

    def reconstruction_loss(self, x: Tensor, fake: Tensor) -> Tensor:
        """Compute L_con, GANomaly's eq. 2."""
        return functional.l1_loss(fake, x)

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute the mean |x - x^| over pixels, [B]."""
        return {"score": (batch - self.network(batch)).abs().flatten(1).mean(1)}

    def reconstruction(self, batch: Tensor) -> Tensor:
        """Return the reconstruction x^."""
        fake: Tensor = self.network(batch)
        return fake
