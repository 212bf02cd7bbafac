"""Networks that the detectors share (DCGAN encoder and decoder, U-Net, discriminator), and functions to train them.

All networks work on images [B, channels, S, S] with S = 4 * 2^k.  C(a->b, kernel, stride, padding) is a convolution, T
a transposed convolution; both have no bias unless the text mentions one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.components.convolution import Conv2d, ConvTranspose2d

SLOPE = 0.2  # negative slope of every LeakyReLU
COLLAPSED = 1e-5  # a discriminator with a smaller loss gives the generator no useful gradient


def encoder(size: int, channels: int, width: int, outputs: int) -> nn.Sequential:
    """Make the DCGAN encoder: images to codes [B, outputs, 1, 1].

    C(channels->width,4,2,1) LeakyReLU, then C(c->2c,4,2,1) BatchNorm LeakyReLU until the map is
    4x4, then C(->outputs,4,1,0).
    """
    layers: list[nn.Module] = [
        Conv2d(channels, width, 4, 2, 1, bias=False),
        nn.LeakyReLU(SLOPE, inplace=True),
    ]
    side = size // 2
    while side > 4:
        layers += [
            Conv2d(width, 2 * width, 4, 2, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(SLOPE, inplace=True),
        ]
        side, width = side // 2, 2 * width
    return nn.Sequential(*layers, Conv2d(width, outputs, 4, 1, 0, bias=False))


def decoder(size: int, channels: int, width: int, inputs: int) -> nn.Sequential:
    """Make the DCGAN decoder, which mirrors the encoder: codes [B, inputs, 1, 1] to images in (-1, 1)."""
    wide = width * size // 8
    layers: list[nn.Module] = [
        ConvTranspose2d(inputs, wide, 4, 1, 0, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU(inplace=True),
    ]
    while wide > width:
        layers += [
            ConvTranspose2d(wide, wide // 2, 4, 2, 1, bias=False),
            nn.BatchNorm2d(wide // 2),
            nn.ReLU(inplace=True),
        ]
        wide //= 2
    return nn.Sequential(*layers, ConvTranspose2d(width, channels, 4, 2, 1, bias=False), Tanh())


def widen(x: Tensor) -> Tensor:
    """Return x in float32 or, if it is in float64, unchanged: bfloat16 would round probabilities near 1 to 1."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Tanh(nn.Tanh):
    """Tanh in float32 at least, because bfloat16 would round values near 1 to 1."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        return torch.tanh(widen(input))


class Discriminator(nn.Module):
    """Discriminator: computes features f(x) of an image and, from them, D(x), the probability that it is real."""

    def __init__(self, features: nn.Sequential, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return D(x) [B] and f(x) [B, c, h, h] of images [B, C, S, S]."""
        f = self.features(x)
        return torch.sigmoid(widen(self.classifier(f))).flatten(), f


