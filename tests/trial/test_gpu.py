"""Training on a GPU: numbers near the CPU's, the requested arithmetic, and no waiting for the GPU within an epoch.

These tests are collected only if nvidia-smi exists (`conftest.py`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from models.catalog import detector
from models.components.numerics import PRECISIONS, use_precision
from models.detector import Detector
from sweep.spec.trial import TrialSpec
from sweep.trial.device import device_of
from tests.conftest import unavailable
from tests.models.test_detector_contract import parts_of, state_bits, through_a_file
from tests.support.detector_cases import CASES, Case, blobs

STEPPING = [case[:2] for case in CASES if detector(case[0]).trains_by_epoch and case[2] == "float32"]


@pytest.fixture(autouse=True)
def gpu() -> Iterator[None]:
    """Set the GPU up like a trial does, and restore its settings afterwards."""
    if not torch.cuda.is_available():
        unavailable("nvidia-smi is there, and torch finds no GPU")
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, conv.fp32_precision, torch.backends.cudnn.deterministic
    device_of(TrialSpec("ganomaly", 1, "repo_head", {}, "digits", "", "D1", 1, 1, "0", device="a GPU"))
    yield
    matmul.fp32_precision, conv.fp32_precision, torch.backends.cudnn.deterministic = before


@pytest.fixture(params=STEPPING, ids="-".join)
def named(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return a detector that is trained batch by batch, and its variant."""
    name, variant = request.param
    return name, variant


def on_gpu(case: Case) -> Detector:
    return case.make().to("cuda").to(memory_format=torch.channels_last)


def train(made: Detector, steps: int = 3, seed: int = 7) -> list[dict[str, torch.Tensor]]:
    data = blobs(made.size, 8 * steps, seed=seed).to("cuda")
    return [made.train_step(made.normalise(batch)) for batch in torch.split(data, 8)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_does_not_wait_for_the_gpu(named: tuple[str, str], precision: str) -> None:
    made = on_gpu(Case(*named, precision=precision))
    train(made)
    data = blobs(made.size, 8).to("cuda")
    order = torch.randperm(8).to("cuda")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that this mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        made.train_step(made.normalise(data[order]))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_scores_of_a_trained_state_are_those_of_the_cpu(named: tuple[str, str]) -> None:
    trained = Case(*named).trained()
    moved = on_gpu(Case(*named))
    moved.load_training_state(trained.training_state())
    expected = parts_of(trained, blobs(trained.size, 5))
    for name, part in moved.score(moved.normalise(blobs(moved.size, 5).to("cuda"))).items():
        torch.testing.assert_close(part.cpu(), torch.from_numpy(expected[name]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_learns_in_float32_and_goes_on_to_the_bit(named: tuple[str, str], precision: str) -> None:
    case = Case(*named, precision=precision)
    never = on_gpu(case)
    losses = train(never)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for step in losses for loss in step.values())
    assert all(p.dtype == torch.float32 and p.device.type == "cuda" for p in never.parameters())
    state, random = through_a_file(never.training_state()), torch.cuda.get_rng_state()
    more = train(never, seed=9)
    resumed = on_gpu(case)
    resumed.load_training_state(state)
    torch.cuda.set_rng_state(random)
    assert train(resumed, seed=9) == more
    assert state_bits(never.cpu()) == state_bits(resumed.cpu())


def test_float32_is_not_tf32_and_tf32_is() -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 64, 3, bias=False).to("cuda")
    x = torch.randn(8, 64, 16, 16, device="cuda")
    exact = layer.double()(x.double())
    layer.float()
    worst = {}
    for precision in ("float32", "tf32"):
        with use_precision(precision, "cuda"):
            worst[precision] = float((layer(x) - exact).detach().abs().max())
    assert 20 * worst["float32"] < worst["tf32"]
    assert float((layer(x) - exact).detach().abs().max()) < 2 * worst["float32"]  # as scores are computed
