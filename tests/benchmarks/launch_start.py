"""From the start of `launch` to the first step that a trial trains, on this machine, caches warm.

A tiny detector appends a line to a file with each step it trains; the time runs from the start of
the command to the first line.  The store holds the dataset after the first launch.  Reference,
measured in turn: an interpreter that imports ray, starts it on two CPUs, and lets one actor import
torch, which no driver of Ray can do without.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from measure import ROOT, arguments, bar, figure, folder, header, middle
from sweeps import command, environment, kill_everything, logged, wait_until, write_config

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
    """Seconds to the first line of a trial that was never run."""
    config, log = write_config(place, [logged(epochs=1) | {"seeds": [number]}]), place / f"trained {number}"
    began = time.perf_counter()
    process = subprocess.Popen(
        command("launch", config, "-y"),
        cwd=ROOT,
        env=environment(TRAINED_LOG=str(log)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: log.exists() and log.read_text(), process)
        took = time.perf_counter() - began
        process.wait(timeout=120)
    finally:
        kill_everything(process)
    return took


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
