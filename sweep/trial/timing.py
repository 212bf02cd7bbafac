"""How long scoring takes, for runtime studies.

Timed is what it takes from pixels in the host's memory to score components there: the copy to the device,
normalisation, the networks in evaluation mode, the copy back.  The device is idle before, and has finished
after.  Which weights the networks have changes none of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.detector import Detector
from sweep.spec.trial import Timing

IMAGES = 1024  # that are enough to take in turn


def scoring_times(
    detector: Detector,
    images: npt.NDArray[np.uint8],
    timing: Timing,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> Generator[None, None, list[dict[str, Any]]]:
    """Score batches of each size, warm-up first, and time the rest; pauses after each batch.

    Args:
        detector: on the device; stays as it is.
        images: uint8 [N, C, S, S], N >= 1, taken in turn, again from the first after the last.
        timing: which batches, and how many.
        device: where the detector is.
        clock: seconds.

    Returns:
        one for each batch size: {"batch_size": B, "seconds": [of each timed batch, in order]}.
    """
    found = []
    for size in timing.batch_sizes:
        seconds = []
        for number in range(timing.warmup + timing.repetitions):
            batch = torch.from_numpy(images[np.arange(number * size, (number + 1) * size) % len(images)])
            took = _seconds(detector, batch, device, clock)
            if number >= timing.warmup:
                seconds.append(took)
            yield
        found.append({"batch_size": size, "seconds": seconds})
    return found


def _seconds(detector: Detector, batch: Tensor, device: torch.device, clock: Callable[[], float]) -> float:
    _finish(device)
    began = clock()
    for component in detector.score(detector.normalise(batch.to(device))).values():
        component.cpu()
    _finish(device)
    return clock() - began


def _finish(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
