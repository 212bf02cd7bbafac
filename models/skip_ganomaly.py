"""Skip-GANomaly: skip connected and adversarially trained encoder-decoder anomaly detection.

Paper: Akcay, Atapour-Abarghouei, Breckon, IJCNN 2019 (arXiv:1901.08954).  A U-Net learns to copy
normal images; the score weighs how far pixels and discriminator features of image and copy lie
apart.  Published code: github.com/samet-akcay/skip-ganomaly.

`repo_head` is that code's last state (2019-12-25 and later), where it differs from the paper:

- L_lat (eq. 3) is the mean squared difference of the features, not its norm, and the
  discriminator minimises it too;
- w_con is 50 instead of 40, the learning rate 2e-4 and constant instead of 2e-3 and decaying;
- 15 epochs without early stop: the option's default and the paper's number, where the code's
  CIFAR-10 script says 25;
- a discriminator whose loss falls below 1e-5 gets new weights; its BatchNorm statistics and its
  Adam state stay;
- the score takes squared pixel differences instead of absolute ones (eq. 2), lambda 0.9 on
  components as they come.

Deviations of ours, all forced or without effect on the numbers:

- The published training adds `noise` to G's input, a tensor that is never filled, so uninitialised
  memory, mostly zero, and of 3 channels whatever the image has: here it is zero.
- The published order (G's step, then D's gradient through G's old graph) fails from PyTorch 1.5 on
  ("modified by an inplace operation"); both gradients are computed before either step, which is
  what it computed before.
- The published step sends the generated batch through D a second time for D's own loss: once is
  enough, and the running statistics are moved on alone.
- A 16x16 image has one level less than the five that the published U-Net always has.
- Scores are taken in evaluation mode; the published code never leaves training mode.
- MNIST, on which the published code cannot run, is scaled to [-1, 1] as everything else.

nz is the length of D's feature vector alone; the U-Net's bottleneck has 8 * width channels.
Parameters at nz 100, width 64: 32x32x1 G 16,652,929 D 1,067,652; 32x32x3 G 16,659,075 D 1,069,700;
64x64x3 G 29,244,035 D 3,577,476.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import networks
from models.adam import Adam
from models.defaults import SkipGANomalyHyperparameters
from models.detector import Detector
from models.networks import binary_cross_entropy, encoder


class SkipGANomaly(Detector):
    """Skip-GANomaly; variants `repo_head` and `untrained`."""

    Hyperparameters = SkipGANomalyHyperparameters
    d_reinitialisations: Tensor

    def __init__(
        self,
        channels: int,
        size: int,
        hyperparameters: SkipGANomalyHyperparameters,
        variant: str = "repo_head",
        dataset: str = "",
    ) -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        h = hyperparameters
        self.w_adv, self.w_con, self.w_lat = h.w_adv, h.w_con, h.w_lat
        self.generator = networks.UNet(size, channels, h.width)
        # On the 1x1 map of f the classifier's 3x3 kernel acts by its centre alone: as published.
        classifier = nn.Conv2d(h.nz, 1, 3, 1, 1, bias=False)
        self.discriminator = networks.Discriminator(encoder(size, channels, h.width, h.nz), classifier)
        self.generator.apply(networks.initialise)
        self.discriminator.apply(networks.initialise)
        betas = (h.beta1, 0.999)
        self.optimiser_g = Adam(self.generator.parameters(), lr=h.lr, betas=betas)
        self.optimiser_d = Adam(self.discriminator.parameters(), lr=h.lr, betas=betas)
        self.register_buffer("d_reinitialisations", torch.zeros((), dtype=torch.int64))

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """G's gradients and D's, both before either takes its step."""
        x = batch
        fake = self.generator(x)
        p_real, f_real = self.discriminator(x)
        before = networks.running_statistics(self.discriminator)
        p_fake, f_fake = self.discriminator(fake)

        adv = binary_cross_entropy(p_fake, 1.0)  # eq. 1, G's side
        con = functional.l1_loss(fake, x)  # eq. 2
        lat = (f_fake - f_real).square().mean()  # eq. 3; f(x) is not held fixed
        loss_g = adv * self.w_adv + con * self.w_con + lat * self.w_lat  # eq. 4
        networks.differentiate(loss_g, self.generator, retain_graph=True)

        real = binary_cross_entropy(p_real, 1.0)  # eq. 1, D's side
        generated = binary_cross_entropy(p_fake, 0.0)
        loss_d = real + generated + lat * self.w_lat
        networks.differentiate(loss_d, self.discriminator)

        self.optimiser_g.step()
        self.optimiser_d.step()
        networks.pass_again(self.discriminator, before, passes=1)
        collapsed = loss_d.detach() < networks.COLLAPSED
        networks.reinitialise_if(self.discriminator, collapsed)
        self.d_reinitialisations += collapsed
        return {
            "g": loss_g, "g_adv": adv, "g_con": con, "g_lat": lat,
            "d": loss_d, "d_real": real, "d_fake": generated,
        }  # fmt: skip

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Mean (x - x^)^2 over pixels and mean (f(x) - f(x^))^2 over nz: eq. 5's two terms as published."""
        fake = self.generator(batch)
        _, f_real = self.discriminator(batch)
        _, f_fake = self.discriminator(fake)
        return {
            "reconstruction": (batch - fake).square().flatten(1).mean(1),
            "latent": (f_real - f_fake).square().flatten(1).mean(1),
        }

    def counters(self) -> dict[str, int]:
        return {"d_reinitialisations": int(self.d_reinitialisations)}
