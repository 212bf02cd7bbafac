"""Skip-GANomaly: skip connected and adversarially trained encoder-decoder anomaly detection.

Paper: Akcay, Atapour-Abarghouei, Breckon, IJCNN 2019 (arXiv:1901.08954).  A U-Net learns to copy
normal images; the score weighs how far pixels and discriminator features of image and copy lie
apart.  Published code: github.com/samet-akcay/skip-ganomaly.

What differs between the variants stands in `RENDERINGS`.

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

`repo_2018` is that repository's code of November 2018, before its release; from `repo_head` differ:

- noise of deviation 0.2 is added in training to what G and D see of an image, the same to both;
  L_con compares with the clean image, and scores are taken without noise;
- D steps first, on the latent loss alone (its option netD_training 'fm'), so that its classifier
  keeps its initial weights; G learns through the D so updated, and not from the latent loss, which
  is taken on a generated image held fixed;
- all weights are 1;
- D gets new weights if either of its cross-entropies falls below 1e-5, though it learns from neither;
- the score is the feature distance alone, lambda 0: the published weighted sum is overwritten.

`paper` is the text of arXiv:1901.08954; where the text is silent, we say what we chose:

- L_adv is eq. 1, which G minimises as printed, log(1 - D(x^)), and D maximises; D has no part in L_lat;
- L_lat is the norm of eq. 3; an L1 (eq. 2) is the mean over its pixels, as in the code, to which
  w_con = 40 belongs: a sum would weigh L_con a thousandfold, and outweigh L in the score;
- the score is eq. 5 with R by eq. 2 and L by eq. 3, lambda 0.9; eq. 6, a scaling over the whole
  test set, changes no rank and is left out;
- D steps before G, the order of Goodfellow et al. that eq. 1 cites, and never gets new weights:
  the text speaks of neither;
- learning rate 2e-3 "with a lambda decay": constant, then linear to zero, as in pix2pix, from which
  the code has the word and its options.  The text gives no lengths, and the code's own decay would
  begin after the last epoch: half of the epochs each (`models.components.adam.linear_decay`);
- 15 epochs, fewer "when the performance of the model starts to decrease": `early_stopping`, a
  matter of the training loop, by validation images and never by test images;
- nothing is said of the scale of the pixels: [-1, 1], the range of tanh, on every dataset.

Deviations of ours, all forced or without effect on the numbers:

- The release (`repo_head`) adds `noise` to G's input, a tensor that is never filled, so uninitialised
  memory, mostly zero, and of 3 channels whatever the image has: here it is zero.
- Its order (G's step, then D's gradient through G's old graph) fails from PyTorch 1.5 on
  ("modified by an inplace operation"); both gradients are computed before either step, which is
  what it computed before.
- Its step sends the generated batch through D a second time for D's own loss: once is enough, and
  the running statistics are moved on alone.
- Where D of `repo_2018` should get new weights, its code names a function that it does not import.
- A 16x16 image has one level less than the five that the published U-Net always has.
- Scores are taken in evaluation mode; the published code never leaves training mode.
- MNIST, on which the published code cannot run, is scaled to [-1, 1] as everything else.

nz is the length of D's feature vector alone; the U-Net's bottleneck has 8 * width channels.
Parameters at nz 100, width 64: 32x32x1 G 16,652,929 D 1,067,652; 32x32x3 G 16,659,075 D 1,069,700;
64x64x3 G 29,244,035 D 3,577,476.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.components import networks
from models.components.adam import Adam, linear_decay
from models.components.networks import binary_cross_entropy, encoder
from models.defaults import SkipGANomalyHyperparameters
from models.detector import Detector


def non_saturating(p_fake: Tensor) -> Tensor:
    """-log D(x^), the usual stand-in for G's side of eq. 1."""
    return binary_cross_entropy(p_fake, 1.0)


