"""Skip-GANomaly: skip connected and adversarially trained encoder-decoder anomaly detection.

Paper: Akcay, Atapour-Abarghouei, Breckon, IJCNN 2019 (arXiv:1901.08954).  A U-Net learns to reconstruct normal images.
The score is a weighted sum of two distances between an image and its reconstruction: in pixels, and in the
discriminator's features.  Published code: github.com/samet-akcay/skip-ganomaly.

`RENDERINGS` has the settings in which the variants differ.

`repo_head` is that code's last state (2019-12-25 and later).  It differs from the paper as follows:

- L_lat (eq. 3) is the mean squared difference of the features, not its norm, and the discriminator minimises it too.
- w_con is 50 instead of 40.  The learning rate is 2e-4 and constant instead of 2e-3 and decaying.
- There are 15 epochs without early stopping.  That is the default of the code's option, and the paper's number; the
  code's CIFAR-10 script has 25.
- A discriminator whose loss falls below 1e-5 gets new weights; its BatchNorm statistics and its Adam state do not
  change.
- The score uses squared pixel differences instead of absolute ones (eq. 2), with lambda 0.9 on unscaled components.

`repo_2018` is that repository's code of November 2018, before its release.  It differs from `repo_head` as follows:

- In training, noise of deviation 0.2 is added to the input image of G and D, the same noise to both.  L_con compares
  with the clean image, and scores are computed without noise.
- D steps first, on the latent loss alone (its option netD_training 'fm'), so that its classifier keeps its initial
  weights.  G learns through the updated D, but not from the latent loss, in which the generated image is detached.
- All weights of losses are 1.
- D gets new weights if either of its cross-entropies falls below 1e-5, although it learns from neither.
- The score is the feature distance alone, lambda 0: the published code overwrites its weighted sum.

`paper` is the text of arXiv:1901.08954.  The choices where the text gives no detail are ours:

- L_adv is eq. 1: G minimises it as printed, log(1 - D(x^)), and D maximises it.  D does not learn from L_lat.
- L_lat is the norm of eq. 3.  An L1 (eq. 2) is the mean over its pixels, as in the code for which w_con = 40 was
  chosen; with a sum, L_con would have a thousand times that weight, and R would dominate L in the score.
- The score is eq. 5 with R by eq. 2 and L by eq. 3, lambda 0.9.  Eq. 6, a scaling over the whole test set, changes no
  rank and is left out.
- D steps before G, which is the order of Goodfellow et al. that eq. 1 cites, and D never gets new weights.  The text
  mentions neither.
- The learning rate is 2e-3 "with a lambda decay": constant, then linear to zero, as in pix2pix, from which the code has
  the word and its options.  The text gives no lengths, and the code's own decay would begin after the last epoch.  Here
  it is half of the epochs each (`models.components.adam.linear_decay`).
- There are 15 epochs, or fewer "when the performance of the model starts to decrease": `early_stopping`.  The training
  loop implements it with validation images, never with test images.
- The text does not give the scale of the pixels: it is [-1, 1] here, the range of tanh, on every dataset.

Our deviations from the published code, which are forced or do not change the numbers:

- The release (`repo_head`) adds `noise` to G's input.  That tensor is never filled, so it is uninitialised memory,
  mostly zero; it has 3 channels even for grey images.  Here it is zero.
- The release's order (G's step, then D's gradient through G's old graph) fails since PyTorch 1.5 ("modified by an
  inplace operation").  Here both gradients are computed before either step, as older versions of PyTorch did.
- The release's step passes the generated batch through D a second time for D's own loss.  Here one pass is enough, and
  the running statistics are updated for the other one.
- In `repo_2018`, the code that should give D new weights calls a function that is not imported.  Here D gets them.
- A 16x16 image has one level less than the five that the published U-Net always has.
- Scores are computed in evaluation mode; the published code never leaves training mode.
- MNIST, on which the published code cannot run, is scaled to [-1, 1] like all other datasets.

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
    """Compute -log D(x^), which is usually minimised in place of G's side of eq. 1."""
    return binary_cross_entropy(p_fake, 1.0)


def minimax(p_fake: Tensor) -> Tensor:
    """Compute log(1 - D(x^)), G's side of eq. 1 as printed."""
    return -binary_cross_entropy(p_fake, 0.0)


def norm(difference: Tensor) -> Tensor:
    """Compute the Euclidean norm of each image's features, [B, ...] to [B, 1]."""
    length: Tensor = torch.linalg.vector_norm(difference.flatten(1), dim=1, keepdim=True)
    return length


