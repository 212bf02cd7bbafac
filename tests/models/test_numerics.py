"""Networks compute in bfloat16 if it is chosen, and everything outside networks stays in float32."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.build import build
from models.components import networks
from models.components.numerics import PRECISIONS, use_precision

pytestmark = pytest.mark.usefixtures("one_thread")
Pair = namedtuple("Pair", ["left", "right"])


class Parts(nn.Module):
    """A network of two layers that records the dtypes of its parts' outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 3), nn.Linear(2, 2)
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Any], Pair]:
        y = self.first(x)
        self.seen += [y.dtype, self.second(y.mean((2, 3))).dtype]
        return y, {"list": [y], "flag": True}, Pair(y, y.argmax())


def test_a_network_computes_in_bf16_within_and_answers_in_float32() -> None:
    network = Parts()
    with use_precision("bf16", "cpu"):
        y, nested, pair = network(torch.zeros(3, 1, 4, 4))
        assert network.seen == [torch.bfloat16] * 2
        assert {y.dtype, nested["list"][0].dtype, pair.left.dtype} == {torch.float32} and nested["flag"] is True
        assert pair.right.dtype == torch.int64
        assert network.second(y.mean((2, 3))).dtype == torch.float32  # a part that is called alone is a network too
        assert (y.flatten(1) @ y.flatten(1).T).dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def test_losses_and_activations_are_no_networks() -> None:
    p = torch.full((4,), 1 - 1e-6, requires_grad=True)
    with use_precision("bf16", "cpu"):
        loss = nn.Sequential(nn.Flatten(0), nn.BCELoss())
        assert loss[1](loss[0](p), torch.zeros(4)) == functional.binary_cross_entropy(p, torch.zeros(4))


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_other_precisions_change_no_bit_on_a_cpu(precision: str) -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(2, 3, 3), torch.randn(2, 2, 8, 8)
    with use_precision(precision, "cpu"):
        assert torch.equal(layer(x), functional.conv2d(x, layer.weight, layer.bias))


def test_after_an_error_within_a_network_nothing_is_left_on() -> None:
    layer = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(7, 7))
    with pytest.raises(RuntimeError), use_precision("bf16", "cpu"):
        layer(torch.zeros(1, 1, 4, 4))
    assert not torch.is_autocast_enabled("cpu")
    assert layer[0](torch.zeros(1, 1, 4, 4)).dtype == torch.float32
    with use_precision("bf16", "cpu"):
        assert layer[0](torch.zeros(1, 1, 4, 4)).dtype == torch.float32


def test_probabilities_and_images_near_their_ends_keep_their_gradients() -> None:
    """Check values near 1, because bfloat16 rounds 0.998 to 1.

    D's loss would be 0 and count as collapsed, and G's black pixels would have no gradient.
    """
    f = torch.full((1, 1, 1, 1), 8.0, requires_grad=True)
    classifier = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(classifier.weight)
    judge = networks.Discriminator(nn.Sequential(nn.Identity()), classifier)
    with use_precision("bf16", "cpu"):
        p, _ = judge(f)
        white = networks.Tanh()(f.bfloat16() / 2)
    loss = networks.binary_cross_entropy(p, 1.0)
    assert 3e-4 < loss < 4e-4
    assert torch.autograd.grad(loss, f)[0] < -3e-4
    assert torch.autograd.grad(white.sum(), f)[0] > 3e-4


def test_weights_learn_from_sums_in_float32() -> None:
    """In two passes through one network in a step, each gradient is rounded once, but their sum is not rounded."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 64, bias=False)
    x = torch.randn(32, 64)
    with use_precision("bf16", "cpu"):
        torch.autograd.backward((layer(x) + layer(1e-4 * x)).square().sum())
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32
    assert not torch.equal(layer.weight.grad, layer.weight.grad.bfloat16().float())


def test_an_unknown_precision_is_refused_with_the_legal_ones() -> None:
    with pytest.raises(ValueError, match=", ".join(PRECISIONS)):
        build("autoencoder", channels=1, size=16, hyperparameters={}, variant="plain", precision="half")