def minimax(p_fake: Tensor) -> Tensor:
    """log(1 - D(x^)), G's side of eq. 1 as printed."""
    return -binary_cross_entropy(p_fake, 0.0)


def norm(difference: Tensor) -> Tensor:
    """Euclidean norm of each image's features, [B, ...] to [B, 1]."""
    length: Tensor = torch.linalg.vector_norm(difference.flatten(1), dim=1, keepdim=True)
    return length


@dataclass(frozen=True)
class Rendering:
    """What differs between the variants.

    Attributes:
        adversarial: L_adv of G, from D(x^).
        latent_distance: of f(x) and f(x^), from their difference [B, ...] to [B, ...]; its mean is taken
            in L_lat and in the score.
        pixel_distance: of each pixel of x - x^, averaged in the score; L_con is the L1 in all variants.
        d_minimises: the terms of D's loss: "cross_entropy", "latent".
        g_minimises_latent: whether L_lat has a gradient to G.
        d_first: D steps first and G learns through the updated D; else both gradients are taken
            before either steps.
        d_renewed_by: losses of D of which any below 1e-5 gives it new weights.
        noise: standard deviation of what is added in training to the image that G and D see.
        decays: the learning rate falls linearly in the second half of the epochs.
    """

    adversarial: Callable[[Tensor], Tensor]
    latent_distance: Callable[[Tensor], Tensor]
    pixel_distance: Callable[[Tensor], Tensor]
    d_minimises: tuple[str, ...]
    g_minimises_latent: bool
    d_first: bool
    d_renewed_by: tuple[str, ...]
    noise: float
    decays: bool


REPO_HEAD = Rendering(
    adversarial=non_saturating,
    latent_distance=torch.square,
    pixel_distance=torch.square,
    d_minimises=("cross_entropy", "latent"),
    g_minimises_latent=True,
    d_first=False,
    d_renewed_by=("d",),
    noise=0.0,
    decays=False,
)
RENDERINGS = {
    "repo_head": REPO_HEAD,
    "repo_2018": Rendering(
        adversarial=non_saturating,
        latent_distance=torch.square,
        pixel_distance=torch.square,
        d_minimises=("latent",),
        g_minimises_latent=False,
        d_first=True,
        d_renewed_by=("d_real", "d_fake"),
        noise=0.2,
        decays=False,
    ),
    "paper": Rendering(
        adversarial=minimax,
        latent_distance=norm,
        pixel_distance=torch.abs,
        d_minimises=("cross_entropy",),
        g_minimises_latent=True,
        d_first=True,
        d_renewed_by=(),
        noise=0.0,
        decays=True,
    ),
    "untrained": REPO_HEAD,
}


