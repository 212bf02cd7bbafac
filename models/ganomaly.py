"""GANomaly: semi-supervised anomaly detection via adversarial training.

Paper: Akcay, Atapour-Abarghouei, Breckon, ACCV 2018 (arXiv:1805.06725).  A generator encodes an image, decodes the code
and encodes the result again.  It learns from normal images alone, so the second code of an abnormal image is far from
its first code.  Published code: github.com/samet-akcay/ganomaly.

`RENDERINGS` has the settings in which the variants differ.

`repo_head` is that code's last state (2019-10-09 and later).  It differs from the paper as follows:

- L_adv (eq. 1) is the mean squared difference of the features, not the norm of the difference of their means.
- L_enc (eq. 3) is the mean squared difference of the codes, not its L1 or L2 norm.
- The learning rate is 2e-4 instead of 2e-3, and there are 15 epochs on every dataset.
- The generator steps before the discriminator, whose loss is computed before that step.
- A discriminator whose loss falls below 1e-5 gets new weights; its BatchNorm statistics and its Adam state do not
  change.
- MNIST is scaled by its own mean and deviation, to [-0.42, 2.82], beyond the decoder's range (-1, 1).
- The score is the mean squared difference of the codes and does not use pixels: lambda 0.

`repo_2018` is that code from 2018-05-01 to 2018-10-25, when the paper appeared.  It differs from `repo_head` as
follows:

- L_adv is the cross-entropy of D(x^) against "real", not a distance of features.
- D steps first, on the sum of its two cross-entropies, and G learns through the updated D.
- D gets new weights if either of its two cross-entropies falls below 1e-5.

`paper` is the text of arXiv:1805.06725 whose eq. 3 is an L1.  The choices where the text gives no detail are ours:

- L_adv is the norm of the difference of the mean features over the batch.  The parentheses of eq. 1 as printed do not
  close; this is the feature matching of Salimans et al. that the text cites.
- L_enc is the L1 of eq. 3.  The score is the same L1 for one image, lambda 0; the text has no equation for the score.
- An L1 is the mean over its entries, as in the code for which lambda = 50 was chosen; with a sum over pixels, L_con
  would have a thousand times that weight.  An L2 norm is a norm, without a mean.
- D steps before G, on the sum of its two cross-entropies.  This is the usual DCGAN training, which the text says it
  follows "regardless of using any tricks"; hence D never gets new weights.
- The learning rate 2e-3 is called "initial", but the text does not describe any change of it.  We use the linear decay
  that the same authors name in Skip-GANomaly (`models.components.adam.linear_decay`).
- There are 15 epochs, and 25 on cifar10 and uba; the text gives no numbers for other datasets.
- The text does not give the scale of the pixels: it is [-1, 1] here, the range of tanh, on every dataset.

Deviations that do not change the numbers of training: the published step of `repo_head` passes each batch through D a
second time, to get f with a gradient to G.  Here one pass is enough, and the running statistics are updated for the
other one.  Each loss is differentiated only for the network that it trains.

Scores are computed in evaluation mode; the published code never leaves training mode.

Parameters at nz 100, width 64: 32x32x1 G 3,200,384 D 661,248; 32x32x3 G 3,206,528 D 663,296;
64x64x3 G 10,729,856 D 2,765,568.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.components import networks
from models.components.adam import Adam, linear_decay
from models.components.networks import binary_cross_entropy, decoder, encoder
from models.defaults import GANomalyHyperparameters
from models.detector import Detector


def mean_squared_difference(f_real: Tensor, f_fake: Tensor) -> Tensor:
    """Compute the mean (f(x) - f(x^))^2 over images and features."""
    return (f_real - f_fake).square().mean()


def distance_of_means(f_real: Tensor, f_fake: Tensor) -> Tensor:
    """Compute || mean f(x) - mean f(x^) ||_2; the means are over the batch."""
    distance: Tensor = torch.linalg.vector_norm(f_real.mean(0) - f_fake.mean(0))
    return distance


@dataclass(frozen=True)
class Rendering:
    """Settings in which the variants differ.

    Attributes:
        feature_matching: L_adv of G, from f(x) and f(x^); None for cross-entropy, -log D(x^).
        code_distance: function of each entry of z - z^; its mean is L_enc, and the score of an image.
        d_first: True if D steps first and G learns through the updated D; False if both gradients are
            computed before either network steps.
        d_weight: weight of D's two cross-entropies.
        d_renewed_by: names of D's losses; if any of them is below 1e-5, D gets new weights.
        mnist_scale: mean and deviation by which MNIST's pixels are scaled; other datasets have 0.5 and 0.5.
        decays: True if the learning rate falls linearly in the second half of the epochs.
    """

    feature_matching: Callable[[Tensor, Tensor], Tensor] | None
    code_distance: Callable[[Tensor], Tensor]
    d_first: bool
    d_weight: float
    d_renewed_by: tuple[str, ...]
    mnist_scale: tuple[float, float]
    decays: bool


REPO_HEAD = Rendering(
    feature_matching=mean_squared_difference,
    code_distance=torch.square,
    d_first=False,
    d_weight=0.5,
    d_renewed_by=("d",),
    mnist_scale=(0.1307, 0.3081),
    decays=False,
)
RENDERINGS = {
    "repo_head": REPO_HEAD,
    "repo_2018": Rendering(
        feature_matching=None,
        code_distance=torch.square,
        d_first=True,
        d_weight=1.0,
        d_renewed_by=("d_real", "d_fake"),
        mnist_scale=(0.1307, 0.3081),
        decays=False,
    ),
    "paper": Rendering(
        feature_matching=distance_of_means,
        code_distance=torch.abs,
        d_first=True,
        d_weight=1.0,
        d_renewed_by=(),
        mnist_scale=(0.5, 0.5),
        decays=True,
    ),
    "untrained": REPO_HEAD,
}


class Generator(nn.Module):
    """Generator G: two encoders with separate weights, and a decoder between them."""

    def __init__(self, size: int, channels: int, width: int, nz: int) -> None:
        super().__init__()
        self.encoder1 = encoder(size, channels, width, nz)
        self.decoder = decoder(size, channels, width, nz)
        self.encoder2 = encoder(size, channels, width, nz)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return x^ = G_D(z), z = G_E(x) and z^ = E(x^) of images x; codes are [B, nz, 1, 1]."""
        z = self.encoder1(x)
        fake = self.decoder(z)
        return fake, z, self.encoder2(fake)


