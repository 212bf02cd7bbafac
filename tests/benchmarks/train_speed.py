"""A detector's training step as a trial runs it against a plain rendering of the published one.

Plain: tests/published.py, float32, contiguous, torch's own Adam, batches sliced from a float tensor: no
data loader is counted.  Fast: `Detector.train_step` on uint8 images gathered and normalised batch by
batch, channels_last weights, as `sweep.trial` does it.  Both take turns in one process, so a busy machine
slows both.  Both are float32: the bar is for a CPU without bf16 units.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median

import torch
from measure import arguments, bar, figure, header, middle, seconds
from published import PUBLISHED
from torch import Tensor

from models.catalog import detector as find_detector
from models.catalog import resolve
from models.detector import build

BAR = 1.15  # times the plain rendering's images a second
IMAGES = 1024


def main() -> None:
    options = arguments(
        __doc__,
        ("n", 9, "repetitions"),
        ("steps", 5, "steps of each rendering in a repetition"),
        ("detectors", ",".join(PUBLISHED), "which, separated by commas"),
        ("threads", 1, "CPU threads"),
        ("size", 32, "pixels a side"),
        ("channels", 1, "1 or 3"),
        ("batch", 64, "images a step"),
        ("width", 64, "channels of the outermost layer"),
        ("nz", 100, "length of the latent code"),
    )
    header()
    torch.set_num_threads(options.threads)
    for name in options.detectors.split(","):
        compare(name, options)


def compare(name: str, options: argparse.Namespace) -> None:
    """Time both renderings of one detector in turn, and print the figure."""
    plain, fast = renderings(name, options)
    for step in (plain, fast):
        step(0)  # allocations, kernels
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(options.n):
        for step, found in zip((plain, fast), rates, strict=True):
            took = seconds(lambda step=step: [step(number) for number in range(options.steps)])  # type: ignore[misc]
            found.append(options.steps * options.batch / took)
    ratios = [ours / theirs for theirs, ours in zip(*rates, strict=True)]
    figure(
        f"{name} training, {options.threads} thread(s)",
        middle(rates[1], "images/s"),
        f"plain {middle(rates[0], 'images/s')}",
        f"ratio {bar(median(ratios), least=BAR)}",
    )


def renderings(name: str, options: argparse.Namespace) -> tuple[Callable[[int], object], Callable[[int], object]]:
    """The plain step and the fast one, each called with the number of its batch."""
    torch.manual_seed(0)
    info = find_detector(name)
    chosen = {"batch_size": options.batch, "width": options.width, "nz": options.nz}
    values = resolve(info, info.default_variant, chosen)
    made = build(
        name, channels=options.channels, size=options.size, hyperparameters=values, variant=info.default_variant
    )
    images = torch.randint(0, 256, (IMAGES, options.channels, options.size, options.size), dtype=torch.uint8)
    order = torch.randperm(IMAGES)
    floats = made.normalise(images[order])
    published = PUBLISHED[name](made)
    made.to(memory_format=torch.channels_last)

    def part(of: Tensor, number: int) -> Tensor:
        first = number * options.batch % (IMAGES - options.batch + 1)
        return of[first : first + options.batch]

    def plain(number: int) -> object:
        return published(part(floats, number))

    def fast(number: int) -> object:
        return made.train_step(made.normalise(images[part(order, number)]))

    return plain, fast


if __name__ == "__main__":
    main()
