"""Speed of a detector's training step, compared with a plain version of the published step.

Plain: tests/support/published.py in torch's default float32, contiguous, with torch's own Adam, and batches that are
sliced from a float tensor, so that no data loader is counted.  Fast: `Detector.train_step` as in `sweep.trial.run`,
with uint8 images that are gathered and normalised batch by batch, and channels_last weights.  Its precision is
that of a trial on this machine, or --precision.  Both run in turn in one process, so a busy machine slows both.

ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI shows the speed of a CPU without bf16 units on a CPU that has them.
It ends with one line for each detector: name, plain images/s, fast images/s, ratio.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

from models.build import build
from models.catalog import detector as find_detector
from models.catalog import resolve
from sweep.plan.platform import multiplies_bf16, resolve_precision
from tests.benchmarks.measure import arguments, bar, header, middle, seconds
from tests.support.published import PUBLISHED

BAR, BAR_BF16, BAR_GPU = 1.15, 3.0, 5.0  # ratio of images per second to the plain version
IMAGES = 1024


def main() -> None:
    options = arguments(
        __doc__,
        ("n", 9, "repetitions"),
        ("steps", 5, "steps of each version in a repetition"),
        ("detectors", ",".join(PUBLISHED), "detectors, separated by commas"),
        ("threads", 1, "CPU threads"),
        ("size", 32, "pixels a side"),
        ("channels", 1, "1 or 3"),
        ("batch", 64, "images a step"),
        ("width", 64, "channels of the outermost layer"),
        ("nz", 100, "length of the latent code"),
        ("precision", "auto", "precision of the fast step: auto, float32, tf32 or bf16"),
        ("device", "cpu", "cpu or cuda"),
    )
    header()
    gpu = options.device == "cuda"
    capability = float(".".join(map(str, torch.cuda.get_device_capability()))) if gpu else None
    options.precision = resolve_precision(options.precision, capability)
    torch.set_num_threads(options.threads)
    where = torch.cuda.get_device_name() if gpu else f"{options.threads} CPU thread(s)"
    print(f"fast in {options.precision}, plain in float32, on {where}")
    for name in options.detectors.split(","):
        compare(name, options)


def compare(name: str, options: argparse.Namespace) -> None:
    """Time both versions of one detector in turn, and print the result."""
    plain, fast = renderings(name, options)
    for step in (plain, fast):
        several(step, argparse.Namespace(**{**vars(options), "steps": 1}))  # warm up: allocations and kernels
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(options.n):
        for step, found in zip((plain, fast), rates, strict=True):
            took = seconds(lambda step=step: several(step, options))  # type: ignore[misc]
            found.append(options.steps * options.batch / took)
    ratio = median(ours / theirs for theirs, ours in zip(*rates, strict=True))
    least = BAR_GPU if options.device == "cuda" else BAR_BF16 if multiplies_bf16(None) else BAR
    plain_rate, fast_rate = (middle(found, "images/s") for found in rates)
    print(f"{name} | plain {plain_rate} | fast {fast_rate} | ratio {bar(ratio, least=least)}")


def several(step: Callable[[int], object], options: argparse.Namespace) -> None:
    """Run the steps of one repetition, until the device has finished them."""
    for number in range(options.steps):
        step(number)
    if options.device == "cuda":
        torch.cuda.synchronize()


def renderings(name: str, options: argparse.Namespace) -> tuple[Callable[[int], object], Callable[[int], object]]:
    """Return the plain step and the fast one; each is called with the number of its batch."""
    torch.manual_seed(0)
    info = find_detector(name)
    chosen = {"batch_size": options.batch, "width": options.width, "nz": options.nz}
    values = resolve(info, info.default_variant, chosen)
    made = build(
        name,
        channels=options.channels,
        size=options.size,
        hyperparameters=values,
        variant=info.default_variant,
        precision=options.precision,
    ).to(options.device)
    shape = (IMAGES, options.channels, options.size, options.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8).to(options.device)
    order = torch.randperm(IMAGES).to(options.device)
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
