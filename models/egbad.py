"""EGBAD: efficient GAN-based anomaly detection, with a bidirectional GAN.

Paper: Zenati, Foo, Lecouat, Manek, Chandrasekhar, 2018 (arXiv:1802.06222).  A BiGAN (Donahue, Krähenbühl, Darrell,
arXiv:1605.09782) learns an encoder E in addition to the generator G.  Its discriminator learns to separate pairs
(x, E(x)) of normal images from pairs (G(z), z), so that E becomes the inverse of G.  For an abnormal image, x is far
from G(E(x)).  This needs one pass through the networks, where AnoGAN needs a search.  Published code:
github.com/houssamzenati/Efficient-GAN-Anomaly-Detection, folder `bigan`.

Both variants have that code's losses, their order, its optimisers (Adam 1e-5, beta1 0.5, batches of 100), nz 200, the
weights with which it tests, and its score.  `repo` also has its networks (`models.components.bigan`), which are for
28x28 images alone; published is one channel.  In `dcgan`, GANomaly's blocks replace them, for other sizes:

- E is GANomaly's encoder: 4x4 kernels instead of 3x3, more channels, no fully connected layer.
- G is GANomaly's decoder: a transposed convolution instead of two fully connected layers of 1024 and 6272.
- D's branch for images is the trunk of GANomaly's D: LeakyReLU 0.2 instead of 0.1, more channels, no dropout.
- D's branch for codes, the layer that joins both branches and gives f, and the logit are the published ones.
- Convolutions have no biases.  BatchNorm is torch's: momentum 0.1 and epsilon 1e-5 instead of 0.01 and 1e-3, and its
  weights are drawn as DCGAN's.

The training of both differs from the published one as follows:

- The published code trains G and E on another batch and another z than D.  Here all three learn from the same ones,
  so that E(x) and G(z) are computed once.  G's and E's losses need another pass through D, because D has changed in
  between.  (x, E(x)) and (G(z), z) are separate batches, because BatchNorm would otherwise mix their statistics.
- In the published code, G(E(x)), which no loss needs, also updates G's running statistics, and only D's own step
  updates those of D.  Here every pass of the training updates them, and there are no other passes.
- The number of epochs, 100, is the paper's; in the published code the user chooses it.

Scores use averages of all weights, exponential with decay 0.999 per step, as published.  BatchNorm's running
statistics, which are averages already, are used unchanged, also as published.  The averages start at the initial
weights, of which a share of 0.999^steps remains: 37 % after 1,000 steps, 1 % after 4,600.  So a small training set
needs many epochs.

The published code evaluates scores by average precision alone, and trained on most of the normal images on which it
tests.  Both are outside a detector, and are not reproduced here.

Parameters at nz 200 of `repo`: 28x28x1 E 1,347,656 G 6,781,505 D 3,907,329.  Of `dcgan` at width 64: 32x32x1
E 1,476,352 G 1,476,480 D 5,480,705; 32x32x3 E 1,478,400 G 1,478,528 D 5,482,753; 64x64x3 E 4,395,776 G 4,395,904
D 11,775,233.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.components import bigan, networks
from models.components.adam import Adam
from models.components.networks import decoder, encoder
from models.defaults import EGBADHyperparameters
from models.detector import Detector
from models.hyperparameters import ANY_SIZE

SLOPE = 0.1  # negative slope of the LeakyReLUs in the published layers
DECAY = 0.999  # decay of the averages per step
CODE_FEATURES, FEATURES = 512, 1024


class PairDiscriminator(nn.Module):
    """Discriminator of pairs: computes features f(x, z) and, from them, the logit D(x, z) that z is the code of x."""

    def __init__(self, images: nn.Sequential, pixels: int, nz: int) -> None:
        """Join a branch for codes to one for images.

        Args:
            images: branch for images, which gives `pixels` values for each.
            pixels: number of these values.
            nz: length of a code.
        """
        super().__init__()
        self.images = images
        self.codes = nn.Sequential(
            nn.Flatten(), nn.Linear(nz, CODE_FEATURES), nn.LeakyReLU(SLOPE, inplace=True), nn.Dropout(0.5)
        )
        self.joint = nn.Sequential(
            nn.Linear(pixels + CODE_FEATURES, FEATURES), nn.LeakyReLU(SLOPE, inplace=True), nn.Dropout(0.5)
        )
        self.classifier = nn.Linear(FEATURES, 1)

    def features(self, x: Tensor, code: Tensor) -> Tensor:
        """Return f(x, z) [B, 1024] of images [B, C, S, S] and `codes(z)` [B, 512]."""
        f: Tensor = self.joint(torch.cat([self.images(x), code], 1))
        return f

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the logits [B] of D(x, z) of images [B, C, S, S] and codes [B, nz, 1, 1]."""
        logits: Tensor = self.classifier(self.features(x, self.codes(z)))
        return logits.flatten()


