"""Throughput of the engine with trials that take no time, and the memory of its processes.

`constant` on digits of 16 x 16: ten classes and many seeds for split and training, launched as by a user.  It prints:

- trials per minute between the first and the last result, and for the whole launch with start, change of generations
  and report;
- CPU milliseconds per trial for each kind of process, which are useful on a busy machine, too;
- resident memory of each generation's process and of the launch.

Reference, in the same run: `run_trial` in a plain loop in one process, with the same calls of the store.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import arguments, bar, figure, folder, header, launch
from tests.support.sweeps import results_of, write_config

CLASSES = 10
BAR = 1500  # trials a minute, on 2 cores
FLAT = 1.1  # last generation's memory over the first's


def main() -> None:
    options = arguments(
        __doc__,
        ("trials", 2000, "trials through the engine; 10000 is the bar"),
        ("loop", 200, "trials of the plain loop"),
    )
    with folder() as engine, folder() as plain:
        header()
        usage = launch(_config(engine, options.trials))
        done = sorted(path.stat().st_mtime for path in (engine / "store/trials").glob("*/result.json"))
        assert len(done) == options.trials, f"{len(done)} results of {options.trials} trials"
        loop, loop_cpu = _plain_loop(plain, options.loop)
    rate = 60 * (len(done) - 1) / (done[-1] - done[0])
    whole = 60 * len(done) / usage.seconds
    print(f"{'process':12} CPU ms a trial")
    for role, cpu in sorted(usage.by_role().items()):
        print(f"{role:12} {1000 * cpu / len(done):.1f}")
    print(f"{'plain loop':12} {1000 * loop_cpu:.1f}")
    generations = [looks[-1] for looks in usage.of("generation") if len(looks) > 1]
    peaks = ", ".join(f"{looks:.0f}" for looks in generations)
    launched = usage.of("launch")[0]
    mark = f"{launched[len(launched) // 10]:.0f} MiB early, {launched[-1]:.0f} at the end"
    n = f"n={len(done)}"
    figure("trivial trials a minute", f"{rate:.0f} ({n})", f"plain loop {60 / loop:.0f}", bar(rate, least=BAR))
    figure("the same, whole launch", f"{whole:.0f} ({usage.seconds:.0f} s)", f"plain loop {60 / loop:.0f}",
           f"ratio {whole * loop / 60:.2f}")  # fmt: skip
    flat = max(generations) / generations[0]
    verdict = bar(flat, most=FLAT) if len(generations) > 1 else "one generation: --trials 10000 for more"
    figure("driver memory by generation", f"{peaks} MiB", "the first generation's", verdict)
    figure(
        "launch's memory",
        mark,
        "early in the run",
        f"ratio {launched[-1] / launched[len(launched) // 10]:.2f}",
    )


def _config(scratch: Path, trials: int) -> Path:
    studies: list[dict[str, Any]] = []
    if trials % CLASSES or not 0 < trials <= 1000 * CLASSES:
        raise SystemExit(f"--trials: a multiple of {CLASSES}, {1000 * CLASSES} at most")
    seeds = trials // CLASSES
    studies.append({"detectors": ["constant"], "abnormal": "all", "seeds": seeds, "split_seed": "follow"})
    return write_config(scratch, studies)


def _plain_loop(scratch: Path, trials: int) -> tuple[float, float]:
    """Return wall-clock and CPU seconds per trial of `run_trial` in this process."""
    from rich.console import Console

    from sweep.launch.prepared import put_missing
    from sweep.plan.expand import expand
    from sweep.spec.load import load
    from sweep.store import open_store
    from sweep.trial.options import Options
    from sweep.trial.run import run_trial
    from tests.support.sweeps import platform

    sweep = load(_config(scratch, trials), [])
    store = open_store(sweep.storage)
    put_missing(sweep, store, Console(quiet=True))
    options = Options(cache=scratch / "cache")
    specs = [planned.spec for planned in expand(sweep, platform(sweep)).fixed]
    list(run_trial(specs[0], store, options))  # decodes the dataset
    wall, cpu = time.perf_counter(), time.process_time()
    for spec in itertools.islice(specs, 1, None):
        list(run_trial(spec, store, options))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert len(results_of(scratch)) == trials
    return wall / (trials - 1), cpu / (trials - 1)


if __name__ == "__main__":
    main()
