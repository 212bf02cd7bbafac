"""A generation: the process that starts Ray on this machine and drives one Tuner.

Started as `python -m sweep.generation SCRATCH CPUS GPUS EVENTS` by `sweep.cluster`, with the environment
that it sets.  Ray starts at once; orders are read from standard input when they come.  Says what happens
as JSON lines on the file descriptor EVENTS; ends when its quota of trials is used up, when nothing is
left, when the stop file appears, or when standard input ends without orders.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import threading
from typing import TextIO

import ray

from sweep import ray_patches
from sweep.orders import Orders


def main(scratch: str, cpus: int, gpus: int, events: int) -> None:
    """Start Ray, run the generation, end Ray."""
    pipe = _standard_input()
    tuning = threading.Thread(target=importlib.import_module, args=["sweep.tune"])
    tuning.start()  # importing Tune takes as long as Ray's processes take to start
    ray_patches.start_bare()
    ray.init(
        address="local",  # a cluster of our own, whatever RAY_ADDRESS says
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 * 2**20,  # results are small; images are mapped from the node's cache
        _temp_dir=f"{scratch}/ray",
    )
    tuning.join()
    try:
        with pipe, os.fdopen(events, "w", buffering=1) as said:
            text = pipe.read()
            if text:
                from sweep.tune import run

                run(Orders(**json.loads(text)), said)
    finally:
        ray.shutdown()


def _standard_input() -> TextIO:
    """Ours alone: Ray's processes would inherit it, and hold it open."""
    pipe = os.fdopen(os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return pipe


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
