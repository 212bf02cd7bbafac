"""A generation: the process that drives one Tuner, on a Ray of its own or on one that it attaches to.

Started by `sweep.engine.tuner_process`, with the environment that it sets, as

    python -m sweep.engine.tuner SCRATCH EVENTS CPUS GPUS    starts Ray on this machine, and ends it
    python -m sweep.engine.tuner SCRATCH EVENTS HOST:PORT    attaches to the Ray cluster there

Ray starts at once; orders are read from standard input when they come.  Says what happens as JSON lines on
the file descriptor EVENTS; ends when its quota of trials is used up, when nothing is left, when the stop
file appears, or when standard input ends without orders.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import threading
from typing import TextIO

import ray

from sweep.engine.tuner import ray_patches
from sweep.engine.tuner_job import TunerJob


def main(scratch: str, events: int, *where: str) -> None:
    """Start Ray or attach to it, run the generation, leave Ray."""
    attached = len(where) == 1
    if attached:
        _leave_signals_to_parent()
    pipe = _standard_input()
    tuning = threading.Thread(target=importlib.import_module, args=["sweep.engine.tuner.tune"])
    tuning.start()  # importing Tune takes as long as Ray's processes take to start
    if attached:
        ray.init(address=where[0], log_to_driver=False, logging_level=logging.ERROR)
    else:
        _start(scratch, *map(int, where))
    tuning.join()
    try:
        with pipe, os.fdopen(events, "w", buffering=1) as said:
            text = pipe.read()
            if text:
                from sweep.engine.tuner.tune import run

                run(TunerJob(**json.loads(text)), said)
    finally:
        ray.shutdown()


def _start(scratch: str, cpus: int, gpus: int) -> None:
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


def _leave_signals_to_parent() -> None:
    """It ends this process in order, by the stop file, or kills it.

    Job systems signal whole families at once.  Ray and Tune would each do something of their own, so no
    thread takes these signals; processes that are started would not either, and here none is.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})


def _standard_input() -> TextIO:
    """Ours alone: Ray's processes would inherit it, and hold it open."""
    pipe = os.fdopen(os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return pipe


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
