"""Waiting time for commands that start nothing.

These are `--help`, `plan` of a large sweep with an empty store, and `plan` with all its trials finished.  Reference,
measured in turn with them: an interpreter that imports typer and rich's console, and ends.  The finished store has one
result record for each trial, as `run_trial` writes it.  One trial is run, and the other records are copies of its
record with their own keys, because only reading is timed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median

from tests.benchmarks.measure import arguments, bar, figure, folder, header, middle, run, seconds
from tests.support.sweeps import command, write_config

HELP_SECONDS, PLAN_SECONDS = 0.3, 2.0


def main() -> None:
    options = arguments(__doc__, ("trials", 10000, "trials of the plan, a multiple of 10"), ("n", 7, "repetitions"))
    study = {
        "detectors": ["constant"],
        "abnormal": "all",
        "seeds": options.trials // 10,
        "split_seed": "follow",
    }
    with folder() as empty, folder() as full:
        header()
        config, finished = write_config(empty, [study]), write_config(full, [study])
        _finish(finished)
        last = json.loads(run(command("plan", finished, "--json")))
        assert last["done"] == options.trials and not last["to_run"], last
        commands = {
            "interpreter": [sys.executable, "-c", "import typer, rich.console"],
            "--help": command("--help"),
            f"plan of {options.trials}, empty store": command("plan", config),
            f"plan of {options.trials}, all finished": command("plan", finished),
        }
        for words in commands.values():
            run(words)
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.n):
            for name, words in commands.items():
                taken[name].append(seconds(lambda words=words: run(words)))  # type: ignore[misc]
    print(f"{'verb':32} median s  min s")
    for name, values in taken.items():
        print(f"{name:32} {median(values):8.3f} {min(values):6.3f}")
    reference = middle(taken.pop("interpreter"))
    for name, values in taken.items():
        most = HELP_SECONDS if name == "--help" else PLAN_SECONDS
        figure(name, middle(values), f"interpreter {reference}", bar(median(values), most=most))


def _finish(config: Path) -> None:
    """Give every trial of a sweep a result record."""
    from sweep.plan.expand import expand
    from sweep.spec.load import load
    from sweep.store import open_store
    from sweep.store.ledger import Ledger
    from sweep.store.records import canonical_json
    from tests.support.sweeps import platform

    sweep = load(config, [])
    fixed = expand(sweep, platform(sweep)).fixed
    run(command("trial", config, fixed[0].key))
    result = Ledger(open_store(sweep.storage), sweep.name).result(fixed[0].key)
    assert result is not None
    for planned in fixed[1:]:
        record = {**result, "key": planned.key, "spec": planned.spec.to_dict()}
        trial_folder = config.parent / "store/trials" / planned.key
        trial_folder.mkdir()
        (trial_folder / "result.json").write_text(canonical_json(record))
        (trial_folder / "scores.parquet").write_bytes(b"")


if __name__ == "__main__":
    main()
