"""Entry point of the tuner process, which runs one generation of trials on its own Ray cluster or on a running one.

`sweep.engine.tuner_process` starts it, with the environment that it needs, as

    python -m sweep.engine.tuner SCRATCH EVENTS CPUS GPUS    starts Ray on this machine, and stops it at the end
    python -m sweep.engine.tuner SCRATCH EVENTS HOST:PORT    attaches to the Ray cluster at this address

Ray starts at once; then the process waits for a `TunerJob` as JSON on standard input.  It writes events as JSON lines
to the file descriptor EVENTS.  It ends when its quota of trials is used up, when no trial is left, when the stop file
appears, or when standard input ends without a job.
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

from sweep.console import write_anything
from sweep.engine.tuner import ray_patches
from sweep.engine.tuner_job import TunerJob


def main(scratch: str, events: int, *where: str) -> None:
    """Start Ray or attach to it, run the generation, and disconnect from Ray.

    Args:
        scratch: folder for files of Ray and Tune.
        events: file descriptor for the events.
        where: CPUs and GPUs of a new Ray cluster, or HOST:PORT of a running one.
    """
    write_anything()
    attached = len(where) == 1
    if attached:
        _leave_signals_to_parent()
    pipe = _standard_input()
    tuning = threading.Thread(target=importlib.import_module, args=["sweep.engine.tuner.tune"])
    tuning.start()  # the import of Tune takes as long as the start of Ray, so both run in parallel
    if attached:
        ray.init(address=where[0], log_to_driver=False, logging_level=logging.ERROR)
    else:
        _start(scratch, *map(int, where))
    tuning.join()
    try:
        with pipe, os.fdopen(events, "w", buffering=1) as output:
            text = pipe.read()
            if text:
                from sweep.engine.tuner.tune import run

                run(TunerJob(**json.loads(text)), output)
    finally:
        ray.shutdown()


def _start(scratch: str, cpus: int, gpus: int) -> None:
    ray_patches.start_bare()
    ray.init(
        address="local",  # a new cluster, even if RAY_ADDRESS is set
        num_cpus=cpus,
        num_gpus=gpus,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 * 2**20,  # enough: results are small, and images are memory-mapped files
        _temp_dir=f"{scratch}/ray",
    )


def _leave_signals_to_parent() -> None:
    """Block SIGINT, SIGTERM and SIGUSR1, because the parent stops this process by the stop file, or kills it.

    Job systems send signals to a whole process family at once, and Ray and Tune would each react in their own way.
    So no thread receives these signals.  Child processes would inherit the block, but an attached tuner starts none.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1})


def _standard_input() -> TextIO:
    """Return a private copy of standard input and close the original: Ray's processes would keep it open."""
    pipe = os.fdopen(os.dup(0))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return pipe


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
