"""Seconds from the start of `launch` to the first training step of a trial, on this machine, with warm caches.

The trial is a small GANomaly of one epoch.  The time of its first step is computed from its result: the time at which
the result was put, minus the seconds of training.  So all that follows training counts as well.  The store has the
dataset after the first launch.  Reference, measured in turn: an interpreter that imports ray, starts it on two CPUs,
and lets one actor import torch, which every program with Ray and torch must do.
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
    with folder() as scratch:
        header()
        warm = _launched(scratch, 0)
        taken: list[float] = []
        bare: list[float] = []
        for number in range(1, options.n + 1):
            bare.append(_bare_ray())
            taken.append(_launched(scratch, number))
    print(f"warming up: {warm:.1f} s")
    print("launch to first step, s: " + " ".join(f"{value:.2f}" for value in taken))
    print("bare Ray and torch, s:   " + " ".join(f"{value:.2f}" for value in bare))
    ratio = f"ratio {median(taken) / median(bare):.2f}; {bar(median(taken), most=BAR)}"
    figure("launch to first training step", middle(taken), f"bare Ray and torch {middle(bare)}", ratio)


def _launched(scratch: Path, number: int) -> float:
    """Return the seconds to the first step of a trial that has not run before."""
    small = {"epochs": 1, "width": 4}
    study = {"detectors": ["ganomaly"], "abnormal": [0], "seeds": [number], "hyperparameters": {"all": small}}
    config = write_config(scratch, [study])
    before = results_of(scratch)
    began = time.time()
    launch(config)
    (key,) = results_of(scratch).keys() - before
    put = (scratch / "store/trials" / key / "result.json").stat().st_mtime
    return put - began - float(results_of(scratch)[key]["train_seconds"])


def _bare_ray() -> float:
    """Return the seconds to the answer of one actor; the shutdown of Ray is not counted, as for a launch."""
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