class SkipGANomaly(Detector):
    """Skip-GANomaly; variants are the keys of `RENDERINGS`."""

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
        self.rendering = RENDERINGS.get(variant, RENDERINGS["repo_head"])  # of a subclass: plain
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

    def begin_epoch(self, epoch: int) -> None:
        if self.rendering.decays:
            h = self.hyperparameters
            self.optimiser_g.lr = self.optimiser_d.lr = h.lr * linear_decay(epoch, h.epochs)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """One step of G and one of D, in the variant's order."""
        seen = self.add_noise(batch)
        losses = self.in_turn(batch, seen) if self.rendering.d_first else self.at_once(batch, seen)
        self.renew_discriminator(losses)
        return losses

    def at_once(self, x: Tensor, seen: Tensor) -> dict[str, Tensor]:
        """G's gradients and D's, both before either takes its step."""
        fake = self.generator(seen)
        p_real, f_real = self.discriminator(seen)
        before = networks.running_statistics(self.discriminator)
        p_fake, f_fake = self.discriminator(fake)

        lat = self.latent_loss(f_fake, f_real)  # f(x) is not held fixed
        g = self.generator_losses(x, fake, p_fake, lat)
        networks.differentiate(g["g"], self.generator, retain_graph=True)
        d = self.discriminator_losses(p_real, p_fake, lat)
        networks.differentiate(d["d"], self.discriminator)

        self.optimiser_g.step()
        self.optimiser_d.step()
        networks.pass_again(self.discriminator, before, passes=1)
        return g | d

    def in_turn(self, x: Tensor, seen: Tensor) -> dict[str, Tensor]:
        """D's step, then G's through the updated D."""
        fake = self.generator(seen)
        p_real, f_real = self.discriminator(seen)
        p_fake, f_fake = self.discriminator(fake.detach())
        lat = self.latent_loss(f_fake, f_real)
        d = self.discriminator_losses(p_real, p_fake, lat)
        networks.differentiate(d["d"], self.discriminator)
        self.optimiser_d.step()

        if self.rendering.g_minimises_latent:
            with torch.no_grad():  # no weight of G lies before f(x)
                f_real = self.discriminator.features(seen)
        p_fake, f_fake = self.discriminator(fake)
        lat = self.latent_loss(f_fake, f_real) if self.rendering.g_minimises_latent else lat.detach()
        g = self.generator_losses(x, fake, p_fake, lat)
        networks.differentiate(g["g"], self.generator)
        self.optimiser_g.step()
        return g | d

    def add_noise(self, x: Tensor) -> Tensor:
        """What G and D see of x in training."""
        return x + torch.randn_like(x) * self.rendering.noise if self.rendering.noise else x

    def renew_discriminator(self, losses: dict[str, Tensor]) -> None:
        """Give D new weights if a loss that the variant watches has collapsed."""
        watched = [losses[name] for name in self.rendering.d_renewed_by]
        if watched:
            self.d_reinitialisations += networks.reinitialise_collapsed(self.discriminator, watched)

    def latent_loss(self, f_fake: Tensor, f_real: Tensor) -> Tensor:
        """Eq. 3."""
        return self.rendering.latent_distance(f_fake - f_real).mean()

    def generator_losses(self, x: Tensor, fake: Tensor, p_fake: Tensor, lat: Tensor) -> dict[str, Tensor]:
        """Eq. 4 and its terms."""
        adv = self.rendering.adversarial(p_fake)  # eq. 1, G's side
        con = functional.l1_loss(fake, x)  # eq. 2
        loss_g = adv * self.w_adv + con * self.w_con + lat * self.w_lat
        return {"g": loss_g, "g_adv": adv, "g_con": con, "g_lat": lat}

    def discriminator_losses(self, p_real: Tensor, p_fake: Tensor, lat: Tensor) -> dict[str, Tensor]:
        """Eq. 1, D's side, as two cross-entropies; and the terms that D minimises, summed."""
        real = binary_cross_entropy(p_real, 1.0)
        generated = binary_cross_entropy(p_fake, 0.0)
        terms = {"cross_entropy": real + generated, "latent": lat * self.w_lat}
        first, *others = (terms[name] for name in self.rendering.d_minimises)
        return {"d": sum(others, first), "d_real": real, "d_fake": generated}

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Eq. 5's two terms: pixel distance of x and x^, averaged, and distance of f(x) and f(x^)."""
        fake = self.generator(batch)
        _, f_real = self.discriminator(batch)
        _, f_fake = self.discriminator(fake)
        return {
            "reconstruction": self.rendering.pixel_distance(batch - fake).flatten(1).mean(1),
            "latent": self.rendering.latent_distance(f_real - f_fake).flatten(1).mean(1),
        }

    def discriminator_features(self, batch: Tensor) -> Tensor:
        """f(x), nz numbers."""
        f: Tensor = self.discriminator.features(batch)
        return f.flatten(1)

    def reconstruction(self, batch: Tensor) -> Tensor:
        """x^."""
        fake: Tensor = self.generator(batch)
        return fake

    def counters(self) -> dict[str, int]:
        return {"d_reinitialisations": int(self.d_reinitialisations)}
