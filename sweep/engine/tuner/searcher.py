"""Tune's searcher: it takes every trial from the queue, and reports to the queue and the ledger how each one ended."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.tune.search import Searcher

from sweep.engine.queue import Queue
from sweep.engine.tuner_job import TunerJob
from sweep.plan.expand import Planned
from sweep.spec.sweep import Sweep
from sweep.store.attempts import is_of
from sweep.store.base import StoreError, StoreUnreachable
from sweep.store.ledger import Ledger, Record

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

    def __init__(self, tuner_job: TunerJob, queue: Queue, ledger: Ledger, jobs: Jobs, emit: Emit) -> None:
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
            self.stop_for_store(error)
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
            self._stop(result["cause"], result["unreachable"])
            self.queue.record_interruption(key)
        else:
            self.give_back(key)

    def give_back(self, key: str) -> None:
        """Handle an attempt that was cut short: it leaves no record, and the trial goes on later or elsewhere."""
        self.queue.record_interruption(key)
        self._emit("interrupted", self._jobs.planned[key])

    def stop_for_store(self, error: StoreError) -> None:
        """End the generation because the store failed; no trial is blamed."""
        self._stop(f"the store failed: {error}", isinstance(error, StoreUnreachable))

    def _stop(self, cause: str, unreachable: bool) -> None:
        if self.stopped is None:
            self.stopped, self.unreachable = cause, unreachable

    def _finish(self, key: str, record: Record) -> None:
        self._succeeded = True
        try:
            self.queue.record_result(key, record)
        except StoreError as error:  # a search could not record what it decides; the result itself is stored
            self.stop_for_store(error)
        self._emit("result", self._jobs.planned[key], record=record)

    def fail(self, key: str, record: Record, *, recorded: bool = False) -> None:
        """Handle an attempt that ended without a result: record it, then try the trial again or give it up.

        The trial is finished if the store has its result nevertheless: its process was lost after it had stored it, or
        another launch was faster.

        Args:
            key: key of the trial.
            record: record of the attempt.
            recorded: True if the trial's own process has put the record into the ledger.
        """
        try:
            stored = self._ledger.result(key)
            if stored is None and not recorded:
                self._ledger.put_attempt(key, record)
        except StoreError as error:  # the store's problem, not the trial's
            self.stop_for_store(error)
            self.queue.record_interruption(key)
            return
        if stored is not None:
            self._finish(key, stored)
            return
        self._jobs.attempts[key] = self._jobs.attempts.get(key, 0) + 1
        self._jobs.own_attempts[key] += 1
        if record["status"] == "preempted":
            self.queue.record_interruption(key)
            self._emit("attempt", self._jobs.planned[key], record=record, again=True)
            return
        try:
            again = self.queue.record_failure(key, alone=record["status"] == "oom")
        except StoreError as error:
            again = False
            self.stop_for_store(error)
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


class Jobs:
    """Planned trials, encoded as parameters of an actor.

    Attributes:
        sweep, launch: spec of the sweep, and number of the launch.
        attempts: number of attempts by key.
        own_attempts: number of those of this launch, by key; other sweeps may try the same trials meanwhile.
        planned: encoded trials by key.
    """

    def __init__(self, tuner_job: TunerJob, sweep: Sweep, tried: Mapping[str, Sequence[Record]]) -> None:
        self.sweep, self.launch = sweep, tuner_job.launch
        self.attempts = {key: len(records) for key, records in tried.items()}
        self.own_attempts = Counter({key: len(self.own(records)) for key, records in tried.items()})
        self.planned: dict[str, Planned] = {}
        self._common = {
            "sweep": sweep.name,
            "launch": tuner_job.launch,
            "storage": sweep.storage,
            "outage_seconds": sweep.budget.outage_seconds,
            "stop_file": tuner_job.stop_file,
            "stop_key": tuner_job.stop_key,
            "attached": tuner_job.attached,
            "folder": tuner_job.folder,
            "cache": tuner_job.cache,
            "cache_bytes": sweep.data.cache_gb * 1e9,
            "checkpoint_seconds": sweep.trial.checkpoint_seconds,
            "hang_seconds": sweep.trial.hang_seconds,
            "provenance": {**tuner_job.provenance, "ray": ray.__version__, "gpus": tuner_job.platform["gpus"]},
        }

    def own(self, attempts: Sequence[Record]) -> list[Record]:
        """Return the attempts of this launch."""
        return [record for record in attempts if is_of(record, self.sweep.name, self.launch)]

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
