"""Outcomes of a trial in its process, without Ray."""

from __future__ import annotations

import json
from typing import Any

import pytest

from data.errors import DataError
from sweep.engine.tuner import actor
from sweep.store.base import StoreError, StoreUnreachable


def step_that_raises(error: Exception, monkeypatch: pytest.MonkeyPatch, *, attached: bool = False) -> dict[str, Any]:
    """Return the outcome of a trial that raises an error, on this machine or in a cluster."""

    def begin(job: Any) -> Any:
        raise error
        yield

    monkeypatch.setattr(actor, "_begin", begin)
    monkeypatch.setattr(actor, "is_machine_leaving", lambda: False)
    monkeypatch.setattr(actor, "flag", lambda *_: type("Flag", (), {"is_set": False}))
    running = actor.TrialActor.__new__(actor.TrialActor)
    running._run, running._job = None, {
        "stop_file": "", "stop_key": "", "hang_seconds": 600, "checkpoint_seconds": 60, "attached": attached,
        "key": "k", "sweep": "s", "launch": 1,
    }  # fmt: skip
    found: dict[str, Any] = running.step()
    assert running._run is None
    return found


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
    found = step_that_raises(error, monkeypatch)
    assert found == {"outcome": "storage", "cause": cause, "unreachable": unreachable, "done": True}


def test_a_full_cache_of_one_machine_is_an_attempt_in_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    found = step_that_raises(DataError("the cache is full"), monkeypatch, attached=True)
    assert found["outcome"] == "attempt"
    assert json.loads(found["record"])["cause"] == "DataError: the cache is full"
