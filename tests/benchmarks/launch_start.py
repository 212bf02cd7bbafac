"""From the start of `launch` to the first step that a trial trains, on this machine, caches warm.

A small GANomaly of one epoch; the first step is dated by the result: when it was put, less the seconds
of training, so that what follows training counts as well.  The store holds the dataset after the first
launch.  Reference, measured in turn: an interpreter that imports ray, starts it on two CPUs, and lets one
actor import torch, which no driver of Ray can do without.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.measure import ROOT, arguments, bar, figure, folder, header, launch, middle
from tests.support.sweeps import environment, results_of, write_config

BAR = 10.0
BARE_RAY = """
import ray
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
@ray.remote(num_cpus=1)
class Worker:
    def step(self):
        import torch
        return float(torch.ones(2).sum())
worker = Worker.remote()
print(ray.get(worker.step.remote()))
"""
QUIET = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}


def main() -> None:
    options = arguments(__doc__, ("n", 5, "repetitions, after one that warms the caches"))
    with folder() as place:
        header()
        warm = _launched(place, 0)
        taken: list[float] = []
        bare: list[float] = []
        for number in range(1, options.n + 1):
            bare.append(_bare_ray())
            taken.append(_launched(place, number))
    print(f"warming up: {warm:.1f} s")
    print("launch to first step, s: " + " ".join(f"{value:.2f}" for value in taken))
    print("bare Ray and torch, s:   " + " ".join(f"{value:.2f}" for value in bare))
    ratio = f"ratio {median(taken) / median(bare):.2f}; {bar(median(taken), most=BAR)}"
    figure("launch to first training step", middle(taken), f"bare Ray and torch {middle(bare)}", ratio)


def _launched(place: Path, number: int) -> float:
    """Seconds to the first step of a trial that was never run."""
    small = {"epochs": 1, "width": 4}
    study = {"detectors": ["ganomaly"], "abnormal": [0], "seeds": [number], "hyperparameters": {"all": small}}
    config = write_config(place, [study])
    before = results_of(place)
    began = time.time()
    launch(config)
    (key,) = results_of(place).keys() - before
    put = (place / "store/trials" / key / "result.json").stat().st_mtime
    return put - began - float(results_of(place)[key]["train_seconds"])


def _bare_ray() -> float:
    """Seconds to what one actor answers; Ray's end is not counted, as it is not in a launch."""
    process = subprocess.Popen(
        [sys.executable, "-c", BARE_RAY],
        cwd=ROOT,
        env=environment(**QUIET),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    began = time.perf_counter()
    assert process.stdout is not None and process.stdout.readline() == b"2.0\n"
    took = time.perf_counter() - began
    process.wait()
    return took


if __name__ == "__main__":
    main()
