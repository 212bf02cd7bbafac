"""Networks that the detectors share: DCGAN encoder and decoder, U-Net, discriminator; their training.

All take images [B, channels, S, S] with S = 4 * 2^k.  C(a->b, kernel, stride, padding) is a
convolution, T a transposed one; both without bias unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.components.convolution import Conv2d, ConvTranspose2d

SLOPE = 0.2  # of every LeakyReLU
COLLAPSED = 1e-5  # a discriminator with a smaller loss has nothing left to teach


def encoder(size: int, channels: int, width: int, outputs: int) -> nn.Sequential:
    """DCGAN encoder: images to codes [B, outputs, 1, 1].

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
    """DCGAN decoder, the encoder's mirror: codes [B, inputs, 1, 1] to images in (-1, 1)."""
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


class Tanh(nn.Tanh):
    """`torch.nn.Tanh` in float32, whatever comes in."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        return torch.tanh(input.float())


class Discriminator(nn.Module):
    """D(x), the probability that an image is real, and f(x), the features that it is judged by."""

    def __init__(self, features: nn.Sequential, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images [B, C, S, S] to D(x) [B] and f(x) [B, c, h, h]."""
        f = self.features(x)
        return torch.sigmoid(self.classifier(f).float()).flatten(), f


class UNet(nn.Module):
    """The pix2pix U-Net down to a 1x1 map: images to images in (-1, 1).

    Widths from the outside in: n, 2n, 4n, 8n, 8n, ...  A skip carries the tensor *after* its
    LeakyReLU, because the published activation works in place; the ReLU behind every skip makes
    that the same as before it.
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
        return torch.tanh(self.last(x).float())


def initialise(module: nn.Module) -> None:
    """DCGAN's weights, for `Module.apply`: BatchNorm N(1, 0.02), other layers N(0, 0.02), biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def differentiate(loss: Tensor, network: nn.Module, *, retain_graph: bool = False) -> None:
    """Set the gradient of `loss` on the parameters of `network`, and compute it for no others.

    Args:
        loss: scalar, or [k] of k networks stacked, of which each has a loss of its own.
    """
    network.zero_grad()
    torch.autograd.backward(loss, torch.ones_like(loss), inputs=list(network.parameters()), retain_graph=retain_graph)


def reinitialise_if(network: nn.Module, condition: Tensor) -> None:
    """Draw all weights of `network` anew if `condition` holds; BatchNorm's running statistics stay.

    On a GPU nothing waits for the condition: new weights are drawn every time and taken or not.

    Args:
        condition: bool scalar.
    """
    if condition.device.type != "cpu":
        reinitialise_where(network, condition)
    elif condition:
        network.apply(initialise)


def reinitialise_collapsed(network: nn.Module, losses: Sequence[Tensor]) -> Tensor:
    """`reinitialise_if` any of the discriminator's losses is below 1e-5.

    Args:
        losses: scalars; at least one.

    Returns:
        bool scalar, whether it was.
    """
    collapsed = losses[0].detach() < COLLAPSED
    for loss in losses[1:]:
        collapsed = collapsed | (loss.detach() < COLLAPSED)
    reinitialise_if(network, collapsed)
    return collapsed


@torch.no_grad()
def reinitialise_where(network: nn.Module, condition: Tensor) -> None:
    """`reinitialise_if` without a look at the condition's value."""
    before = [parameter.clone() for parameter in network.parameters()]
    network.apply(initialise)
    for parameter, old in zip(network.parameters(), before, strict=True):
        parameter.copy_(torch.where(condition, parameter, old))


def running_statistics(network: nn.Module) -> list[Tensor]:
    """Copies of all BatchNorm running means and variances, for `pass_again`."""
    return [buffer.clone() for buffer in _statistics(network)]


@torch.no_grad()
def pass_again(network: nn.Module, before: list[Tensor], passes: int) -> None:
    """Move BatchNorm's running statistics as if the passes since `before` were made once more.

    A training pass moves a statistic r to (1 - m) r + m s, s being the batch's own; p passes move
    it to r' = (1 - m)^p r + c with c of the batches alone.  So the same passes again give
    (1 - m)^p r' + c = r' + (1 - m)^p (r' - r), and no convolution is computed twice.

    Call it after the gradients: autograd refuses statistics changed since the pass.

    Args:
        before: `running_statistics` before those passes.
        passes: how many there were.
    """
    for now, old in zip(_statistics(network), before, strict=True):
        now.add_(now - old, alpha=(1 - MOMENTUM) ** passes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.num_batches_tracked is not None:
            module.num_batches_tracked += passes


def binary_cross_entropy(p: Tensor, target: float) -> Tensor:
    """Mean of -log p (target 1) or -log(1 - p) (target 0), logarithms cut at -100, over p [B].

    NaN among p gives NaN; torch's own stops the program there, on a GPU for good.
    """
    loss = functional.binary_cross_entropy(p.nan_to_num(0.5), torch.full_like(p, target))
    return loss + (p - p).detach().sum()


MOMENTUM = 0.1  # torch's default for BatchNorm, as published


def _statistics(network: nn.Module) -> list[Tensor]:
    found = []
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            found += [module.running_mean, module.running_var]
    return found
