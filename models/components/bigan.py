"""EGBAD's published networks for 28x28 images: encoder, generator, and the two branches of the discriminator.

They are those of github.com/houssamzenati/Efficient-GAN-Anomaly-Detection, `bigan/mnist_utilities.py`: TensorFlow's
"same" padding, biases everywhere, LeakyReLU 0.1, BatchNorm with momentum 0.99 (0.01 in torch) and epsilon 1e-3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.hyperparameters import PUBLISHED_SIDE

SLOPE = 0.1  # negative slope of every LeakyReLU
MOMENTUM, EPSILON = 0.01, 1e-3
SIDE = PUBLISHED_SIDE // 4  # height and width of the smallest map
TRUNK_FEATURES = 64 * SIDE * SIDE  # values of the discriminator's last map


class BatchNorm1d(nn.BatchNorm1d):
    """BatchNorm of values [B, F] that accepts a batch of one in training, as TensorFlow's does; torch refuses it."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; the only value of a batch of one is its own mean, so the bias is left of it."""
        if not self.training or len(x) > 1:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None
        with torch.no_grad():
            self.running_mean.lerp_(x[0].to(self.running_mean.dtype), MOMENTUM)
            self.running_var.mul_(1 - MOMENTUM)
        return x - x.detach() + self.bias


def encoder(channels: int, nz: int) -> nn.Sequential:
    """Build E: three 3x3 convolutions to 32, 64 and 128 channels, then a linear layer to codes [B, nz, 1, 1].

    As in the published code, neither nonlinearity nor BatchNorm follows the first convolution.
    """
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, 1, 1),
        *_halve(32, 64),
        *_halve(64, 128),
        nn.Flatten(),
        nn.Linear(128 * SIDE * SIDE, nz),
        nn.Unflatten(1, (nz, 1, 1)),
    )


def generator(channels: int, nz: int) -> nn.Sequential:
    """Build G: linear layers to 1024 and 128x7x7, then two transposed convolutions to images [B, C, 28, 28]."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(nz, 1024),
        BatchNorm1d(1024, EPSILON, MOMENTUM),
        nn.ReLU(inplace=True),
        nn.Linear(1024, 128 * SIDE * SIDE),
        BatchNorm1d(128 * SIDE * SIDE, EPSILON, MOMENTUM),
        nn.ReLU(inplace=True),
        nn.Unflatten(1, (128, SIDE, SIDE)),
        nn.ConvTranspose2d(128, 64, 4, 2, 1),
        nn.BatchNorm2d(64, EPSILON, MOMENTUM),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(64, channels, 4, 2, 1),
        nn.Tanh(),
    )


def trunk(channels: int) -> nn.Sequential:
    """Build D's branch for images: two 4x4 convolutions to 64 channels, flattened to [B, TRUNK_FEATURES]."""
    return nn.Sequential(
        nn.Conv2d(channels, 64, 4, 2, 1),
        nn.LeakyReLU(SLOPE, inplace=True),
        nn.Dropout(0.5),
        nn.Conv2d(64, 64, 4, 2, 1),
        nn.BatchNorm2d(64, EPSILON, MOMENTUM),
        nn.LeakyReLU(SLOPE, inplace=True),
        nn.Dropout(0.5),
        nn.Flatten(),
    )


def initialise(module: nn.Module) -> None:
    """Draw the published initial weights, for `Module.apply`: N(0, 0.02), biases 0; BatchNorm keeps 1 and 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _halve(into: int, out: int) -> list[nn.Module]:
    """Return a 3x3 convolution of stride 2 with BatchNorm; "same" padding adds a row and a column at the end alone."""
    return [
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(into, out, 3, 2),
        nn.BatchNorm2d(out, EPSILON, MOMENTUM),
        nn.LeakyReLU(SLOPE, inplace=True),
    ]
