"""Our Adam gives the same bits as torch's fused Adam."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from models.components.adam import Adam


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 4), nn.Flatten())
    return layers.to(memory_format=torch.channels_last)


def losses(made: nn.Module, optimiser: Adam | torch.optim.Optimizer, steps: range) -> list[float]:
    history = []
    for step in steps:
        torch.manual_seed(step)
        loss = made(torch.randn(5, 1, 16, 16)).square().mean()
        made.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        history.append(loss.item())
    return history


def test_thirty_steps_equal_those_of_torch_to_the_bit() -> None:
    ours, other = network(), network()
    reference = torch.optim.Adam(other.parameters(), lr=1e-2, betas=(0.5, 0.999), fused=True)
    assert losses(ours, Adam(ours.parameters(), 1e-2, (0.5, 0.999)), range(30)) == losses(other, reference, range(30))
    for a, b in zip(ours.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_state_loaded_goes_on_as_if_never_stopped() -> None:
    whole, halves = network(), network()
    straight = losses(whole, Adam(whole.parameters(), 1e-2), range(20))
    first = Adam(halves.parameters(), 1e-2)
    before = losses(halves, first, range(10))
    second = Adam(halves.parameters(), 9.0)
    second.load_state_dict(first.state_dict())
    assert before + losses(halves, second, range(10, 20)) == straight


def test_a_parameter_without_gradient_is_left_alone() -> None:
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimiser = Adam([unused, used], 1e-1)
    optimiser.step()  # no parameter has a gradient yet
    torch.autograd.backward(used.square().sum())
    optimiser.step()
    assert torch.equal(unused, torch.ones(3)) and not torch.equal(used, torch.ones(3))


def test_no_step_imports_the_compiler() -> None:
    code = (
        "import sys, torch; from models.components.adam import Adam; p = torch.ones(2, requires_grad=True);"
        "p.sum().backward(); Adam([p], 0.1).step(); sys.exit('torch._dynamo' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=root).returncode == 0