class UNet(nn.Module):
    """U-Net of pix2pix down to a 1x1 map: images to images in (-1, 1).

    Widths from the outside in: n, 2n, 4n, 8n, 8n, ...  A skip connection carries the tensor *after* its
    LeakyReLU, because the published activation works in place.  The ReLU after every skip connection gives
    the same result as with the tensor before its LeakyReLU.
    """

    def __init__(self, size: int, channels: int, width: int) -> None:
        super().__init__()
        levels = size.bit_length() - 1  # log2(size)
        widths = [width * min(2**level, 8) for level in range(levels)]
        self.first = Conv2d(channels, widths[0], 4, 2, 1, bias=False)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for level in range(1, levels):
            outer, inner = widths[level - 1], widths[level]
            innermost = level == levels - 1
            down: list[nn.Module] = [Conv2d(outer, inner, 4, 2, 1, bias=False)]
            self.down.append(nn.Sequential(*down if innermost else [*down, nn.BatchNorm2d(inner)]))
            wide = inner if innermost else 2 * inner
            self.up.append(nn.Sequential(ConvTranspose2d(wide, outer, 4, 2, 1, bias=False), nn.BatchNorm2d(outer)))
        self.last = ConvTranspose2d(2 * widths[0], channels, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        x = self.first(x)
        for down in self.down:
            skips.append(functional.leaky_relu(x, SLOPE, inplace=True))
            x = down(skips[-1])
        x = functional.relu(x, inplace=True)
        for up in reversed(self.up):
            x = functional.relu(torch.cat([skips.pop(), up(x)], 1), inplace=True)
        return torch.tanh(widen(self.last(x)))


def initialise(module: nn.Module) -> None:
    """Draw DCGAN's initial weights, for `Module.apply`: BatchNorm N(1, 0.02), other layers N(0, 0.02), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def differentiate(loss: Tensor, network: nn.Module, *, retain_graph: bool = False) -> None:
    """Set the gradient of `loss` on the parameters of `network`, and compute no other gradients.

    Args:
        loss: scalar.
        network: network whose gradients are replaced.
        retain_graph: True if another gradient will be computed through the same graph.
    """
    network.zero_grad()
    torch.autograd.backward(loss, inputs=list(network.parameters()), retain_graph=retain_graph)


def reinitialise_if(network: nn.Module, condition: Tensor) -> None:
    """Draw new weights for `network` if `condition` is True; BatchNorm's running statistics do not change.

    On a GPU, the call does not wait for the condition's value: it always draws weights, and uses them or not.

    Args:
        condition: bool scalar.
    """
    if condition.device.type != "cpu":
        reinitialise_where(network, condition)
    elif condition:
        network.apply(initialise)


def reinitialise_collapsed(network: nn.Module, losses: Sequence[Tensor]) -> Tensor:
    """Draw new weights for a discriminator (`reinitialise_if`) if any of its losses is below 1e-5.

    Args:
        losses: scalars; at least one.

    Returns:
        bool scalar, True if there are new weights.
    """
    collapsed = losses[0].detach() < COLLAPSED
    for loss in losses[1:]:
        collapsed = collapsed | (loss.detach() < COLLAPSED)
    reinitialise_if(network, collapsed)
    return collapsed


@torch.no_grad()
def reinitialise_where(network: nn.Module, condition: Tensor) -> None:
    """Do the same as `reinitialise_if` without reading the condition's value."""
    before = [parameter.clone() for parameter in network.parameters()]
    network.apply(initialise)
    for parameter, old in zip(network.parameters(), before, strict=True):
        parameter.copy_(torch.where(condition, parameter, old))


def running_statistics(network: nn.Module) -> list[Tensor]:
    """Return copies of all BatchNorm running means and variances, for `pass_again`."""
    return [buffer.clone() for buffer in _statistics(network)]


@torch.no_grad()
def pass_again(network: nn.Module, before: list[Tensor], passes: int) -> None:
    """Update BatchNorm's running statistics as if the passes since `before` were made a second time.

    A training pass changes a statistic r to (1 - m) r + m s, where s is the batch's own statistic.  So p passes
    change it to r' = (1 - m)^p r + c, where c depends on the batches alone.  The same passes again give
    (1 - m)^p r' + c = r' + (1 - m)^p (r' - r).  This function computes it, so that no convolution runs twice.

    Call it after the gradients are computed, because autograd refuses statistics that changed since the pass.

    Args:
        before: result of `running_statistics` before those passes.
        passes: number of those passes.
    """
    for now, old in zip(_statistics(network), before, strict=True):
        now.add_(now - old, alpha=(1 - MOMENTUM) ** passes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.num_batches_tracked is not None:
            module.num_batches_tracked += passes


def binary_cross_entropy(p: Tensor, target: float) -> Tensor:
    """Compute the mean of -log p (target 1) or -log(1 - p) (target 0) over p [B]; logarithms are cut at -100.

    A NaN in p gives NaN.  For NaN, torch's own function stops the program; on a GPU the process cannot recover.
    """
    loss = functional.binary_cross_entropy(p.nan_to_num(0.5), torch.full_like(p, target))
    return loss + (p - p).detach().sum()


MOMENTUM = 0.1  # torch's default for BatchNorm, as published


def _statistics(network: nn.Module) -> list[Tensor]:
    statistics = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            statistics += [module.running_mean, module.running_var]
    return statistics
