"""A generation: the process that starts Ray on this machine and drives one Tuner.

Started as `python -m sweep.generation FILE` by `sweep.cluster`, with the environment that it sets.
Says what happens as JSON lines on the file descriptor in the file; ends when its quota of trials is
used up, when nothing is left, or when the stop file appears.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import sys
import threading
from pathlib import Path

import ray

from sweep.orders import Orders


def main(file: Path) -> None:
    """Start Ray, run the generation, end Ray."""
    orders = Orders(**json.loads(file.read_text()))
    tuning = threading.Thread(target=importlib.import_module, args=["sweep.tune"])
    tuning.start()  # importing Tune takes as long as Ray's processes take to start
    platform = orders.resolved_platform()
    ray.init(
        address="local",  # a cluster of our own, whatever RAY_ADDRESS says
        num_cpus=platform.slots * platform.cpus,
        num_gpus=math.ceil(platform.slots * platform.gpus),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=100 * 2**20,  # results are small; images are mapped from the node's cache
        _temp_dir=f"{orders.scratch}/ray",
    )
    tuning.join()
    try:
        from sweep.tune import run

        run(orders)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
