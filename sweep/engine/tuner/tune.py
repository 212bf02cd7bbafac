"""Plan + queue -> Ray Tune: one Tuner per generation, in a process of its own.

With `sweep.engine.tuner.actor` the only room that knows Ray Tune.  Tune places trials, reuses their processes and
tells of those that died; what is to be run, tried again or forgotten is decided by `sweep.engine.queue` from the
ledger, and Tune's own experiment state is scratch that nobody restores.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import ray
from ray import cloudpickle, tune
from ray.tune.search import Searcher

from sweep.engine.queue import Queue
from sweep.engine.tuner import ray_patches
from sweep.engine.tuner.actor import TrialActor
from sweep.engine.tuner.lost_workers import LossCause, LostWorker, workers
from sweep.engine.tuner.stop_flag import announce
from sweep.engine.tuner_job import TunerJob
from sweep.plan.cost import sample_cost
from sweep.plan.expand import Planned, expand
from sweep.plan.platform import Platform
from sweep.spec.sweep import Sweep
from sweep.store import open_store
from sweep.store.attempts import Status, attempt, failed_before, failures
from sweep.store.base import StoreError
from sweep.store.ledger import Ledger, Record

LISTING_SECONDS = 10.0  # between two lists of the cluster's nodes
MOST_LOSSES = 10  # of one trial's machine in a generation, before the trial itself is suspected
Say = Callable[..., None]  # (event, planned trial or None, **fields)


class Multiplexer(Searcher):
    """The queue as a Tune searcher: every trial of every study and search comes from here."""

    def __init__(self, orders: TunerJob, queue: Queue, ledger: Ledger, jobs: _Jobs, say: Say) -> None:
        super().__init__()
        self.queue, self._ledger, self._jobs, self._say = queue, ledger, jobs, say
        self._orders = orders
        self._given = 0
        self._keys: dict[str, str] = {}
        self.stopped: str | None = None
        self._alike: dict[str, set[str]] = {}
        self._succeeded = False

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Tune's limiter passes everything through, and shows that many pending trials to an autoscaler."""
        del max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is text
        if self.stopped or os.path.exists(self._orders.stop_file):
            return Searcher.FINISHED
        if self._given >= self._orders.quota:
            return Searcher.FINISHED
        try:
            job = self.queue.next()
        except StoreError as error:
            self.stopped = f"the store failed: {error}"
            return Searcher.FINISHED
        if job is None:
            return Searcher.FINISHED if self.queue.finished else None
        self._given += 1
        self._keys[trial_id] = job.key
        return {"job": self._jobs.encode(job.planned)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Heartbeats say nothing that the queue needs."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        key = self._keys.get(trial_id)
        if key is None or error or not result or "outcome" not in result:
            return  # `Watch` hears of processes that died, with their cause
        outcome = result["outcome"]
        if outcome == "result":
            self._finish(key, json.loads(result["record"]))
        elif outcome == "attempt":
            self.fail(key, json.loads(result["record"]))
        elif outcome == "storage":
            self.stopped = f"the store failed: {result['cause']}"
            self.queue.record_interruption(key)
        else:
            self.give_back(key)

    def give_back(self, key: str) -> None:
        """A try was cut short and leaves no record: the trial goes on, later or elsewhere."""
        self.queue.record_interruption(key)
        self._say("interrupted", self._jobs.planned[key])

    def _finish(self, key: str, record: Record) -> None:
        self._succeeded = True
        self.queue.record_result(key, record)
        self._say("result", self._jobs.planned[key], record=record)

    def fail(self, key: str, record: Record, *, recorded: bool = False) -> None:
        """A try ended without a result: append the attempt, then try again or give up."""
        if not recorded:
            try:
                self._ledger.put_attempt(key, record)
            except StoreError as error:  # the store's problem, not the trial's
                self.stopped = f"the store failed: {error}"
                self.queue.record_interruption(key)
                return
        self._jobs.attempts[key] = self._jobs.attempts.get(key, 0) + 1
        if record["status"] == "preempted":
            self.queue.record_interruption(key)
            self._say("attempt", self._jobs.planned[key], record=record, again=True)
            return
        again = self.queue.record_failure(key)
        self._say("attempt", self._jobs.planned[key], record=record, again=again)
        alike = self._alike.setdefault(record["cause"], set())
        alike.add(key)
        limit = self._jobs.sweep.trial.stop_after_failures
        if not self._succeeded and limit and len(alike) >= limit:
            self.stopped = f"the first {len(alike)} trials failed alike: {record['cause']}"

    def save(self, checkpoint_path: str) -> None:
        """Tune insists on a file; the ledger is what is restored from."""
        Path(checkpoint_path).write_text("ledger")

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("Tune's experiment state is never restored")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration to disk, for a restore that never comes


class Watch(tune.Callback):
    """What Tune alone knows: when a trial begins, and when its process is gone.

    Killed, out of memory, hung, or lost with its machine: each is an attempt with its cause.
    """

    def __init__(
        self, searcher: Multiplexer, ledger: Ledger, jobs: _Jobs, say: Say, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._searcher, self._ledger, self._jobs, self._say, self._clock = searcher, ledger, jobs, say, clock
        self._running: set[str] = set()  # keys
        self._unsettled: list[tuple[dict[str, Any], LostWorker]] = []
        self._losses: Counter[str] = Counter()
        self._listed_at = -math.inf

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        key = json.loads(trial.config["job"])["key"]
        self._running.add(key)
        self._say("started", self._jobs.planned[key])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.discard(json.loads(trial.config["job"])["key"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        job = json.loads(trial.config["job"])
        try:
            known = self._ledger.attempts_of(job["key"])
        except StoreError:
            known = []  # `fail` will meet the same store, and stop
        if len(known) > self._jobs.attempts.get(job["key"], 0):  # it wrote its own last words
            self._running.discard(job["key"])
            self._searcher.fail(job["key"], known[-1], recorded=True)
            return
        self._unsettled.append((job, LostWorker(_error_of(trial))))
        self._settle()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._settle()
        if self._clock() - self._listed_at >= LISTING_SECONDS:
            self._listed_at = self._clock()
            self._say("nodes", nodes=workers())

    @property
    def running(self) -> int:
        """Trials that run, or ran on a machine of which nobody knows yet whether it is lost."""
        return len(self._running)

    def close(self, patient: bool) -> None:
        """Settle what is open; impatient, trials whose end nobody can explain yet go on at the next launch."""
        while self._unsettled and patient:
            time.sleep(1.0)
            self._settle()
        for job, _ in self._unsettled:
            self._searcher.give_back(job["key"])

    def _settle(self) -> None:
        for job, death in list(self._unsettled):
            verdict = death.verdict()
            if verdict is not None:
                self._unsettled.remove((job, death))
                self._judge(job, death.error, verdict)

    def _judge(self, job: dict[str, Any], error: Exception, verdict: LossCause) -> None:
        key = job["key"]
        begun = key in self._running
        self._running.discard(key)
        if verdict.of == "process":
            status: Status = "oom" if "OutOfMemory" in str(error) else "failed"
            self._searcher.fail(key, attempt(status, error=error, job=job))
        elif not begun:
            self._searcher.queue.record_interruption(key)
        elif verdict.of == "notice":
            self._searcher.give_back(key)
        else:
            self._losses[key] += 1
            poison = self._losses[key] > MOST_LOSSES
            self._searcher.fail(
                key, attempt("failed" if poison else "preempted", error=error, cause=verdict.cause, job=job)
            )

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as `Multiplexer`


class Standstill(tune.Stopper):
    """Ends the Tuner when all are asked to stop and nothing runs.

    Trials that wait for a machine would wait for as long as none comes.
    """

    def __init__(self, stop_file: str, watch: Watch) -> None:
        self._stop_file, self._watch = stop_file, watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return not self._watch.running and os.path.exists(self._stop_file)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as `Multiplexer`


def _error_of(trial: Any) -> Exception:
    """What Tune was told of a death; `Trial.get_pickled_error` looks where it is copied to later."""
    if trial.pickled_error_file is None:
        return RuntimeError("the process ended without a word")
    error: Exception = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    return error


class _Jobs:
    """Planned trials as what an actor is given."""

    def __init__(self, orders: TunerJob, sweep: Sweep, attempts: dict[str, int]) -> None:
        self.sweep, self.attempts = sweep, attempts
        self.planned: dict[str, Planned] = {}
        self._common = {
            "sweep": sweep.name,
            "launch": orders.launch,
            "storage": sweep.storage,
            "stop_file": orders.stop_file,
            "stop_key": orders.stop_key,
            "cache": orders.cache,
            "cache_bytes": sweep.data.cache_gb * 1e9,
            "checkpoint_seconds": sweep.trial.checkpoint_seconds,
            "hang_seconds": sweep.trial.hang_seconds,
            "provenance": {**orders.provenance, "ray": ray.__version__, "gpus": orders.platform["gpus"]},
        }

    def encode(self, planned: Planned) -> str:
        self.planned[planned.key] = planned
        return json.dumps(
            {
                **self._common,
                "key": planned.key,
                "spec": planned.spec.to_dict(),
                "attempts": self.attempts.get(planned.key, 0),
                "keep_weights": self.sweep.trial.keep != "none" and planned.reported,
            }
        )


def run(orders: TunerJob, events: TextIO) -> None:
    """Run trials until none is left, the quota is used up, or it is stopped; Ray has been started.

    Args:
        orders: what to run.
        events: takes what happens, as JSON lines.
    """
    ray_patches.survive_memory_monitor()
    if not orders.attached:
        ray_patches.take_waiting_workers()
    sweep = Sweep.model_validate(orders.sweep)
    platform = orders.resolved_platform()

    def say(event: str, planned: Planned | None = None, **fields: Any) -> None:
        trial = {} if planned is None else _names(planned)
        events.write(json.dumps({"event": event, "time": time.time(), **trial, **fields}) + "\n")

    ledger = Ledger(open_store(sweep.storage), sweep.name)
    try:
        searcher, jobs = _resume(orders, sweep, ledger, say)
    except StoreError as error:
        say("ended", finished=False, stopped=f"the store failed: {error}")
        return
    say("ready")
    watch = Watch(searcher, ledger, jobs, say)
    with announce(orders.stop_file, orders.stop_key):
        _tuner(orders, platform, searcher, watch).fit()
        watch.close(patient=searcher.stopped is None and not os.path.exists(orders.stop_file))
    say("ended", finished=searcher.queue.finished, stopped=searcher.stopped)


def _resume(orders: TunerJob, sweep: Sweep, ledger: Ledger, say: Say) -> tuple[Multiplexer, _Jobs]:
    """The queue as the ledger leaves it."""
    work = expand(sweep, orders.resolved_platform())
    index = ledger.index()
    tried = ledger.attempts(index, index.attempts.keys() - index.finished)
    jobs = _Jobs(orders, sweep, {key: len(records) for key, records in tried.items()})
    queue = Queue(
        work,
        ledger,
        index.finished,
        sample_cost(work, work.fixed, ledger, index.finished).seconds,
        retries=sweep.trial.retries,
        tries={key: failures(records, orders.launch) for key, records in tried.items()},
        skip={key for key, records in tried.items() if orders.skip_failed and failed_before(records, orders.launch)},
    )
    return Multiplexer(orders, queue, ledger, jobs, say), jobs


def _tuner(orders: TunerJob, platform: Platform, searcher: Multiplexer, watch: Watch) -> tune.Tuner:
    resources = {"cpu": platform.cpus, "gpu": platform.gpus}
    return tune.Tuner(
        tune.with_resources(TrialActor, {name: amount for name, amount in resources.items() if amount}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            max_concurrent_trials=platform.slots,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="generation",
            storage_path=f"{orders.scratch}/tune",
            verbose=0,
            callbacks=[watch],
            stop=Standstill(orders.stop_file, watch),
            failure_config=tune.FailureConfig(max_failures=0),  # the queue tries again, and counts
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


NAMED = (
    "key", "study", "detector", "variant", "setting", "dataset", "protocol", "abnormal", "seed", "reported",
)  # fmt: skip


def _names(planned: Planned) -> dict[str, Any]:
    return {name: getattr(planned, name) for name in NAMED}
