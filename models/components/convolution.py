"""Convolutions as one matrix product where that is faster on a CPU; torch's own everywhere else.

A convolution is the product of its input's patches with its weights; its transpose turns such products
into patches and adds them up where they overlap.  The CPU library has kernels that need no copy of the
patches, and for most layers they win.  They lose where

- an image has 1 or 3 channels, too few to fill their vectors: the outermost layers;
- the map is 4x4 or less, so weights outweigh positions: the innermost layers.

Measured in float32 on one core of a busy AVX-512 Xeon at 32x32x1, batch 64, width 64, torch 2.14.0:
milliseconds of forward, gradient to the data and gradient to the weights, torch's own against product.

    C(1->64,4,2,1)       1.6  13.2   2.1   against    3.0   3.9   1.4
    C(64->128,4,2,1)    14.0  17.4  18.8   against   23.4  26.0  23.2   left to torch
    C(128->256,4,2,1)   13.9  18.0  17.8   against   12.5  14.6  10.9
    C(256->100,4,1,0)    5.9   7.1   7.6   against    1.5   0.8   0.9
    T(100->256,4,1,0)    6.5   6.5   7.8   against    1.0   1.6   0.9
    T(256->128,4,2,1)   17.9  14.1  16.6   against   14.0  12.9  12.9
    T(128->64,4,2,1)    10.5   9.5  18.2   against   20.4  20.2  24.8   left to torch
    T(64->1,4,2,1)      12.4   2.6   1.5   against    2.4   3.1   2.2

Sums are ordered differently, so last digits differ from the library's, by some 1e-6.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

THIN = 3  # channels
SMALL = 4  # pixels a side


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d`, same weights, same names; images and kernels are square, no dilation, no groups."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        side = (input.shape[2] + 2 * int(self.padding[0]) - self.kernel_size[0]) // self.stride[0] + 1
        if not _product_is_faster(input, self.in_channels, side):
            return super().forward(input)
        output: Tensor = _Convolution.apply(*_channels_last(input, self.weight), self.stride[0], int(self.padding[0]))
        return output if self.bias is None else output + self.bias[:, None, None]


class ConvTranspose2d(nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d`, same weights, same names; images and kernels are square, no dilation, no groups."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: A002  (torch's name)
        if output_size is not None or not _product_is_faster(input, self.out_channels, input.shape[2]):
            return super().forward(input, output_size)
        output: Tensor = _Transposed.apply(*_channels_last(input, self.weight), self.stride[0], int(self.padding[0]))
        return output if self.bias is None else output + self.bias[:, None, None]


def _product_is_faster(x: Tensor, channels: int, side: int) -> bool:
    """Whether a layer between images of so many channels and a map so large is one of those above."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and (channels <= THIN or side <= SMALL)


def _channels_last(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """[B, H, W, C] and [D, k, k, C]: views, and never leaves of the graph, of which `_wanted` could not tell."""
    return x.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)


def _gradient_wanted(ctx: Any, place: int) -> bool:
    """Whether this backward pass asks for the gradient to that input of its function.

    `ctx.needs_input_grad` knows no `inputs` of `torch.autograd.backward`, as `networks.differentiate`
    gives them, and half of all gradients would be computed for nobody.
    """
    node = ctx.next_functions[place][0]
    return node is not None and bool(torch._C._will_engine_execute_node(node))


class _Convolution(torch.autograd.Function):
    """x [B, H, W, C] and weights [D, k, k, C] to an image [B, D, h, w]."""

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
    """x [B, h, w, D] and weights [D, k, k, C] to an image [B, C, H, W]: `_Convolution`'s gradient to its x."""

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
    """An empty image [B, C, H, W] for as many as in x, and itself as [B, H, W, C].

    It is no view, because a view made here may not be changed in place, as activations do.
    """
    shape = (len(x), channels, side, side)
    output = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return output, output.permute(0, 2, 3, 1)


def _patches(x: Tensor, kernel: int, stride: int, padding: int) -> tuple[Tensor, int]:
    """im2col: what each output position sees of [B, H, W, C], as [B * h * w, k * k * C], and h = w."""
    x = functional.pad(x, (0, 0, padding, padding, padding, padding)) if padding else x
    x = x.contiguous()
    batch, height, _, channels = x.shape
    side = (height - kernel) // stride + 1
    image, row, column, _ = x.stride()
    seen = x.as_strided(
        (batch, side, side, kernel, kernel, channels), (image, stride * row, stride * column, row, column, 1)
    )
    return seen.reshape(batch * side * side, kernel * kernel * channels), side


def _add_patches(patches: Tensor, shape: torch.Size, kernel: int, stride: int, padding: int) -> Tensor:
    """col2im, the transpose of `_patches`: overlapping patches added up to [B, H, W, C] of that `shape`."""
    batch, height, width, channels = shape
    side = (height + 2 * padding - kernel) // stride + 1
    if side == 1 and not padding:
        return patches.view(shape)  # one patch an image: nothing overlaps
    parts = patches.view(batch, side, side, kernel, kernel, channels)
    padded = patches.new_zeros(batch, height + 2 * padding, width + 2 * padding, channels)
    reach = stride * (side - 1) + 1
    for i in range(kernel):
        for j in range(kernel):
            padded[:, i : i + reach : stride, j : j + reach : stride] += parts[:, :, :, i, j]
    return padded[:, padding : padding + height, padding : padding + width]
