"""Losses of the published code itself, as numbers, so that errors show which our code and `support.published` share.

`tests/golden/published.json` holds what `get_errors` of the published classes returned after each of 5 steps, with the
repository, commit and method.  They were made in float64 on a CPU with torch 2.14.0, and can be made again like this:

- Check out the commit and make its model with isize 32, nc 3, nz 16, ngf and ndf 8, batchsize 8, lr 2e-3, beta1 0.5,
  w_adv (w_bce) 2, w_con (w_rec) 30, w_enc and w_lat 3.  The unused imports of the file (visdom, pandas, ...) may be
  replaced by anything.  `Ganomaly2` needs add_noise, netG unet, netD dcgan and netD_training fm.
- Convert both networks and the labels to float64.  Fill the parameters of `netg`, and then those of `netd`, in the
  order of `named_parameters` by `parameter` below, and make both optimisers anew.
- For each step set `input` to `images`, `noise` to zero (in `Ganomaly2`, `input.noi` to `noise`), and call the method.
- Two methods change weights that a later gradient still needs, which torch refuses since 1.5.  Make steps on
  `parameter.data`, as torch did before: an Adam of those tensors, with the gradients of the parameters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.build import build
from models.catalog import DETECTORS, resolve
from models.components.networks import UNet
from models.detector import Detector

pytestmark = pytest.mark.usefixtures("one_thread")
PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "published.json").read_text())
BATCH, CHANNELS, SIZE, STEPS = 8, 3, 32, 5
CHOSEN = {"width": 8, "nz": 16, "lr": 2e-3, "w_adv": 2.0, "w_con": 30.0}
LAST = {
    "ganomaly/repo_head": {"w_enc": 3.0},
    "ganomaly/repo_2018": {"w_enc": 3.0},
    "skip_ganomaly/repo_head": {"w_lat": 3.0},
    "skip_ganomaly/repo_2018": {"w_lat": 1.0},  # the published step has no such weight
}
WEIGHTED = {  # losses that the published code of Skip-GANomaly multiplies by their weights before it shows them
    "skip_ganomaly/repo_head": {"g_adv": 2.0, "g_con": 30.0, "g_lat": 3.0},
    "skip_ganomaly/repo_2018": {"g_adv": 2.0, "g_con": 30.0},
}


def values(number: int, shape: tuple[int, ...]) -> Tensor:
    """Return numbers from -0.5 to 0.5 by a formula of integers, which every machine computes alike."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.int64)
    return (((31 * i * i + 7919 * i + 104729 * number) % 10007).double() / 10007 - 0.5).reshape(shape)


def parameter(number: int, shape: tuple[int, ...], is_scale: bool) -> Tensor:
    """Return the values of a network's parameter; those of a BatchNorm's weight are around 1."""
    return 0.1 * values(number, shape) + float(is_scale)


def images(step: int) -> Tensor:
    return 2 * values(1000 + step, (BATCH, CHANNELS, SIZE, SIZE))


def noise(step: int) -> Tensor:
    return 0.4 * values(2000 + step, (BATCH, CHANNELS, SIZE, SIZE))


def in_published_order(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers of a network; the published U-Net is nested, so its layers go down first and then up."""
    if isinstance(network, UNet):
        yield from (network.first, *network.down, *reversed(network.up), network.last)
    else:
        yield network


def fill(network: nn.Module) -> None:
    named = [named for layers in in_published_order(network) for named in layers.named_parameters()]
    assert len(named) == len([*network.parameters()])
    for number, (name, weight) in enumerate(named):
        weight.data = parameter(number, tuple(weight.shape), weight.dim() == 1 and name.endswith("weight")).to(weight)


def make(name: str) -> Detector:
    detector, _, variant = name.partition("/")
    chosen = resolve(DETECTORS[detector], variant, {**CHOSEN, **LAST[name]})
    return build(detector, channels=CHANNELS, size=SIZE, hyperparameters=chosen, variant=variant)


def losses(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Return each loss of the first steps of a detector and variant whose weights and inputs are given by formulas."""
    made = make(name).to(dtype).train()
    for network in (made.get_submodule("generator"), made.get_submodule("discriminator")):
        fill(network)
    history = []
    for step in range(STEPS):
        drawn = noise(step) / 0.2  # the detector multiplies standard normal numbers by 0.2
        monkeypatch.setattr(torch, "randn_like", lambda x, drawn=drawn: drawn.to(x))
        history.append(made.step(images(step).to(dtype)))
    factors = WEIGHTED.get(name, {})
    return {loss: [float(each[loss].detach()) * factors.get(loss, 1.0) for each in history] for loss in history[0]}


@pytest.mark.parametrize("name", PUBLISHED)
def test_losses_in_float64_are_those_that_the_published_code_printed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = losses(name, torch.float64, monkeypatch)
    for loss, expected in PUBLISHED[name]["losses"].items():
        assert found[loss] == pytest.approx(expected, rel=1e-12, abs=0), loss


@pytest.mark.parametrize("name", PUBLISHED)
def test_losses_in_float32_with_our_kernels_are_the_same_up_to_rounding(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = losses(name, torch.float32, monkeypatch)
    for loss, expected in PUBLISHED[name]["losses"].items():
        assert found[loss] == pytest.approx(expected, rel=1e-2), loss


def test_both_published_states_of_both_detectors_are_compared() -> None:
    assert {*PUBLISHED} == {*LAST}
    assert all(len(of_loss) == STEPS for found in PUBLISHED.values() for of_loss in found["losses"].values())
