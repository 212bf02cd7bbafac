"""Arithmetic of a training step: the precision in which networks multiply.

    float32   IEEE single precision
    tf32      products on a GPU round their factors to 10 bits of mantissa and add up in float32
    bf16      networks compute in bfloat16, 7 bits of mantissa, and return float32

With bf16, torch's autocast is on while a network runs; a network is a module with weights that a step calls.  It
returns float32, so losses are float32; gradients, weights and moments of Adam are always float32.  Detectors need no
code for this.  `models.components.networks` computes sigmoid and tanh in float32: bfloat16 rounds 0.998 to 1, where the
gradient is zero and a loss may vanish.

Scores are always float32: torch chooses a kernel by the batch size, and in bfloat16 that choice would change the third
digit of an image's score.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._pytree import tree_map_only

PRECISIONS = ("float32", "tf32", "bf16")


@contextmanager
def use_precision(precision: str, device: str) -> Iterator[None]:
    """Run the `with` block in the given precision.

    Args:
        precision: one of `PRECISIONS`.
        device: device type, "cpu" or "cuda".
    """
    with ExitStack() as stack:
        if device == "cuda":
            stack.enter_context(_products_in("tf32" if precision == "tf32" else "ieee"))
        if precision == "bf16":
            stack.enter_context(_networks_in_bf16(device))
        yield


@contextmanager
def _products_in(precision: str) -> Iterator[None]:
    """Set the precision of float32 matrix products and convolutions on a GPU, because cuDNN's own default is TF32."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, conv.fp32_precision
    matmul.fp32_precision = conv.fp32_precision = precision
    try:
        yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


@contextmanager
def _networks_in_bf16(device: str) -> Iterator[None]:
    """Use autocast in every outermost call of a module with weights, and convert its results to float32."""
    region = ExitStack()
    depth = 0

    def enter(module: nn.Module, _: Any) -> None:
        nonlocal depth
        if depth == 0 and next(module.parameters(), None) is None:
            return  # a loss or an activation, which is not a network
        if depth == 0:
            region.enter_context(torch.autocast(device, torch.bfloat16))
        depth += 1

    def leave(_: nn.Module, __: Any, output: Any) -> Any:
        nonlocal depth
        if depth == 0:
            return None
        depth -= 1
        if depth == 0:
            region.close()
            return tree_map_only(Tensor, _float32, output)
        return None

    handles = hooks.register_module_forward_pre_hook(enter), hooks.register_module_forward_hook(leave)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        region.close()  # still open if a network raised an exception


def _float32(output: Tensor) -> Tensor:
    return output.float() if output.dtype == torch.bfloat16 else output
