"""Convolutions as one matrix product in layers where that is faster on a CPU, and as torch's own elsewhere.

A convolution is the product of its input's patches with its weights.  Its transpose computes patches from such products
and adds them up where they overlap.  The CPU library that torch calls has kernels that need no copy of the patches;
they are faster in most layers.  They are slower in two kinds of layer:

- The image has 1 or 3 channels, too few to fill the kernels' vectors: the outermost layers.
- The map is 4x4 or smaller, so that there are more weights than positions: the innermost layers.

Measured in float32 on one core of a busy AVX-512 Xeon at 32x32x1, batch 64, width 64, torch 2.14.0.  The columns are
milliseconds of forward pass, gradient to the data and gradient to the weights: torch's own against the product.

    C(1->64,4,2,1)       1.6  13.2   2.1   against    3.0   3.9   1.4
    C(64->128,4,2,1)    14.0  17.4  18.8   against   23.4  26.0  23.2   left to torch
    C(128->256,4,2,1)   13.9  18.0  17.8   against   12.5  14.6  10.9
    C(256->100,4,1,0)    5.9   7.1   7.6   against    1.5   0.8   0.9
    T(100->256,4,1,0)    6.5   6.5   7.8   against    1.0   1.6   0.9
    T(256->128,4,2,1)   17.9  14.1  16.6   against   14.0  12.9  12.9
    T(128->64,4,2,1)    10.5   9.5  18.2   against   20.4  20.2  24.8   left to torch
    T(64->1,4,2,1)      12.4   2.6   1.5   against    2.4   3.1   2.2

The order of sums differs from the library's, so results differ in the last digits, by about 1e-6.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

THIN = 3  # channels
SMALL = 4  # pixels a side


class Conv2d(nn.Conv2d):
    """Convolution with the weights and names of `torch.nn.Conv2d`.

    Images and kernels must be square, without dilation or groups.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        side = (input.shape[2] + 2 * int(self.padding[0]) - self.kernel_size[0]) // self.stride[0] + 1
        if not _product_is_faster(input, self.in_channels, side):
            return super().forward(input)
        output: Tensor = _Convolution.apply(*_channels_last(input, self.weight), self.stride[0], int(self.padding[0]))
        return output if self.bias is None else output + self.bias[:, None, None]


class ConvTranspose2d(nn.ConvTranspose2d):
    """Transposed convolution with the weights and names of `torch.nn.ConvTranspose2d`.

    Images and kernels must be square, without dilation or groups.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002  (torch's name)
        if output_size is not None or not _product_is_faster(input, self.out_channels, input.shape[2]):
            return super().forward(input, output_size)
        output: Tensor = _Transposed.apply(*_channels_last(input, self.weight), self.stride[0], int(self.padding[0]))
        return output if self.bias is None else output + self.bias[:, None, None]


def _product_is_faster(x: Tensor, channels: int, side: int) -> bool:
    """Return True if a layer is of a kind for which the product is faster (see the head of this module).

    Args:
        x: input of the layer.
        channels: number of channels of the layer's image.
        side: height and width of the layer's map.
    """
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and (channels <= THIN or side <= SMALL)


def _channels_last(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return input and weights as [B, H, W, C] and [D, k, k, C].

    They are views, so that they are not leaves of the graph: `_gradient_wanted` does not work for leaves.
    """
    return x.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)


def _gradient_wanted(ctx: Any, position: int) -> bool:
    """Return True if this backward pass needs the gradient to the function's input at this position.

    `ctx.needs_input_grad` ignores the argument `inputs` of `torch.autograd.backward`, which
    `networks.differentiate` uses; with it, half of all computed gradients would be unused.
    """
    node = ctx.next_functions[position][0]
    return node is not None and bool(torch._C._will_engine_execute_node(node))