class GANomaly(Detector):
    """GANomaly; the keys of `RENDERINGS` are its variants."""

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
        self.rendering = RENDERINGS.get(variant, RENDERINGS["repo_head"])  # a user's subclass has the variant `plain`
        if dataset == "mnist":
            self.mean, self.std = self.rendering.mnist_scale
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

    def begin_epoch(self, epoch: int) -> None:
        if self.rendering.decays:
            h = self.hyperparameters
            self.optimiser_g.lr = self.optimiser_d.lr = h.lr * linear_decay(epoch, h.epochs)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """Make one step of G and one of D, in the variant's order."""
        losses = self.in_turn(batch) if self.rendering.d_first else self.at_once(batch)
        self.renew_discriminator(losses)
        return losses

    def at_once(self, x: Tensor) -> dict[str, Tensor]:
        """Compute G's and D's gradients, then make both steps."""
        before = networks.running_statistics(self.discriminator)
        fake, z, z_fake = self.generator(x)
        p_real, f_real = self.discriminator(x)
        p_fake, f_fake = self.discriminator(fake)

        adv = self.adversarial_loss(p_fake, f_real, f_fake)
        g = self.generator_losses(x, fake, z, z_fake, adv)
        networks.differentiate(g["g"], self.generator, retain_graph=True)
        d = self.discriminator_losses(p_real, p_fake)
        networks.differentiate(d["d"], self.discriminator)

        self.optimiser_g.step()
        self.optimiser_d.step()
        networks.pass_again(self.discriminator, before, passes=2)
        return g | d

    def in_turn(self, x: Tensor) -> dict[str, Tensor]:
        """Make D's step, then G's step through the updated D."""
        fake, z, z_fake = self.generator(x)
        p_real, f_real = self.discriminator(x)
        p_fake, _ = self.discriminator(fake.detach())
        d = self.discriminator_losses(p_real, p_fake)
        networks.differentiate(d["d"], self.discriminator)
        self.optimiser_d.step()

        if self.rendering.feature_matching is not None:
            with torch.no_grad():  # f(x) does not depend on G's weights
                f_real = self.discriminator.features(x)
        p_fake, f_fake = self.discriminator(fake)
        adv = self.adversarial_loss(p_fake, f_real, f_fake)
        g = self.generator_losses(x, fake, z, z_fake, adv)
        networks.differentiate(g["g"], self.generator)
        self.optimiser_g.step()
        return g | d

    def renew_discriminator(self, losses: dict[str, Tensor]) -> None:
        """Give D new weights if one of the losses in `d_renewed_by` has collapsed."""
        watched = [losses[name] for name in self.rendering.d_renewed_by]
        if watched:
            self.d_reinitialisations += networks.reinitialise_collapsed(self.discriminator, watched)

    def adversarial_loss(self, p_fake: Tensor, f_real: Tensor, f_fake: Tensor) -> Tensor:
        """Compute eq. 1, which G minimises."""
        matching = self.rendering.feature_matching
        return binary_cross_entropy(p_fake, 1.0) if matching is None else matching(f_real, f_fake)

    def generator_losses(self, x: Tensor, fake: Tensor, z: Tensor, z_fake: Tensor, adv: Tensor) -> dict[str, Tensor]:
        """Compute eq. 4 and its terms."""
        con = functional.l1_loss(fake, x)  # eq. 2
        enc = self.rendering.code_distance(z_fake - z).mean()  # eq. 3; z is not held fixed: both encoders learn
        loss_g = adv * self.w_adv + con * self.w_con + enc * self.w_enc
        return {"g": loss_g, "g_adv": adv, "g_con": con, "g_enc": enc}

    def discriminator_losses(self, p_real: Tensor, p_fake: Tensor) -> dict[str, Tensor]:
        """Compute the cross-entropies of D(x) against "real" and of D(x^) against "fake", and their weighted sum."""
        real = binary_cross_entropy(p_real, 1.0)
        generated = binary_cross_entropy(p_fake, 0.0)
        return {"d": (real + generated) * self.rendering.d_weight, "d_real": real, "d_fake": generated}

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute the mean |x - x^| over pixels (eq. 2) and the mean distance of z and z^ over nz (eq. 3).

        The second one is the published score.
        """
        fake, z, z_fake = self.generator(batch)
        return {
            "reconstruction": (batch - fake).abs().flatten(1).mean(1),
            "latent": self.rendering.code_distance(z - z_fake).flatten(1).mean(1),
        }

    def discriminator_features(self, batch: Tensor) -> Tensor:
        """Return f(x), the map before the classifier."""
        f: Tensor = self.discriminator.features(batch)
        return f.flatten(1)

    def reconstruction(self, batch: Tensor) -> Tensor:
        """Return the reconstruction x^."""
        fake: Tensor = self.generator(batch)[0]
        return fake

    def counters(self) -> dict[str, int]:
        return {"d_reinitialisations": int(self.d_reinitialisations)}