@dataclass(frozen=True)
class Rendering:
    """Settings in which the variants differ.

    Attributes:
        adversarial: L_adv of G, from D(x^).
        latent_distance: function of the difference of f(x) and f(x^), [B, ...] to [B, ...]; its mean is L_lat,
            and the latent component of an image's score.
        pixel_distance: function of each pixel of x - x^; its mean is the reconstruction component of the
            score.  L_con is the L1 in all variants.
        d_minimises: terms of D's loss: "cross_entropy", "latent".
        g_minimises_latent: True if L_lat has a gradient to G.
        d_first: True if D steps first and G learns through the updated D; False if both gradients are
            computed before either network steps.
        d_renewed_by: names of D's losses; if any of them is below 1e-5, D gets new weights.
        noise: standard deviation of the noise that is added, in training, to the input image of G and D.
        decays: True if the learning rate falls linearly in the second half of the epochs.
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
    """Skip-GANomaly; the keys of `RENDERINGS` are its variants."""

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
        self.rendering = RENDERINGS.get(variant, RENDERINGS["repo_head"])  # a user's subclass has the variant `plain`
        self.w_adv, self.w_con, self.w_lat = h.w_adv, h.w_con, h.w_lat
        self.generator = networks.UNet(size, channels, h.width)
        # f is a 1x1 map, so only the centre of the classifier's 3x3 kernel has an effect; the kernel is as published.
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
        """Make one step of G and one of D, in the variant's order."""
        seen = self.add_noise(batch)
        losses = self.in_turn(batch, seen) if self.rendering.d_first else self.at_once(batch, seen)
        self.renew_discriminator(losses)
        return losses

    def at_once(self, x: Tensor, seen: Tensor) -> dict[str, Tensor]:
        """Compute G's and D's gradients, then make both steps."""
        fake = self.generator(seen)
        p_real, f_real = self.discriminator(seen)
        before = networks.running_statistics(self.discriminator)
        p_fake, f_fake = self.discriminator(fake)

        lat = self.latent_loss(f_fake, f_real)  # f(x) is not detached
        g = self.generator_losses(x, fake, p_fake, lat)
        networks.differentiate(g["g"], self.generator, retain_graph=True)
        d = self.discriminator_losses(p_real, p_fake, lat)
        networks.differentiate(d["d"], self.discriminator)

        self.optimiser_g.step()
        self.optimiser_d.step()
        networks.pass_again(self.discriminator, before, passes=1)
        return g | d

    def in_turn(self, x: Tensor, seen: Tensor) -> dict[str, Tensor]:
        """Make D's step, then G's step through the updated D."""
        fake = self.generator(seen)
        p_real, f_real = self.discriminator(seen)
        p_fake, f_fake = self.discriminator(fake.detach())
        lat = self.latent_loss(f_fake, f_real)
        d = self.discriminator_losses(p_real, p_fake, lat)
        networks.differentiate(d["d"], self.discriminator)
        self.optimiser_d.step()

        if self.rendering.g_minimises_latent:
            with torch.no_grad():  # f(x) does not depend on G's weights
                f_real = self.discriminator.features(seen)
        p_fake, f_fake = self.discriminator(fake)
        lat = self.latent_loss(f_fake, f_real) if self.rendering.g_minimises_latent else lat.detach()
        g = self.generator_losses(x, fake, p_fake, lat)
        networks.differentiate(g["g"], self.generator)
        self.optimiser_g.step()
        return g | d

    def add_noise(self, x: Tensor) -> Tensor:
        """Return x with the variant's noise, the input of G and D in training."""
        return x + torch.randn_like(x) * self.rendering.noise if self.rendering.noise else x

    def renew_discriminator(self, losses: dict[str, Tensor]) -> None:
        """Give D new weights if one of the losses in `d_renewed_by` has collapsed."""
        watched = [losses[name] for name in self.rendering.d_renewed_by]
        if watched:
            self.d_reinitialisations += networks.reinitialise_collapsed(self.discriminator, watched)

    def latent_loss(self, f_fake: Tensor, f_real: Tensor) -> Tensor:
        """Compute eq. 3."""
        return self.rendering.latent_distance(f_fake - f_real).mean()

    def generator_losses(self, x: Tensor, fake: Tensor, p_fake: Tensor, lat: Tensor) -> dict[str, Tensor]:
        """Compute eq. 4 and its terms."""
        adv = self.rendering.adversarial(p_fake)  # eq. 1, G's side
        con = functional.l1_loss(fake, x)  # eq. 2
        loss_g = adv * self.w_adv + con * self.w_con + lat * self.w_lat
        return {"g": loss_g, "g_adv": adv, "g_con": con, "g_lat": lat}

    def discriminator_losses(self, p_real: Tensor, p_fake: Tensor, lat: Tensor) -> dict[str, Tensor]:
        """Compute D's side of eq. 1 as two cross-entropies, and the sum of the terms that D minimises."""
        real = binary_cross_entropy(p_real, 1.0)
        generated = binary_cross_entropy(p_fake, 0.0)
        terms = {"cross_entropy": real + generated, "latent": lat * self.w_lat}
        first, *others = (terms[name] for name in self.rendering.d_minimises)
        return {"d": sum(others, first), "d_real": real, "d_fake": generated}

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute the two terms of eq. 5: the mean pixel distance of x and x^, and the distance of f(x) and f(x^)."""
        fake = self.generator(batch)
        _, f_real = self.discriminator(batch)
        _, f_fake = self.discriminator(fake)
        return {
            "reconstruction": self.rendering.pixel_distance(batch - fake).flatten(1).mean(1),
            "latent": self.rendering.latent_distance(f_real - f_fake).flatten(1).mean(1),
        }

    def discriminator_features(self, batch: Tensor) -> Tensor:
        """Return f(x), nz numbers."""
        f: Tensor = self.discriminator.features(batch)
        return f.flatten(1)

    def reconstruction(self, batch: Tensor) -> Tensor:
        """Return the reconstruction x^."""
        fake: Tensor = self.generator(batch)
        return fake

    def counters(self) -> dict[str, int]:
        return {"d_reinitialisations": int(self.d_reinitialisations)}
