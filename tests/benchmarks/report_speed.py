"""Seconds of `report` over 10,000 synthetic rows, from a store of finished trials to the files.

    python -m tests.benchmarks.report_speed --rows 10000 --n 3

Each trial gives two rows (last and oracle).  The results are invented; the code that reads, aggregates, tests and
writes them is the real one.
"""

from __future__ import annotations

import random
import resource
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.measure import arguments, bar, figure, folder, header, middle, run, seconds
from tests.support.sweeps import command, write_config

MOST_SECONDS = 20.0
DETECTORS = ["ganomaly", "skip_ganomaly", "egbad", "autoencoder", "knn"]
CLASSES = 10


def main() -> None:
    options = arguments(__doc__, ("rows", 10_000, "rows, a multiple of 100"), ("n", 3, "repetitions"))
    seeds = options.rows // (2 * CLASSES * len(DETECTORS))
    study = {
        "detectors": DETECTORS,
        "datasets": ["mnist"],
        "abnormal": "all",
        "seeds": seeds,
        "split_seed": "follow",
        "eval_every": 1,
    }
    with folder() as scratch:
        header()
        config = write_config(scratch, [study])
        made = _finish(config)
        words = command("report", config, "-o", scratch / "out")
        taken = [seconds(lambda: run(words)) for _ in range(options.n)]
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        lines = len((scratch / "out/leaderboard.csv").read_text().splitlines())
    name = f"report of {2 * made} rows, {lines - 1} lines of CSV"
    cpu = f"CPU time {(used.ru_utime + used.ru_stime) / options.n:.3g} s"  # its time on an idle machine
    figure(name, middle(taken), cpu, bar(median(taken), most=MOST_SECONDS))


def _finish(config: Path) -> int:
    """Give every trial of the sweep an invented result.  Returns their number."""
    from sweep.plan.expand import expand
    from sweep.spec.load import load
    from sweep.store.records import canonical_json
    from tests.support.sweeps import platform

    sweep, draw = load(config, []), random.Random(0)
    fixed = expand(sweep, platform(sweep)).fixed
    for planned in fixed:
        record: dict[str, Any] = {
            "format": 1, "key": planned.key, "spec": planned.spec.to_dict(), "status": "ok", "cause": None,
            "metrics": [_metrics(selection, draw) for selection in ("last", "oracle")], "validation": None,
            "lam": planned.lam, "parameters": 3_861_632, "epochs_trained": 15, "seconds": 60.0, "train_seconds": 50.0,
            "images_per_second": 1e3, "peak_bytes": 2**30, "device": "cpu", "torch": "2.14.0", "fingerprint": "f",
            "split_hash": "h", "attempts": 0, "host": "here", "commit": None, "dirty": None, "ray": None, "gpus": 0.0,
        }  # fmt: skip
        trial_folder = config.parent / "store/trials" / planned.key
        trial_folder.mkdir(parents=True)
        (trial_folder / "result.json").write_text(canonical_json(record))
    return len(fixed)


def _metrics(selection: str, draw: random.Random) -> dict[str, Any]:
    found = {name: draw.uniform(0.5, 1.0) for name in ("auroc", "ap", "fpr95")}
    counts = {"base_rate": 0.4, "n_normal": 9000, "n_abnormal": 6000, "ties": 0.0, "auroc_se": 0.004}
    return {"selection": selection, "evaluation": "clean", "epoch": 15, **found, **counts}


if __name__ == "__main__":
    main()
