"""Tune's callbacks: they notice lost processes and find the cause, list the nodes, and end an idle Tuner."""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import cloudpickle, tune

from sweep.engine.tuner.lost_workers import LossCause, LostWorker, list_workers
from sweep.engine.tuner.memory_limit import count_kills, find_limit
from sweep.engine.tuner.searcher import Emit, Jobs, Multiplexer
from sweep.store.attempts import Status, attempt_record
from sweep.store.base import StoreError
from sweep.store.ledger import Ledger

LISTING_SECONDS = 10.0  # time between two events that list the cluster's nodes
LOG_BYTES = 500_000_000  # of the output of all worker processes on this machine
MOST_LOSSES = 10  # a trial that loses more machines than this in a generation counts as failed: it may be the cause


class TrialCallback(tune.Callback):
    """Tune callback that learns when a trial starts and when its process is lost.

    A process that was killed, ran out of memory, hung, or was lost with its machine gives an attempt with its cause.
    """

    def __init__(
        self,
        searcher: Multiplexer,
        ledger: Ledger,
        jobs: Jobs,
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
        key = job["key"]
        try:
            known = self._jobs.own(self._ledger.attempts_of(key))
        except StoreError as error:  # nobody knows now whether the process has recorded this attempt
            self._running.discard(key)
            self._searcher.stop_for_store(error)
            self._searcher.give_back(key)
            return
        if len(known) > self._jobs.own_attempts[key]:  # the process itself has recorded this attempt
            self._running.discard(key)
            self._searcher.fail(key, known[-1], recorded=True)
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
