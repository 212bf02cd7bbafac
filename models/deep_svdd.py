"""Deep SVDD: a network that maps normal images near to one point, the centre of a sphere.

Ruff, Vandermeulen, Görnitz, Deecke, Siddiqui, Binder, Müller, Kloft: Deep One-Class Classification, ICML 2018.  This is
the one-class objective, eq. 4: the mean |phi(x) - c|^2 over images plus the weights' squares times decay / 2.  The
score is |phi(x) - c|^2.  The network must not be able to map every image to c.  So no layer has a bias, no activation
is bounded, and the centre is not learned: it is the mean output of the initial network, and its values nearer to 0 than
0.1 are moved to 0.1 or -0.1.

The variant `repo` follows the published code (github.com/lukasruff/Deep-SVDD-PyTorch) with `--pretrain False`: its
network for CIFAR-10, with LeakyReLU 0.01 and BatchNorm without weights (epsilon 1e-4); Adam with decay 0.5e-6 and
batches of 200; 150 epochs, of which the last 100 have a tenth of the learning rate; and its contrast normalisation: of
each image its mean is subtracted, and it is divided by its mean magnitude.  It differs in this:

- The published results start from the encoder of an autoencoder that was trained for 350 epochs.  Here the initial
  weights are random, so results are lower.
- Its network for 28x28x1 is smaller; here one kind of network serves all sizes, with a module for each halving.
- The centre is the mean over the first batch, with that batch's statistics, and not over all training images.
- After the contrast normalisation, published code scales each normal class by its extremes, which are constants of
  MNIST and CIFAR-10.  Here they are not scaled.

In `untrained` there was no batch, and the centre is 0.

Parameters at nz 128, width 32: 32x32x1 518,944; 32x32x3 520,544; 64x64x3 1,601,888.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.components import networks
from models.components.adam import Adam
from models.defaults import DeepSVDDHyperparameters
from models.detector import Detector

SLOPE, EPSILON = 0.01, 1e-4  # of the LeakyReLUs, and of BatchNorm
NEAR = 0.1  # values of the centre that are nearer to 0 are moved to this distance
FAST_SHARE = 1 / 3  # share of the epochs before the learning rate drops to a tenth


class DeepSVDD(Detector):
    """One-class Deep SVDD; variants `repo` and `untrained`."""

    Hyperparameters = DeepSVDDHyperparameters
    centre: Tensor
    steps: Tensor

    def __init__(
        self,
        channels: int,
        size: int,
        hyperparameters: DeepSVDDHyperparameters,
        variant: str = "repo",
        dataset: str = "",
    ) -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        h = hyperparameters
        layers: list[nn.Module] = []
        into, out, side = channels, h.width, size
        while side > 4:
            layers += [
                nn.Conv2d(into, out, 5, padding=2, bias=False),
                nn.BatchNorm2d(out, EPSILON, affine=False),
                nn.LeakyReLU(SLOPE, inplace=True),
                nn.MaxPool2d(2),
            ]
            into, out, side = out, 2 * out, side // 2
        self.network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * into, h.nz, bias=False))
        self.register_buffer("centre", torch.zeros(h.nz))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.optimiser = Adam(self.network.parameters(), lr=h.lr, betas=(h.beta1, 0.999))

    def begin_epoch(self, epoch: int) -> None:
        """Set the learning rate: a tenth of it in the last two thirds of the epochs."""
        fast = epoch < FAST_SHARE * self.hyperparameters.epochs
        self.optimiser.lr = self.hyperparameters.lr * (1 if fast else 0.1)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """Make one step of Adam on the one-class objective; the first step of all also sets the centre."""
        outputs = self.represent(batch)
        self._set_centre(outputs.detach().mean(0))
        distance = (outputs - self.centre).square().sum(1).mean()
        squares = torch.stack([weight.square().sum() for weight in self.network.parameters()]).sum()
        networks.differentiate(distance + self.hyperparameters.decay / 2 * squares, self.network)
        self.optimiser.step()
        return {"distance": distance}

    def represent(self, x: Tensor) -> Tensor:
        """Return phi(x) [B, nz] of images, whose contrast is normalised first."""
        centred = x - x.mean((1, 2, 3), keepdim=True)
        magnitude = centred.abs().mean((1, 2, 3), keepdim=True)
        outputs: Tensor = self.network(centred / torch.where(magnitude > 0, magnitude, 1.0 + 0 * magnitude))
        return outputs

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute |phi(x) - c|^2, [B]."""
        return {"score": (self.represent(batch) - self.centre).square().sum(1)}

    def _set_centre(self, average: Tensor) -> None:
        """Set the centre in the first step, and count the steps; it does not wait for the device."""
        away = torch.where(average < 0, -NEAR, NEAR)
        initial = torch.where(average.abs() < NEAR, away.to(average), average)
        self.centre = torch.where(self.steps > 0, self.centre, initial)
        self.steps = self.steps + 1
