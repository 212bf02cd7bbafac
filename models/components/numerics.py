"""The arithmetic of a training step: how exactly networks multiply.

    float32   IEEE single precision
    tf32      products on a GPU round their factors to 10 bits of mantissa and add up in float32
    bf16      networks compute in bfloat16, 7 bits of mantissa, and answer in float32

Under bf16 torch's autocast is on while a network runs: a module with weights that a step calls.  Its
answer is float32, so losses are, and gradients, weights and moments of Adam always are.  No detector
says any of this; `models.components.networks` keeps what squashes, sigmoid and tanh, in float32, because rounded to
bfloat16 0.998 is 1, where a gradient ends and a loss is none.

Scores are float32 in any case: a kernel is chosen by the size of its batch, and in bfloat16 that
would be seen in the third digit of an image's score.
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
def arithmetic(precision: str, device: str) -> Iterator[None]:
    """Run what is within in that precision.

    Args:
        precision: one of `PRECISIONS`.
        device: type of the device, "cpu" or "cuda".
    """
    with ExitStack() as stack:
        if device == "cuda":
            stack.enter_context(_products_in("tf32" if precision == "tf32" else "ieee"))
        if precision == "bf16":
            stack.enter_context(_networks_in_bf16(device))
        yield


@contextmanager
def _products_in(precision: str) -> Iterator[None]:
    """Matrix products and convolutions of float32 tensors on a GPU; cuDNN's own default is TF32."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, conv.fp32_precision
    matmul.fp32_precision = conv.fp32_precision = precision
    try:
        yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


@contextmanager
def _networks_in_bf16(device: str) -> Iterator[None]:
    """Autocast within every outermost call of a module with weights; what it returns becomes float32."""
    region = ExitStack()
    depth = 0

    def enter(module: nn.Module, _: Any) -> None:
        nonlocal depth
        if depth == 0 and next(module.parameters(), None) is None:
            return  # no network: a loss, an activation
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
        region.close()  # open still, if a network has raised


def _float32(answer: Tensor) -> Tensor:
    return answer.float() if answer.dtype == torch.bfloat16 else answer
