"""Implementation of `trial`: run one trial in this process, or describe it with its result and attempts."""

from __future__ import annotations

from statistics import median

from rich.console import Console

from sweep.engine.code_copy import code_hash
from sweep.errors import UserError
from sweep.launch.prepared import put_missing
from sweep.plan.datasets import default_cache
from sweep.plan.expand import Planned
from sweep.plan.launch_record import commit
from sweep.plan.status import SweepStatus
from sweep.spec.sweep import Sweep
from sweep.spec.trial import SHOWN_KEYS, find_key
from sweep.store.base import Store
from sweep.store.ledger import Ledger, Record


def find(status: SweepStatus, key: str) -> Planned:
    """Return the planned trial with a key that begins with `key`.

    Raises:
        UserError: no key or several keys match.
    """
    planned = {planned.key: planned for planned in status.planned}
    found = find_key(key, planned)
    if found is None:
        examples = ", ".join(sorted(planned)[:SHOWN_KEYS])
        raise UserError(f"no trial of this sweep has a key that begins with {key} (some of its keys: {examples})")
    return planned[found]


def run(sweep: Sweep, store: Store, ledger: Ledger, planned: Planned, console: Console) -> Record:
    """Run a trial in this process; if it has a result, only return that."""
    result = ledger.result(planned.key)
    if result is not None:
        return result
    put_missing(sweep, store, console)
    from sweep.trial.options import Progress, finish_trial, make_options
    from sweep.trial.run import run_trial

    options = make_options(
        planned.spec,
        cache=sweep.data.cache or default_cache(),
        cache_bytes=sweep.data.cache_gb * 1e9,
        checkpoint_seconds=sweep.trial.checkpoint_seconds,
        keep_weights=sweep.trial.keep != "none",
        owner=f"trial {planned.key}",
        attempts=len(ledger.attempts_of(planned.key)),
        provenance={**commit(), "code": code_hash(sweep)},
    )

    def show(progress: Progress) -> None:
        doing = f"step {progress.step}/{progress.steps}" if progress.steps else "scoring"
        console.print(f"epoch {progress.epoch}/{progress.epochs}, {doing}    ", end="\r")

    return finish_trial(run_trial(planned.spec, store, options), show)


def describe(ledger: Ledger, planned: Planned) -> str:
    """Return a text on a trial for the terminal: settings, result and attempts."""
    spec = planned.spec
    settings = ", ".join(f"{name}={value}" for name, value in spec.hyperparameters.items())
    lines = [
        f"trial {planned.key}",
        f"{spec.detector} {spec.variant} on {spec.dataset} {spec.protocol}",
        f"{spec.abnormal} is abnormal, seed {spec.seed}, split seed {spec.split_seed}",
        settings,
    ]
    result = ledger.result(planned.key)
    if result is None:
        lines.append("no result yet")
    else:
        lines.append(": ".join(filter(None, (result["status"], result.get("cause")))))
        for entry in result["metrics"]:
            where = f"{entry['selection']}, {entry['evaluation']}, epoch {entry['epoch']}"
            lines.append(f"  AUROC {entry['auroc']:.4f}  AP {entry['ap']:.4f}  FPR95 {entry['fpr95']:.4f}  ({where})")
        for times in result.get("timings", ()):
            each = 1000 * median(times["seconds"]) / times["batch_size"]
            lines.append(
                f"  batches of {times['batch_size']}: {each:.3g} ms an image, median of {len(times['seconds'])}"
            )
        lines.append(f"  {result['seconds']:.1f} s, {result.get('train_seconds') or 0:.1f} s of them training")
    for number, attempt in enumerate(ledger.attempts_of(planned.key), start=1):
        lines += [
            f"attempt {number}: {attempt['status']} on {attempt.get('host')}: {attempt['cause']}",
            attempt.get("log", ""),
        ]
    return "\n".join(lines)
