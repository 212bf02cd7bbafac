"""k trials as one stack against one after the other, and against k processes: images a second.

Alone: one trial, so k of them take their turns at its rate.  Stacked: `models.stacked.StackedDetectors`.
Both run in this process and take turns, so a busy machine slows both.  With --processes 1 so do k processes
of a trial each, all started before anything is timed: on a GPU, which they share, that is the rival to beat.
On a CPU all of it is of one thread, and a machine of n cores does n times as much of either.  The ratio is
that of the stack to the better of the others.

Stacks are for networks so small that launching kernels takes longer than running them.  On a CPU only the
smallest are like that (--width 4 --batch 8 --nz 16); --device cuda has been run on no GPU yet.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from statistics import median

import torch

from models.build import build
from models.catalog import detector as find_detector
from models.catalog import resolve
from models.detector import Detector
from models.stacked import StackedDetectors
from tests.benchmarks.measure import arguments, bar, figure, header, middle, seconds

BAR = 1.5  # times the better of the others: what would make stacks worth scheduling
IMAGES = 1024
START = multiprocessing.get_context("spawn")  # a fork would not share the GPU


def main() -> None:
    options = arguments(
        __doc__,
        ("n", 5, "repetitions"),
        ("steps", 10, "steps of each trial in a repetition"),
        ("detectors", "ganomaly,skip_ganomaly,autoencoder", "which, separated by commas"),
        ("k", "3,8", "trials in a stack, separated by commas"),
        ("processes", 0, "1 to time k processes, too"),
        ("device", "cpu", "torch device"),
        ("size", 32, "pixels a side"),
        ("channels", 1, "1 or 3"),
        ("batch", 64, "images a step"),
        ("width", 64, "channels of the outermost layer"),
        ("nz", 100, "length of the latent code"),
    )
    header()
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name(options.device) if options.device != "cpu" else "one thread"
    print(f"on {where}: width {options.width}, batch {options.batch}, {options.size}x{options.size}x{options.channels}")
    for name in options.detectors.split(","):
        alone = trainer(name, 0, options)
        for k in map(int, options.k.split(",")):
            ways = {"alone": (alone, 1), "stacked": (trainer(name, k, options), k)}
            with workers(k if options.processes else 0, name, options) as pipes:
                if pipes:
                    ways[f"{k} processes"] = (partial(turn, pipes), k)
                compare(f"{name}, {k} trials stacked", ways, options)


def compare(title: str, ways: dict[str, tuple[Callable[[], None], int]], options: argparse.Namespace) -> None:
    """Time the ways, each its steps and of how many trials they are, in turn; print the figure."""
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.n):
        for way, (steps, trials) in ways.items():
            rates[way].append(trials * options.steps * options.batch / seconds(steps))
    stacked = rates.pop("stacked")
    ratios = [ours / max(others) for ours, *others in zip(stacked, *rates.values(), strict=True)]
    reference = ", ".join(f"{way} {middle(found, 'images/s')}" for way, found in rates.items())
    figure(title, middle(stacked, "images/s"), reference, f"ratio {bar(median(ratios), least=BAR)}")


@contextmanager
def workers(count: int, name: str, options: argparse.Namespace) -> Iterator[list[Connection]]:
    """Processes of a trial each that are ready to train: our ends of their pipes."""
    pipes, processes = [], []
    for _ in range(count):
        here, there = START.Pipe()
        processes.append(START.Process(target=work, args=(there, name, options), daemon=True))
        processes[-1].start()
        there.close()
        pipes.append(here)
    for pipe in pipes:
        pipe.recv()
    try:
        yield pipes
    finally:
        for pipe in pipes:
            pipe.send(False)
        for process in processes:
            process.join()


def turn(pipes: list[Connection]) -> None:
    """Have all these processes take their steps, at once, and wait for the last."""
    for pipe in pipes:
        pipe.send(True)
    for pipe in pipes:
        pipe.recv()


def work(pipe: Connection, name: str, options: argparse.Namespace) -> None:
    """A process that takes a trial's steps whenever it is told to."""
    torch.set_num_threads(1)
    steps = trainer(name, 0, options)
    pipe.send(None)
    while pipe.recv():
        steps()
        pipe.send(None)


def trainer(name: str, k: int, options: argparse.Namespace) -> Callable[[], None]:
    """A repetition's steps of a trial (k = 0) or of a stack, taken once before."""
    device = torch.device(options.device)
    info = find_detector(name)
    chosen = {"batch_size": options.batch, "width": options.width, "nz": options.nz}
    values = resolve(info, info.default_variant, chosen)

    def made() -> Detector:
        return build(
            name, channels=options.channels, size=options.size, hyperparameters=values, variant=info.default_variant
        )

    shape = (IMAGES, options.channels, options.size, options.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    orders = torch.stack([torch.randperm(IMAGES, device=device) for _ in range(max(k, 1))])
    if k:
        stack = StackedDetectors.build(made, range(k), device)
    else:
        one = made().to(device).to(memory_format=torch.channels_last)

    def steps() -> None:
        for number in range(options.steps):
            first = number * options.batch % (IMAGES - options.batch + 1)
            batches = images[orders[:, first : first + options.batch]]
            if k:
                stack.train_step(stack.normalise(batches))
            else:
                one.train_step(one.normalise(batches[0]))
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    steps()  # allocations, kernels
    return steps


if __name__ == "__main__":
    main()
