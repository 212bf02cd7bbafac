"""Losses of 20 steps against committed numbers, which belong to each detector's revision.

If a change of the numbers is intended, raise the revision in `models/catalog.py` and write the file again:
`python -m tests.models.test_golden`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.build import build
from models.catalog import DETECTORS, resolve
from models.info import DetectorInfo

GOLDEN = Path(__file__).parents[1] / "golden" / "losses.json"
TRAINED = [
    f"{name}/{variant}"
    for name, info in DETECTORS.items()
    for variant in info.variants
    if info.trains_by_epoch and resolve(info, variant, {})["epochs"]
]
STEPS, BATCH = 20, 16
# Different CPUs add up in different orders, and adversarial training amplifies the differences: between a Xeon with AMX
# and an EPYC without, losses differ by at most 5e-5 before step 7 and by up to 4e-3 after it.  A change of the
# arithmetic itself gives larger differences from the first steps on.
EARLY, RTOL_EARLY, RTOL_LATE = 7, 1e-4, 1e-2
SMALL = {"width": 8, "nz": 16, "lr": 5e-5}


def batch(step: int, size: int) -> Tensor:
    """Return sixteen smooth images: products of two waves with random frequencies and phases, as uint8."""
    draw = np.random.RandomState(step)
    frequency, phase = draw.uniform(0.1, 0.6, (2, BATCH, 1)), draw.uniform(0, 6.28, (2, BATCH, 1))
    rows, columns = np.sin(frequency * np.arange(size) + phase)
    waves = rows[:, :, None] * columns[:, None, :]
    return torch.from_numpy(np.round(127.5 * (waves + 1)).astype(np.uint8))[:, None]


def info_of(trained: str) -> DetectorInfo:
    return DETECTORS[trained.partition("/")[0]]


def losses(trained: str) -> dict[str, list[float]]:
    """Return each loss of a small detector/variant over 20 steps; float32, one thread, seed 0."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    name, _, variant = trained.partition("/")
    values = resolve(DETECTORS[name], variant, SMALL)
    sizes = DETECTORS[name].variants[variant].sizes
    size = 32 if 32 in sizes else sizes[0]
    made = build(name, channels=1, size=size, hyperparameters=values, variant=variant)
    history = [made.train_step(made.normalise(batch(step, size))) for step in range(STEPS)]
    torch.set_num_threads(threads)
    return {loss: [float(step[loss]) for step in history] for loss in history[0]}


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(GOLDEN.read_text())
    return read


@pytest.mark.parametrize("trained", TRAINED)
def test_losses_of_20_steps_are_the_committed_ones_and_repeat_to_the_bit(trained: str, golden: dict[str, Any]) -> None:
    fix = "changed numbers need a higher revision in models/catalog.py and new golden numbers"
    assert golden[trained]["revision"] == info_of(trained).revision, fix
    first = losses(trained)
    assert first == losses(trained)
    assert first.keys() == golden[trained]["losses"].keys(), fix
    for loss, expected in golden[trained]["losses"].items():
        for steps, rtol in ((slice(EARLY), RTOL_EARLY), (slice(EARLY, None), RTOL_LATE)):
            np.testing.assert_allclose(
                first[loss][steps], expected[steps], rtol=rtol, err_msg=f"{trained} {loss}: {fix}"
            )


def test_every_committed_detector_is_still_in_the_catalog(golden: dict[str, Any]) -> None:
    assert sorted(golden) == sorted(TRAINED)


if __name__ == "__main__":
    committed = {name: {"revision": info_of(name).revision, "losses": losses(name)} for name in TRAINED}
    GOLDEN.write_text(json.dumps(committed, indent=1) + "\n")