class EGBAD(Detector):
    """EGBAD with the variants `dcgan`, `repo` and `untrained`."""

    sizes = ANY_SIZE
    Hyperparameters = EGBADHyperparameters

    def __init__(
        self,
        channels: int,
        size: int,
        hyperparameters: EGBADHyperparameters,
        variant: str = "dcgan",
        dataset: str = "",
    ) -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        h = hyperparameters
        self.nz = h.nz
        if variant == "repo":
            self.encoder = bigan.encoder(channels, h.nz)
            self.generator = bigan.generator(channels, h.nz)
            self.discriminator = PairDiscriminator(bigan.trunk(channels), bigan.TRUNK_FEATURES, h.nz)
        else:
            self.encoder = encoder(size, channels, h.width, h.nz)
            self.generator = decoder(size, channels, h.width, h.nz)
            trunk = nn.Sequential(*encoder(size, channels, h.width, 1)[:-1], nn.Flatten())
            self.discriminator = PairDiscriminator(trunk, 16 * (h.width * size // 8), h.nz)  # its last map is 4x4
        for network in (self.encoder, self.generator, self.discriminator):
            network.apply(bigan.initialise if variant == "repo" else networks.initialise)
        betas = (h.beta1, 0.999)
        self.optimiser_e = Adam(self.encoder.parameters(), lr=h.lr, betas=betas)
        self.optimiser_g = Adam(self.generator.parameters(), lr=h.lr, betas=betas)
        self.optimiser_d = Adam(self.discriminator.parameters(), lr=h.lr, betas=betas)
        self.learned = (self.encoder, self.generator, self.discriminator)
        self.averaged = nn.ModuleList(copy.deepcopy(network) for network in self.learned).requires_grad_(False)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """Make D's step, then G's and E's steps, both against the updated D."""
        x = batch
        z = torch.randn(len(x), self.nz, 1, 1, device=x.device)
        code, fake = self.encoder(x), self.generator(z)

        real = _cross_entropy(self.discriminator(x, code.detach()), 1.0)
        loss_d = real + _cross_entropy(self.discriminator(fake.detach(), z), 0.0)
        networks.differentiate(loss_d, self.discriminator)
        self.optimiser_d.step()

        loss_g = _cross_entropy(self.discriminator(fake, z), 1.0)
        networks.differentiate(loss_g, self.generator)
        loss_e = _cross_entropy(self.discriminator(x, code), 0.0)
        networks.differentiate(loss_e, self.encoder)
        self.optimiser_g.step()
        self.optimiser_e.step()
        self.average()
        return {"g": loss_g, "e": loss_e, "d": loss_d, "d_real": real}

    @torch.no_grad()
    def average(self) -> None:
        """Update the averages: weights by a share of 1 - decay; running statistics are copied."""
        for average, network in zip(self.averaged, self.learned, strict=True):
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - DECAY)
            torch._foreach_copy_(list(average.buffers()), list(network.buffers()))

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute ||x - G(E(x))||_1 and ||f(x, E(x)) - f(G(E(x)), E(x))||_1; they are sums, as in the paper's score."""
        encode, generate, discriminator = self.averaged
        assert isinstance(discriminator, PairDiscriminator)
        z = encode(batch)
        fake = generate(z)
        code = discriminator.codes(z)
        difference = discriminator.features(batch, code) - discriminator.features(fake, code)
        return {
            "reconstruction": (batch - fake).abs().flatten(1).sum(1),
            "latent": difference.abs().sum(1),
        }

    def discriminator_features(self, batch: Tensor) -> Tensor:
        """Return the features f(x, E(x))."""
        encode, _, discriminator = self.averaged
        assert isinstance(discriminator, PairDiscriminator)
        return discriminator.features(batch, discriminator.codes(encode(batch)))

    def reconstruction(self, batch: Tensor) -> Tensor:
        """Return the reconstruction G(E(x))."""
        encode, generate, _ = self.averaged
        fake: Tensor = generate(encode(batch))
        return fake


def _cross_entropy(logits: Tensor, target: float) -> Tensor:
    """Compute the mean of -log sigmoid(logit) (target 1) or -log(1 - sigmoid(logit)) (target 0)."""
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))
