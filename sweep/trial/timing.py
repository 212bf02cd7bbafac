"""Times of scoring, for runtime studies.

The time starts with pixels in the host's memory and ends with score components there.  It includes the
copy to the device, normalisation, the networks in evaluation mode, and the copy back.  The device is idle
before the clock starts, and has finished before it stops.  The values of the weights do not matter.
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

IMAGES = 1024  # number of test images that are scored in turn


def time_scoring(
    detector: Detector,
    images: npt.NDArray[np.uint8],
    timing: Timing,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> Generator[None, None, list[dict[str, Any]]]:
    """Score batches of each size, first to warm up, then with the time taken.  Pauses after each batch.

    Args:
        detector: detector on the device; it is not changed.
        images: uint8 [N, C, S, S], N >= 1, taken in turn, again from the first after the last.
        timing: sizes and numbers of batches.
        device: device of the detector.
        clock: seconds.

    Returns:
        One entry for each batch size: {"batch_size": B, "seconds": [time of each timed batch, in order]}.
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
    """Wait until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
