"""Wall-clock time of a sweep, divided by that of the same trials in a plain pool of the same number of processes.

Each trial takes a fixed time, because the tests' tiny detector sleeps in every step.  So the result measures the
engine only, and does not depend on other work on the machine.  The sweep's time is that of the command, with the
start of Ray and the report.  The time up to the first step, and the rest, are printed separately.  Reference, in the
same run: `multiprocessing` with spawned processes that import torch and call `run_trial` with their own store.
"""

from __future__ import annotations

import math
import multiprocessing
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import arguments, bar, figure, folder, header, launch
from tests.support.sweeps import logged, results_of, write_config

BAR = 1.10
STEPS = 21  # steps of 64 images in a trial: the normal training images of digits


def main() -> None:
    options = arguments(
        __doc__, ("trials", 40, "trials; 20 and more for the bar"), ("seconds", 5.0, "seconds that each trial sleeps")
    )
    study = logged(epochs=1, pause=options.seconds / STEPS) | {"seeds": options.trials}
    with folder() as engine, folder() as plain:
        header()
        config, log = write_config(engine, [study]), engine / "trained"
        began = time.time()
        usage = launch(config, TRAINED_LOG=str(log))
        ends = [(path, path.stat().st_mtime) for path in (engine / "store/trials").glob("*/result.json")]
        records = results_of(engine)
        start = min(end - records[path.parent.name]["seconds"] for path, end in ends) - began
        after = began + usage.seconds - max(end for _, end in ends)
        pool, slots = _pool(write_config(plain, [study]))
        _same(records, results_of(plain))
    ideal = math.ceil(options.trials / slots) * options.seconds
    print(f"{options.trials} trials that sleep {options.seconds:g} s, {slots} at once: {ideal:.1f} s without machinery")
    print(f"sweep {usage.seconds:.1f} s: {start:.1f} to the first trial, {after:.1f} after the last; pool {pool:.1f} s")
    ratio = usage.seconds / pool
    figure(
        "sweep over pool",
        f"{usage.seconds:.1f} s (n={options.trials})",
        f"pool {pool:.1f} s",
        bar(ratio, most=BAR),
    )
    inner = usage.seconds - start - after
    figure(
        "the same without start and end",
        f"{inner:.1f} s",
        f"{ideal:.1f} s slept",
        f"ratio {inner / ideal:.3f}",
    )


def _pool(config: Path) -> tuple[float, int]:
    """Run all trials of a sweep in a pool.  Returns the seconds, and the number of processes."""
    from rich.console import Console

    from sweep.launch.prepared import put_missing
    from sweep.plan.expand import expand
    from sweep.spec.load import load
    from sweep.store import open_store
    from tests.support.sweeps import platform

    began = time.perf_counter()
    sweep = load(config, [])
    put_missing(sweep, open_store(sweep.storage), Console(quiet=True))
    here = platform(sweep)
    jobs = [(planned.spec.to_dict(), sweep.storage, str(sweep.data.cache)) for planned in expand(sweep, here).fixed]
    with multiprocessing.get_context("spawn").Pool(here.slots) as pool:
        pool.map(_trial, jobs, chunksize=1)
    return time.perf_counter() - began, here.slots


def _trial(job: tuple[dict[str, Any], str, str]) -> None:
    from sweep.spec.trial import TrialSpec
    from sweep.store import open_store
    from sweep.trial.options import Options
    from sweep.trial.run import run_trial

    fields, storage, cache = job
    for _ in run_trial(TrialSpec.from_dict(fields), open_store(storage), Options(cache=Path(cache))):
        pass


def _same(ours: dict[str, Any], others: dict[str, Any]) -> None:
    assert ours.keys() == others.keys(), "the two did not run the same trials"
    for key, record in ours.items():
        assert record["metrics"] == others[key]["metrics"], f"{key} differs"


if __name__ == "__main__":
    main()
