"""One generation of trials on Ray Tune, in its own process.

Only this module and `sweep.engine.tuner.actor` use Ray Tune.  Tune places trials on nodes, reuses their processes, and
reports processes that died.  `sweep.engine.queue` decides from the ledger which trials run or are tried again.  Tune's
own experiment state is temporary, and nothing is restored from it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import ray
from ray import cloudpickle, tune
from ray.tune.search import Searcher

from models.catalog import is_own
from sweep.engine.queue import Queue
from sweep.engine.tuner import ray_patches
from sweep.engine.tuner.actor import TrialActor
from sweep.engine.tuner.lost_workers import LossCause, LostWorker, list_workers
from sweep.engine.tuner.memory_limit import count_kills, find_limit
from sweep.engine.tuner.stop_flag import announce
from sweep.engine.tuner_job import TunerJob
from sweep.plan.cost import sample_cost
from sweep.plan.expand import Planned, expand
from sweep.plan.platform import Platform
from sweep.spec.sweep import Sweep
from sweep.store import open_store
from sweep.store.attempts import Status, attempt_record, failed_before, failures
from sweep.store.base import StoreError, StoreUnreachable
from sweep.store.ledger import Ledger, Record

LISTING_SECONDS = 10.0  # time between two events that list the cluster's nodes
LOG_BYTES = 500_000_000  # of the output of all worker processes on this machine
MOST_LOSSES = 10  # a trial that loses more machines than this in a generation counts as failed: it may be the cause
Emit = Callable[..., None]  # (event, planned trial or None, **fields)


class Multiplexer(Searcher):
    """Tune searcher that takes every trial of every study and search from the queue.

    Args:
        tuner_job: parameters of the generation.
        queue: trials to run.
        ledger: ledger of the sweep, for failed attempts.
        jobs: planned trials and numbers of attempts.
        emit: writes an event.

    Attributes:
        queue: trials to run.
        stopped: why the generation cannot go on; None if it can.
        unreachable: True if it can go on when the store answers again.
    """

    def __init__(self, tuner_job: TunerJob, queue: Queue, ledger: Ledger, jobs: _Jobs, emit: Emit) -> None:
        super().__init__()
        self.queue, self._ledger, self._jobs, self._emit = queue, ledger, jobs, emit
        self._tuner_job = tuner_job
        self._given = 0
        self._keys: dict[str, str] = {}
        self.stopped: str | None = None
        self.unreachable = False
        self._failed_by_cause: dict[str, set[str]] = {}  # cause -> keys
        self._succeeded = False

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Return True: Tune's limiter then passes every trial, and shows an autoscaler that many pending trials."""
        del max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is text
        """Return the configuration of the next trial, FINISHED if there is none, or None if there may be one later."""
        if self.stopped or os.path.exists(self._tuner_job.stop_file):
            return Searcher.FINISHED
        if self._given >= self._tuner_job.quota:
            return Searcher.FINISHED
        try:
            job = self.queue.next()
        except StoreError as error:
            self._stop_for_store(error)
            return Searcher.FINISHED
        if job is None:
            return Searcher.FINISHED if self.queue.finished else None
        self._given += 1
        self._keys[trial_id] = job.key
        return {"job": self._jobs.encode(job.planned)}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Ignore intermediate results, which the queue does not need."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Report the outcome of a trial whose process is alive to the queue and the ledger."""
        key = self._keys.get(trial_id)
        if key is None or error or not result or "outcome" not in result:
            return  # `Watch` handles processes that died, because it gets the cause
        outcome = result["outcome"]
        if outcome == "result":
            self._finish(key, json.loads(result["record"]))
        elif outcome == "attempt":
            self.fail(key, json.loads(result["record"]))
        elif outcome == "storage":
            self._stop_for_store((StoreUnreachable if result["unreachable"] else StoreError)(result["cause"]))
            self.queue.record_interruption(key)
        else:
            self.give_back(key)

    def give_back(self, key: str) -> None:
        """Handle an attempt that was cut short: it leaves no record, and the trial goes on later or elsewhere."""
        self.queue.record_interruption(key)
        self._emit("interrupted", self._jobs.planned[key])

    def _stop_for_store(self, error: StoreError) -> None:
        if self.stopped is None:
            self.stopped, self.unreachable = f"the store failed: {error}", isinstance(error, StoreUnreachable)

    def _finish(self, key: str, record: Record) -> None:
        self._succeeded = True
        try:
            self.queue.record_result(key, record)
        except StoreError as error:  # a search could not record what it decides; the result itself is stored
            self._stop_for_store(error)
        self._emit("result", self._jobs.planned[key], record=record)

    def fail(self, key: str, record: Record, *, recorded: bool = False) -> None:
        """Handle an attempt that ended without a result: record it, then try the trial again or give it up.

        Args:
            key: key of the trial.
            record: record of the attempt.
            recorded: True if the trial's own process has put the record into the ledger.
        """
        if not recorded:
            try:
                self._ledger.put_attempt(key, record)
            except StoreError as error:  # the store's problem, not the trial's
                self._stop_for_store(error)
                self.queue.record_interruption(key)
                return
        self._jobs.attempts[key] = self._jobs.attempts.get(key, 0) + 1
        if record["status"] == "preempted":
            self.queue.record_interruption(key)
            self._emit("attempt", self._jobs.planned[key], record=record, again=True)
            return
        try:
            again = self.queue.record_failure(key, alone=record["status"] == "oom")
        except StoreError as error:
            again = False
            self._stop_for_store(error)
        self._emit("attempt", self._jobs.planned[key], record=record, again=again)
        alike = self._failed_by_cause.setdefault(record["cause"], set())
        alike.add(key)
        limit = self._jobs.sweep.trial.stop_after_failures
        if not self._succeeded and limit and len(alike) >= limit:
            self.stopped = f"the first {len(alike)} trials failed alike: {record['cause']}"

    def save(self, checkpoint_path: str) -> None:
        """Write a placeholder, because Tune requires a file; a later launch restores its state from the ledger."""
        Path(checkpoint_path).write_text("ledger")

    def restore(self, checkpoint_path: str) -> None:
        """Raise AssertionError: nothing calls this."""
        raise AssertionError("Tune's experiment state is never restored")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its configuration to disk for a restore, which never happens here


