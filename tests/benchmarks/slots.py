"""Two trials of one core at the same time, compared with one trial of two cores.

GANomaly on digits for a few epochs.  Each trial runs in a new process, with OMP_NUM_THREADS equal to the trial's own
threads.  Both ways train the same number of images: several trials at once on one core each, or one after the other
on all cores.  It prints the images per second of the whole machine during training, from the trials' own clocks, and
the wall-clock seconds of each way, with the start of the processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.measure import ROOT, arguments, figure, folder, header, middle
from tests.support.sweeps import environment, write_config

CHILD = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.support.sweeps import platform
from sweep.plan.expand import expand
from sweep.spec.load import load
from sweep.store import open_store
from sweep.trial.options import Options
from sweep.trial.run import run_trial
sweep = load(Path(sys.argv[1]), [f"trial.cpus={sys.argv[2]}"])
planned = expand(sweep, platform(sweep)).fixed[int(sys.argv[3])]
run = run_trial(planned.spec, open_store(sweep.storage), Options(Path(sweep.data.cache), lambda_default=0.0))
while True:
    try:
        next(run)
    except StopIteration as ended:
        print(ended.value["images_per_second"])
        break
"""


def main() -> None:
    cores = len(os.sched_getaffinity(0))
    options = arguments(
        __doc__,
        ("n", 3, "repetitions"),
        ("epochs", 3, "epochs of a trial"),
        ("width", 16, "channels of GANomaly's first layer"),
        ("cores", cores, "cores that are compared"),
    )
    study = {
        "detectors": ["ganomaly"],
        "abnormal": [0],
        "seeds": (options.n + 1) * options.cores,
        "hyperparameters": {"ganomaly": {"epochs": options.epochs, "width": options.width, "batch_size": 64}},
    }
    with folder() as scratch:
        header()
        config = write_config(scratch, [study])
        _prepare(config)
        _trials(config, 1, [0])
        at_once: list[tuple[float, float]] = []
        in_turn: list[tuple[float, float]] = []
        for n in range(1, options.n + 1):
            seeds = list(range(n * options.cores, (n + 1) * options.cores))
            at_once.append(_trials(config, 1, seeds))
            alone = [_trials(config, options.cores, [seed]) for seed in seeds]
            in_turn.append((sum(rate for rate, _ in alone) / len(alone), sum(took for _, took in alone)))
    names = (f"{options.cores} trials of 1 core", f"1 trial of {options.cores} cores")
    print(f"{'way':20} images/s, each repetition")
    for name, found in zip(names, (at_once, in_turn), strict=True):
        print(f"{name:20} " + " ".join(f"{rate:.0f}" for rate, _ in found))
    rates = [rate for rate, _ in at_once], [rate for rate, _ in in_turn]
    ratio = median(rates[0]) / median(rates[1])
    figure(
        names[0],
        middle(rates[0], "images/s"),
        f"{names[1]} {middle(rates[1], 'images/s')}",
        f"ratio {ratio:.2f}",
    )
    took = [took for _, took in at_once], [took for _, took in in_turn]
    ratio = median(took[0]) / median(took[1])
    figure(
        f"wall of {options.cores} trials",
        middle(took[0]),
        f"{names[1]} {middle(took[1])}",
        f"ratio {ratio:.2f}",
    )


def _prepare(config: Path) -> None:
    from rich.console import Console

    from sweep.launch.prepared import put_missing
    from sweep.spec.load import load
    from sweep.store import open_store

    sweep = load(config, [])
    put_missing(sweep, open_store(sweep.storage), Console(quiet=True))


def _trials(config: Path, threads: int, numbers: list[int]) -> tuple[float, float]:
    """Run trials at the same time.  Returns the sum of their images per second, and their wall-clock seconds."""
    began = time.perf_counter()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(config), str(threads), str(number)],
            cwd=ROOT,
            env=environment(OMP_NUM_THREADS=str(threads)),
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in numbers
    ]
    outputs = [child.communicate()[0] for child in children]
    return sum(float(text) for text in outputs), time.perf_counter() - began


if __name__ == "__main__":
    main()