class _Convolution(torch.autograd.Function):
    """Convolution: x [B, H, W, C] and weights [D, k, k, C] to an image [B, D, h, w]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        patches, side = _patches(x, weight.shape[1], stride, padding)
        ctx.save_for_backward(patches, weight)
        ctx.shape, ctx.stride, ctx.padding = x.shape, stride, padding
        output, rows = _image(x, side, len(weight))
        torch.mm(patches, weight.reshape(len(weight), -1).T, out=rows.view(len(patches), -1))
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        patches, weight = ctx.saved_tensors
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, len(weight))
        to_x = to_weight = None
        if _gradient_wanted(ctx, 0):
            products = rows @ weight.reshape(len(weight), -1)
            to_x = _add_patches(products, ctx.shape, weight.shape[1], ctx.stride, ctx.padding)
        if _gradient_wanted(ctx, 1):
            to_weight = (rows.T @ patches).view(weight.shape)
        return to_x, to_weight, None, None


class _Transposed(torch.autograd.Function):
    """Transposed convolution: x [B, h, w, D] and weights [D, k, k, C] to an image [B, C, H, W].

    It is the gradient of `_Convolution` to its x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        side = (x.shape[1] - 1) * stride + weight.shape[1] - 2 * padding
        shape = torch.Size([len(x), side, side, weight.shape[3]])
        products = x.reshape(-1, len(weight)) @ weight.reshape(len(weight), -1)
        output, rows = _image(x, side, weight.shape[3])
        rows.copy_(_add_patches(products, shape, weight.shape[1], stride, padding))
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        patches, _ = _patches(gradient.permute(0, 2, 3, 1), weight.shape[1], ctx.stride, ctx.padding)
        to_x = to_weight = None
        if _gradient_wanted(ctx, 0):
            to_x = (patches @ weight.reshape(len(weight), -1).T).view(x.shape)
        if _gradient_wanted(ctx, 1):
            to_weight = (x.reshape(-1, len(weight)).T @ patches).view(weight.shape)
        return to_x, to_weight, None, None


def _image(x: Tensor, side: int, channels: int) -> tuple[Tensor, Tensor]:
    """Return an empty image [B, C, H, W] with x's batch size, and a view of it as [B, H, W, C].

    The image itself is not a view, because activations change it in place, which torch refuses for a view
    that was made inside a function.
    """
    shape = (len(x), channels, side, side)
    output = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return output, output.permute(0, 2, 3, 1)


def _patches(x: Tensor, kernel: int, stride: int, padding: int) -> tuple[Tensor, int]:
    """Return the patch of each output position (im2col) of x [B, H, W, C], as [B * h * w, k * k * C], and h = w."""
    x = functional.pad(x, (0, 0, padding, padding, padding, padding)) if padding else x
    x = x.contiguous()
    batch, height, _, channels = x.shape
    side = (height - kernel) // stride + 1
    image, row, column, _ = x.stride()
    patches = x.as_strided(
        (batch, side, side, kernel, kernel, channels), (image, stride * row, stride * column, row, column, 1)
    )
    return patches.reshape(batch * side * side, kernel * kernel * channels), side


def _add_patches(patches: Tensor, shape: torch.Size, kernel: int, stride: int, padding: int) -> Tensor:
    """Add overlapping patches up to [B, H, W, C] of the given `shape` (col2im, the transpose of `_patches`)."""
    batch, height, width, channels = shape
    side = (height + 2 * padding - kernel) // stride + 1
    if side == 1 and not padding:
        return patches.view(shape)  # one patch per image: nothing overlaps
    parts = patches.view(batch, side, side, kernel, kernel, channels)
    padded = patches.new_zeros(batch, height + 2 * padding, width + 2 * padding, channels)
    reach = stride * (side - 1) + 1
    for i in range(kernel):
        for j in range(kernel):
            padded[:, i : i + reach : stride, j : j + reach : stride] += parts[:, :, :, i, j]
    return padded[:, padding : padding + height, padding : padding + width]