class TrialCallback(tune.Callback):
    """Tune callback that learns when a trial starts and when its process is lost.

    A process that was killed, ran out of memory, hung, or was lost with its machine gives an attempt with its cause.
    """

    def __init__(
        self,
        searcher: Multiplexer,
        ledger: Ledger,
        jobs: _Jobs,
        emit: Emit,
        logs: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._searcher, self._ledger, self._jobs, self._emit, self._clock = searcher, ledger, jobs, emit, clock
        self._logs = logs  # folder with the output of processes on this machine, if its Ray belongs to this launch
        self._running: set[str] = set()  # keys of running trials
        self._unsettled: list[tuple[dict[str, Any], LostWorker]] = []  # lost processes whose cause is not known yet
        self._losses: Counter[str] = Counter()
        self._kills = count_kills()
        self._listed_at = -math.inf

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report the start of a trial."""
        key = json.loads(trial.config["job"])["key"]
        self._running.add(key)
        self._emit("started", self._jobs.planned[key])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Remove a trial from the running ones; `Multiplexer` handles its outcome."""
        self._running.discard(json.loads(trial.config["job"])["key"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Handle a lost process: take the attempt that the process itself recorded, else find the cause."""
        job = json.loads(trial.config["job"])
        try:
            known = self._ledger.attempts_of(job["key"])
        except StoreError:
            known = []  # `fail` will find the same error of the store, and stop
        if len(known) > self._jobs.attempts.get(job["key"], 0):  # the process itself has recorded this attempt
            self._running.discard(job["key"])
            self._searcher.fail(job["key"], known[-1], recorded=True)
            return
        self._unsettled.append((job, LostWorker(_error_of(trial))))
        self._settle()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look again at lost processes, and list the cluster's nodes every `LISTING_SECONDS`."""
        self._settle()
        if self._clock() - self._listed_at >= LISTING_SECONDS:
            self._listed_at = self._clock()
            self._emit("nodes", nodes=list_workers())
            remove_old_logs(self._logs)

    @property
    def running(self) -> int:
        """Number of trials that run, or ran on a machine that may be lost."""
        return len(self._running)

    def close(self, patient: bool) -> None:
        """Settle all lost processes at the end of the generation.

        Args:
            patient: True to wait until every cause is known.  False to leave the other trials as interrupted, so that
                the next launch continues them.
        """
        while self._unsettled and patient:
            time.sleep(1.0)
            self._settle()
        for job, _ in self._unsettled:
            self._searcher.give_back(job["key"])

    def _settle(self) -> None:
        for job, lost in list(self._unsettled):
            loss = lost.cause()
            if loss is not None:
                self._unsettled.remove((job, lost))
                self._handle_loss(job, lost.error, loss)

    def _handle_loss(self, job: dict[str, Any], error: Exception, loss: LossCause) -> None:
        key = job["key"]
        begun = key in self._running
        self._running.discard(key)
        if loss.of == "process":
            cause = self._memory_cause(error)
            status: Status = "oom" if cause or "OutOfMemory" in str(error) else "failed"
            self._searcher.fail(key, attempt_record(status, error=error, cause=cause, job=job))
        elif not begun:
            self._searcher.queue.record_interruption(key)
        elif loss.of == "notice":
            self._searcher.give_back(key)
        else:
            self._losses[key] += 1
            suspect = self._losses[key] > MOST_LOSSES
            self._searcher.fail(
                key, attempt_record("failed" if suspect else "preempted", error=error, cause=loss.cause, job=job)
            )

    def _memory_cause(self, error: Exception) -> str:
        """Return the cause if the kernel has killed a process for lack of memory since the last call; else ""."""
        before, self._kills = self._kills, count_kills()
        if self._kills == before or "OutOfMemory" in str(error):
            return ""
        limit = find_limit()
        size = "" if limit is None else f", {limit / 2**30:.1f} GiB"
        return f"out of memory: the kernel killed the trial's process at the limit of this container or job{size}"

    def __getstate__(self) -> dict[str, Any]:
        return {}  # see `Multiplexer.__getstate__`


class StopWhenIdle(tune.Stopper):
    """Tune stopper that ends the Tuner when a stop is requested and no trial runs.

    Otherwise trials that wait for a machine would wait until one comes.
    """

    def __init__(self, stop_file: str, watch: TrialCallback) -> None:
        self._stop_file, self._watch = stop_file, watch

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: no single trial is stopped here."""
        return False

    def stop_all(self) -> bool:
        """Return True if the Tuner must end."""
        return not self._watch.running and os.path.exists(self._stop_file)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # see `Multiplexer.__getstate__`


def remove_old_logs(folder: Path, limit: int = LOG_BYTES) -> None:
    """Remove the oldest output of worker processes until the rest is within the limit, in bytes.

    Ray bounds the output of each process, but a launch may start thousands of them.
    """
    files: list[tuple[float, int, Path]] = []
    for file in folder.glob("worker-*"):
        with suppress(FileNotFoundError):  # Ray has rotated it
            found = file.stat()
            files.append((found.st_mtime, found.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= limit:
            return
        file.unlink(missing_ok=True)
        total -= size


def _error_of(trial: Any) -> Exception:
    """Return the error of a lost process; `Trial.get_pickled_error` reads a copy that does not exist yet."""
    if trial.pickled_error_file is None:
        return RuntimeError("the process ended without an error message")
    error: Exception = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    return error


class _Jobs:
    """Planned trials, encoded as parameters of an actor.

    Attributes:
        sweep: spec of the sweep.
        attempts: number of attempts by key.
        planned: encoded trials by key.
    """

    def __init__(self, tuner_job: TunerJob, sweep: Sweep, attempts: dict[str, int]) -> None:
        self.sweep, self.attempts = sweep, attempts
        self.planned: dict[str, Planned] = {}
        self._common = {
            "sweep": sweep.name,
            "launch": tuner_job.launch,
            "storage": sweep.storage,
            "outage_seconds": sweep.budget.outage_seconds,
            "stop_file": tuner_job.stop_file,
            "stop_key": tuner_job.stop_key,
            "folder": tuner_job.folder,
            "cache": tuner_job.cache,
            "cache_bytes": sweep.data.cache_gb * 1e9,
            "checkpoint_seconds": sweep.trial.checkpoint_seconds,
            "hang_seconds": sweep.trial.hang_seconds,
            "provenance": {**tuner_job.provenance, "ray": ray.__version__, "gpus": tuner_job.platform["gpus"]},
        }

    def encode(self, planned: Planned) -> str:
        """Return the JSON that an actor gets for a trial."""
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


def _resume(tuner_job: TunerJob, sweep: Sweep, ledger: Ledger, emit: Emit) -> tuple[Multiplexer, _Jobs]:
    """Make the queue from the plan and the state of the ledger."""
    work = expand(sweep, tuner_job.resolved_platform())
    index = ledger.index()
    tried = ledger.attempts(index, index.attempts.keys() - index.finished)
    jobs = _Jobs(tuner_job, sweep, {key: len(records) for key, records in tried.items()})
    queue = Queue(
        work,
        ledger,
        index.finished,
        sample_cost(work, work.fixed, ledger, index.finished).seconds,
        retries=sweep.trial.retries,
        tries={key: failures(records, tuner_job.launch) for key, records in tried.items()},
        alone={key for key, records in tried.items() if records[-1]["status"] == "oom"},
        skip={
            key for key, records in tried.items() if tuner_job.skip_failed and failed_before(records, tuner_job.launch)
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
