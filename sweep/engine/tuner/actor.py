"""Ray Tune's Trainable: a process on a worker that runs one trial after another."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from typing import Any

from ray import tune

from data.errors import DataError
from models.catalog import is_own
from sweep.engine.reaper import become_subreaper, kill_descendants
from sweep.engine.tuner.stop_flag import POLL_SECONDS, flag, is_machine_leaving
from sweep.spec.trial import TrialSpec
from sweep.store import open_store
from sweep.store.attempts import Interrupted, Status, attempt_record, is_out_of_memory
from sweep.store.base import StoreError, StoreUnreachable
from sweep.store.ledger import Ledger, Record
from sweep.store.retry import OUTAGE

HUNG_EXIT = 86  # exit status of a process that ends itself because its trial hangs


class Preempted(Exception):
    """Notice that this machine will be taken away; the trial goes on elsewhere from its resume state."""


class TrialActor(tune.Trainable):
    """Process that runs one trial after another.

    The work begins in `step`, because Tune may call `setup` on an actor that it then discards.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Store the job of a new process; called by Tune."""
        self._job: dict[str, Any] = json.loads(config["job"])
        if self._job["folder"] is not None:
            os.chdir(self._job["folder"])
        self._run: Generator[Any, bool | None, Record] | None = None
        if is_own(self._job["spec"]["detector"]):
            become_subreaper()  # so that `cleanup` finds every process that the detector starts

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the job of the next trial in the same process; called by Tune."""
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """Run the trial until it has something to report; called by Tune until "done" is True.

        Returns:
            "outcome" and its fields.  The outcomes are "running", "result", "attempt" (the trial failed), "interrupted"
            (stopped on request; its resume state is stored if it had begun) and "storage" (the store failed, or a
            dataset cannot be used on the only machine).

        Raises:
            Preempted: this machine will be taken away.
        """
        job = self._job
        leave = is_machine_leaving()
        ask = leave or flag(job["stop_file"], job["stop_key"]).is_set
        importlib.import_module("sweep.trial.run")  # before the watchdog: a first import of torch takes seconds
        begun = self._run is not None
        with _Watchdog(job):
            try:
                if self._run is None:
                    if ask:
                        raise Interrupted
                    self._run = _begin(job)
                    next(self._run)
                else:
                    self._run.send(ask)
            except StopIteration as ended:
                self._run = None
                return {"outcome": "result", "record": json.dumps(ended.value), "done": True}
            except Interrupted:
                self._run = None
                if leave:
                    raise self._preemption(begun) from None
                return {"outcome": "interrupted", "done": True}
            except StoreError as error:
                self._run = None
                silent = isinstance(error, StoreUnreachable)
                cause = f"the store failed: {error}"
                return {"outcome": "storage", "cause": cause, "unreachable": silent, "done": True}
            except Exception as error:  # noqa: BLE001  (any other error of a trial becomes an attempt)
                self._run = None
                if isinstance(error, DataError) and not job["attached"]:
                    # A dataset that is gone, or a cache that is full, would fail every trial.  In a cluster it is an
                    # attempt, because another machine may have room.
                    cause = f"a dataset cannot be used: {error}"
                    return {"outcome": "storage", "cause": cause, "unreachable": False, "done": True}
                status: Status = "oom" if is_out_of_memory(error) else "failed"
                record = attempt_record(status, error=error, job=job)
                return {"outcome": "attempt", "record": json.dumps(record), "done": True}
        return {"outcome": "running"}

    def _preemption(self, begun: bool) -> Preempted:
        """Return the exception to raise.  It ends this process, because Tune must not give it another trial."""
        if begun:
            with suppress(StoreError):  # the resume state is stored already; only this record would be missing
                _put_attempt(
                    self._job, attempt_record("preempted", job=self._job, cause="this machine is being taken away")
                )
        else:
            time.sleep(POLL_SECONDS)  # Ray may not know of the notice yet, and would start trials here again at once
        return Preempted("this machine is being taken away")

    def cleanup(self) -> None:
        """Close a trial that is still running, and end what a user's own detector has started; called by Tune."""
        if self._run is not None:
            self._run.close()
            self._run = None
        if is_own(self._job["spec"]["detector"]):
            kill_descendants()


def _begin(job: Mapping[str, Any]) -> Generator[Any, bool | None, Record]:
    from sweep.trial.options import make_options
    from sweep.trial.run import run_trial  # imports torch, which the tuner process does not need

    spec = TrialSpec.from_dict(job["spec"])
    options = make_options(
        spec,
        cache=job["cache"],
        cache_bytes=job["cache_bytes"],
        checkpoint_seconds=job["checkpoint_seconds"],
        keep_weights=job["keep_weights"],
        owner=f"{job['sweep']} trial {spec.key}",
        attempts=job["attempts"],
        provenance=job["provenance"],
    )
    return run_trial(spec, open_store(job["storage"], job["outage_seconds"]), options)


def _put_attempt(job: Mapping[str, Any], record: Record) -> None:
    """Record an attempt from this process, because the tuner process only sees that this process ends."""
    Ledger(open_store(job["storage"], job["outage_seconds"]), job["sweep"]).put_attempt(job["key"], record)


class _Watchdog:
    """Context manager that records the stack and ends this process if the block takes longer than `hang_seconds`."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._job = job
        self._ended = threading.Event()

    def __enter__(self) -> None:
        threading.Thread(target=self._watch, args=[threading.get_ident()], name="watchdog", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _watch(self, thread: int) -> None:
        while not self._ended.wait(self._job["hang_seconds"]):
            if not OUTAGE.lasts:  # a trial that waits for the store does not hang
                self._give_up(thread)

    def _give_up(self, thread: int) -> None:
        try:
            frame = sys._current_frames().get(thread)
            cause = f"no progress for {self._job['hang_seconds']:g} s"
            _put_attempt(self._job, attempt_record("hung", job=self._job, cause=cause, frame=frame))
        finally:
            kill_descendants()
            os._exit(HUNG_EXIT)
