"""The process on a worker that runs one trial after another, as Ray Tune's Trainable."""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray import tune

from models import catalog as detectors
from sweep.engine.tuner.stop_flag import POLL_SECONDS, flag, leaving
from sweep.spec.trial import TrialSpec
from sweep.store import open_store
from sweep.store.attempts import Interrupted, Status, attempt, is_out_of_memory
from sweep.store.base import StoreError
from sweep.store.ledger import Ledger, Record

HUNG_EXIT = 86


class Preempted(Exception):
    """This machine is about to be taken away; the trial goes on elsewhere from its resume state."""


class TrialActor(tune.Trainable):
    """A process that runs one trial after another; work begins in `step`.

    Tune may run `setup` on an actor that it then discards, so nothing happens there.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._job: dict[str, Any] = json.loads(config["job"])
        self._run: Generator[Any, bool | None, Record] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        job = self._job
        leave = leaving()
        ask = leave or flag(job["stop_file"], job["stop_key"]).is_set
        importlib.import_module("sweep.trial.run")  # torch: seconds of a worker's first step, which is no hang
        begun = self._run is not None
        with _watched(job):
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
                return {"outcome": "storage", "cause": str(error), "done": True}
            except Exception as error:  # noqa: BLE001  (whatever a trial raises is an attempt with its cause)
                self._run = None
                status: Status = "oom" if is_out_of_memory(error) else "failed"
                record = attempt(status, error=error, job=job)
                return {"outcome": "attempt", "record": json.dumps(record), "done": True}
        return {"outcome": "running"}

    def _preemption(self, begun: bool) -> Preempted:
        """What to raise, which ends this process: Tune must not give it another trial."""
        if begun:
            with suppress(StoreError):  # the resume state stands, or the trial would have met the same store
                _last_words(self._job, attempt("preempted", job=self._job, cause="this machine is being taken away"))
        else:
            time.sleep(POLL_SECONDS)  # where Ray does not know of the notice yet, it may place trials here again
        return Preempted("this machine is being taken away")

    def cleanup(self) -> None:
        if self._run is not None:
            self._run.close()
            self._run = None


def _begin(job: Mapping[str, Any]) -> Generator[Any, bool | None, Record]:
    from sweep.trial.run import Options, run_trial  # torch: two seconds of a worker's start, none of the driver's

    spec = TrialSpec.from_dict(job["spec"])
    options = Options(
        cache=Path(job["cache"]).expanduser(),
        cache_bytes=job["cache_bytes"],
        checkpoint_seconds=job["checkpoint_seconds"],
        keep_weights=job["keep_weights"],
        lambda_default=detectors.detector(spec.detector).variant(spec.variant).lam,
        owner=f"{job['sweep']} trial {spec.key}",
        attempts=job["attempts"],
        provenance=job["provenance"],
    )
    return run_trial(spec, open_store(job["storage"]), options)


def _last_words(job: Mapping[str, Any], record: Record) -> None:
    """Put an attempt from here, since whoever runs the generation will only see this process end."""
    Ledger(open_store(job["storage"]), job["sweep"]).put_attempt(job["key"], record)


class _watched:  # noqa: N801  (a context manager, named as it reads)
    """Ends this process when a step takes longer than `hang_seconds`, with its stack on record."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self._job = job

    def __enter__(self) -> None:
        self._timer = threading.Timer(self._job["hang_seconds"], self._give_up, [threading.get_ident()])
        self._timer.daemon = True
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _give_up(self, thread: int) -> None:
        try:
            frame = sys._current_frames().get(thread)
            cause = f"no progress for {self._job['hang_seconds']:g} s"
            _last_words(self._job, attempt("hung", job=self._job, cause=cause, frame=frame))
        finally:
            os._exit(HUNG_EXIT)
