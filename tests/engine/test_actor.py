"""Outcomes of a trial in its process, without Ray."""

from __future__ import annotations

from typing import Any

import pytest

from data.errors import DataError
from sweep.engine.tuner import actor
from sweep.store.base import StoreError, StoreUnreachable


@pytest.mark.parametrize(
    ("error", "cause", "unreachable"),
    [
        (DataError("the cache is full"), "a dataset cannot be used: the cache is full", False),
        (StoreError("the disk is full"), "the store failed: the disk is full", False),
        (StoreUnreachable("no route"), "the store failed: no route", True),
    ],
)
def test_what_fails_every_trial_is_no_attempt_of_one(
    error: Exception, cause: str, unreachable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(job: Any) -> Any:
        raise error
        yield

    monkeypatch.setattr(actor, "_begin", begin)
    monkeypatch.setattr(actor, "is_machine_leaving", lambda: False)
    monkeypatch.setattr(actor, "flag", lambda *_: type("Flag", (), {"is_set": False}))
    running = actor.TrialActor.__new__(actor.TrialActor)
    running._run, running._job = None, {"stop_file": "", "stop_key": "", "hang_seconds": 600, "checkpoint_seconds": 60}
    assert running.step() == {"outcome": "storage", "cause": cause, "unreachable": unreachable, "done": True}
    assert running._run is None
