"""GANomaly: semi-supervised anomaly detection via adversarial training.

Paper: Akcay, Atapour-Abarghouei, Breckon, ACCV 2018 (arXiv:1805.06725).  A generator encodes an
image, decodes it and encodes the result again; only normal images are learned, so an abnormal one
ends far from its first code.  Published code: github.com/samet-akcay/ganomaly.

`repo_head` is that code's last state (2019-10-09 and later), where it differs from the paper:

- L_adv (eq. 1) is the mean squared difference of the features, not the norm of their means;
- L_enc (eq. 3) is the mean squared difference of the codes, not its L1 or L2 norm;
- learning rate 2e-4 instead of 2e-3, 15 epochs on every dataset;
- the generator steps before the discriminator, whose loss is taken before that step;
- a discriminator whose loss falls below 1e-5 gets new weights; its BatchNorm statistics and its
  Adam state stay;
- MNIST is scaled by its own mean and deviation, to [-0.42, 2.82], beyond the decoder's (-1, 1);
- the score is the mean squared difference of the codes, and nothing of the pixels: lambda 0.

Ours, the numbers being the same: the published step sends each batch through D twice, the second
time for f with a gradient to G; once is enough, and the running statistics are moved on alone.
Each loss is differentiated for the network that it trains.  Scores are taken in evaluation mode;
the published code never leaves training mode.

Parameters at nz 100, width 64: 32x32x1 G 3,200,384 D 661,248; 32x32x3 G 3,206,528 D 663,296;
64x64x3 G 10,729,856 D 2,765,568.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import networks
from models.adam import Adam
from models.defaults import GANomalyHyperparameters
from models.detector import Detector
from models.networks import binary_cross_entropy, decoder, encoder


class Generator(nn.Module):
    """G: two encoders with weights of their own, a decoder between them."""

    def __init__(self, size: int, channels: int, width: int, nz: int) -> None:
        super().__init__()
        self.encoder1 = encoder(size, channels, width, nz)
        self.decoder = decoder(size, channels, width, nz)
        self.encoder2 = encoder(size, channels, width, nz)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images x to x^ = G_D(z), z = G_E(x), z^ = E(x^); codes are [B, nz, 1, 1]."""
        z = self.encoder1(x)
        fake = self.decoder(z)
        return fake, z, self.encoder2(fake)


class GANomaly(Detector):
    """GANomaly; variants `repo_head` and `untrained`."""

    Hyperparameters = GANomalyHyperparameters
    d_reinitialisations: Tensor

    def __init__(
        self,
        channels: int,
        size: int,
        hyperparameters: GANomalyHyperparameters,
        variant: str = "repo_head",
        dataset: str = "",
    ) -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        h = hyperparameters
        if dataset == "mnist":
            self.mean, self.std = 0.1307, 0.3081
        self.w_adv, self.w_con, self.w_enc = h.w_adv, h.w_con, h.w_enc
        self.generator = Generator(size, channels, h.width, h.nz)
        layers = encoder(size, channels, h.width, 1)
        self.discriminator = networks.Discriminator(layers[:-1], layers[-1])
        self.generator.apply(networks.initialise)
        self.discriminator.apply(networks.initialise)
        betas = (h.beta1, 0.999)
        self.optimiser_g = Adam(self.generator.parameters(), lr=h.lr, betas=betas)
        self.optimiser_d = Adam(self.discriminator.parameters(), lr=h.lr, betas=betas)
        self.register_buffer("d_reinitialisations", torch.zeros((), dtype=torch.int64))

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """G's gradients and D's, both before either takes its step."""
        x = batch
        before = networks.running_statistics(self.discriminator)
        fake, z, z_fake = self.generator(x)
        p_real, f_real = self.discriminator(x)
        p_fake, f_fake = self.discriminator(fake)

        adv = (f_real - f_fake).square().mean()  # eq. 1
        con = functional.l1_loss(fake, x)  # eq. 2
        enc = (z_fake - z).square().mean()  # eq. 3; z is not held fixed, so both encoders learn from it
        loss_g = adv * self.w_adv + con * self.w_con + enc * self.w_enc  # eq. 4
        networks.differentiate(loss_g, self.generator, retain_graph=True)

        real = binary_cross_entropy(p_real, 1.0)
        generated = binary_cross_entropy(p_fake, 0.0)
        loss_d = (real + generated) * 0.5
        networks.differentiate(loss_d, self.discriminator)

        self.optimiser_g.step()
        self.optimiser_d.step()
        networks.pass_again(self.discriminator, before, passes=2)
        collapsed = loss_d.detach() < networks.COLLAPSED
        networks.reinitialise_if(self.discriminator, collapsed)
        self.d_reinitialisations += collapsed
        return {
            "g": loss_g, "g_adv": adv, "g_con": con, "g_enc": enc,
            "d": loss_d, "d_real": real, "d_fake": generated,
        }  # fmt: skip

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Mean |x - x^| over pixels (eq. 2) and mean (z - z^)^2 over nz, the published score."""
        fake, z, z_fake = self.generator(batch)
        return {
            "reconstruction": (batch - fake).abs().flatten(1).mean(1),
            "latent": (z - z_fake).square().flatten(1).mean(1),
        }

    def counters(self) -> dict[str, int]:
        return {"d_reinitialisations": int(self.d_reinitialisations)}
