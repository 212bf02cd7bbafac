"""Convolutions as matrix products against torch's own: values, gradients, and which gradients are computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.components import convolution
from models.components.convolution import Conv2d, ConvTranspose2d

LAYERS = [
    (Conv2d, (1, 8, 4, 2, 1), 16),  # thin
    (Conv2d, (3, 8, 4, 2, 1), 16),
    (Conv2d, (6, 5, 4, 2, 1), 8),  # small
    (Conv2d, (6, 5, 4, 2, 1), 2),
    (Conv2d, (6, 5, 4, 1, 0), 4),  # one patch per image
    (Conv2d, (6, 5, 3, 1, 1), 4),
    (ConvTranspose2d, (6, 5, 4, 1, 0), 1),
    (ConvTranspose2d, (6, 5, 4, 2, 1), 1),
    (ConvTranspose2d, (6, 5, 4, 2, 1), 4),
    (ConvTranspose2d, (6, 1, 4, 2, 1), 16),
    (ConvTranspose2d, (6, 3, 4, 2, 1), 16),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(params=LAYERS, ids=str)
def layer(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, Tensor]:
    """Return our layer, torch's own layer with the same weights, and an input."""
    torch.manual_seed(0)
    kind, arguments, side = request.param
    ours = kind(*arguments)
    own = kind.__base__(*arguments)
    own.load_state_dict(ours.state_dict())
    return ours, own, torch.randn(3, arguments[0], side, side)


def test_the_layers_of_this_test_are_products(
    layer: tuple[nn.Module, nn.Module, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _, x = layer
    names = {type(node).__name__ for node in _graph(ours(x))}
    assert names & {"_ConvolutionBackward", "_TransposedBackward"}
    monkeypatch.setattr(convolution, "THIN", 0)
    monkeypatch.setattr(convolution, "SMALL", 0)
    assert not {type(node).__name__ for node in _graph(ours(x))} & {"_ConvolutionBackward", "_TransposedBackward"}


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_values_and_gradients_are_those_of_torch(
    layer: tuple[nn.Module, nn.Module, Tensor], layout: torch.memory_format
) -> None:
    """The layer is followed by an in-place activation, as in the networks."""
    ours, own, x = layer
    ours.to(memory_format=layout)
    results = []
    for module in (ours, own):
        image = x.clone().contiguous(memory_format=layout).requires_grad_()
        output = functional.leaky_relu(module(image), 0.2, inplace=True)
        weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
        torch.autograd.backward((output * weights).sum())
        results.append([output, image.grad, *(parameter.grad for parameter in module.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, check_stride=False)


def test_only_the_gradients_that_a_pass_asks_for_are_computed(
    layer: tuple[nn.Module, nn.Module, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[bool]] = []
    original = convolution._gradient_wanted

    def spy(ctx: Any, position: int) -> bool:
        asked[-1].append(original(ctx, position))
        return asked[-1][-1]

    monkeypatch.setattr(convolution, "_gradient_wanted", spy)
    ours, _, x = layer
    weight = ours.get_parameter("weight")
    leaf = x.clone().requires_grad_()
    for image, inputs in ((leaf, [leaf]), (leaf, [weight]), (leaf, [leaf, weight]), (x, [weight])):
        asked.append([])
        torch.autograd.backward(ours(image).sum(), inputs=inputs)
        asked.append([])
        torch.autograd.grad(ours(image).sum(), inputs)
    assert asked == [[True, False]] * 2 + [[False, True]] * 2 + [[True, True]] * 2 + [[False, True]] * 2


@pytest.mark.parametrize("side", [8, 32])
def test_large_maps_of_many_channels_are_torchs_own_to_the_bit(side: int) -> None:
    torch.manual_seed(0)
    down, up = Conv2d(8, 8, 4, 2, 1), ConvTranspose2d(8, 8, 4, 2, 1)
    x = torch.randn(2, 8, 2 * side, 2 * side)
    assert torch.equal(down(x), functional.conv2d(x, down.weight, down.bias, 2, 1))
    assert torch.equal(up(x), functional.conv_transpose2d(x, up.weight, up.bias, 2, 1))


def test_autocast_and_other_types_are_left_to_torch() -> None:
    layer, x = Conv2d(1, 4, 4, 2, 1), torch.randn(2, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert layer.double()(x.double()).dtype == torch.float64


def _graph(output: Tensor) -> list[Any]:
    nodes: list[Any] = []
    front: list[Any] = [output.grad_fn]
    while front:
        node = front.pop()
        nodes.append(node)
        front += [following for following, _ in node.next_functions if following is not None]
    return nodes
