"""One generation of trials on Ray Tune, in its own process.

Only this package uses Ray Tune.  Tune places trials on nodes, reuses their processes, and reports processes that died.
`sweep.engine.queue` decides from the ledger which trials run or are tried again.  Tune's own experiment state is
temporary, and nothing is restored from it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, TextIO

from ray import tune

from models.catalog import is_own
from sweep.engine.queue import Queue
from sweep.engine.tuner import ray_patches
from sweep.engine.tuner.actor import TrialActor
from sweep.engine.tuner.callbacks import StopWhenIdle, TrialCallback
from sweep.engine.tuner.searcher import Emit, Jobs, Multiplexer
from sweep.engine.tuner.stop_flag import announce
from sweep.engine.tuner_job import TunerJob
from sweep.plan.cost import sample_cost
from sweep.plan.expand import Planned, expand
from sweep.plan.more_seeds import grow
from sweep.plan.platform import Platform
from sweep.spec.sweep import Sweep
from sweep.store import open_store
from sweep.store.attempts import failed_before, failures
from sweep.store.base import StoreError, StoreUnreachable
from sweep.store.ledger import Ledger


def run(tuner_job: TunerJob, events: TextIO) -> None:
    """Run trials until none is left, the quota is used up, or a stop is requested.  Ray is running already.

    Args:
        tuner_job: what to run.
        events: receives events as JSON lines: "ready", "started", "result", "attempt", "interrupted", "nodes", "ended".
    """
    ray_patches.survive_memory_monitor()
    ray_patches.end_after_own_detectors()
    if not tuner_job.attached:
        ray_patches.take_waiting_workers()
    sweep = Sweep.model_validate(tuner_job.sweep)

    def emit(event: str, planned: Planned | None = None, **fields: Any) -> None:
        trial = {} if planned is None else _names(planned)
        events.write(json.dumps({"event": event, "time": time.time(), **trial, **fields}) + "\n")

    ledger = Ledger(open_store(sweep.storage, sweep.budget.outage_seconds), sweep.name)
    try:
        searcher, jobs = _resume(tuner_job, sweep, ledger, emit)
    except StoreError as error:
        silent = isinstance(error, StoreUnreachable)
        emit("ended", finished=False, stopped=f"the store failed: {error}", unreachable=silent)
        return
    emit("ready")
    watch = TrialCallback(searcher, ledger, jobs, emit, Path(tuner_job.scratch) / "ray/session_latest/logs")
    with announce(tuner_job.stop_file, tuner_job.stop_key):
        _tuner(tuner_job, tuner_job.resolved_platform(), searcher, watch).fit()
        watch.close(patient=searcher.stopped is None and not os.path.exists(tuner_job.stop_file))
    emit("ended", finished=searcher.queue.finished, stopped=searcher.stopped, unreachable=searcher.unreachable)


def _resume(tuner_job: TunerJob, sweep: Sweep, ledger: Ledger, emit: Emit) -> tuple[Multiplexer, Jobs]:
    """Make the queue from the plan and the state of the ledger."""
    work = expand(sweep, tuner_job.resolved_platform())
    index = ledger.index()
    work = grow(work, ledger, index.finished)
    tried = ledger.attempts(index, index.attempts.keys() - index.finished)
    jobs = Jobs(tuner_job, sweep, tried)
    queue = Queue(
        work,
        ledger,
        index.finished,
        sample_cost(work, work.fixed, ledger, index.finished).seconds,
        retries=sweep.trial.retries,
        tries={key: failures(records, sweep.name, tuner_job.launch) for key, records in tried.items()},
        alone={key for key, records in tried.items() if records[-1]["status"] == "oom"},
        skip={
            key
            for key, records in tried.items()
            if tuner_job.skip_failed and failed_before(records, sweep.name, tuner_job.launch)
        },
    )
    return Multiplexer(tuner_job, queue, ledger, jobs, emit), jobs


def _tuner(tuner_job: TunerJob, platform: Platform, searcher: Multiplexer, watch: TrialCallback) -> tune.Tuner:
    resources = {"cpu": platform.cpus, "gpu": platform.gpus}
    has_own = any(is_own(name) for study in tuner_job.sweep["studies"] for name in study["detectors"])
    return tune.Tuner(
        tune.with_resources(TrialActor, {name: amount for name, amount in resources.items() if amount}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            max_concurrent_trials=platform.slots,
            reuse_actors=ray_patches.KNOWN or not has_own,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="generation",
            storage_path=f"{tuner_job.scratch}/tune",
            verbose=0,
            callbacks=[watch],
            stop=StopWhenIdle(tuner_job.stop_file, watch),
            failure_config=tune.FailureConfig(max_failures=0),  # the queue counts failures and tries again
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


NAMED = (
    "key", "study", "detector", "variant", "setting", "dataset", "protocol", "abnormal", "seed", "reported",
)  # fmt: skip


def _names(planned: Planned) -> dict[str, Any]:
    return {name: getattr(planned, name) for name in NAMED}
