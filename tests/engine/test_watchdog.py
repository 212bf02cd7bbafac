"""The watchdog of a trial's process: it ends a trial that hangs, and none that waits for its store."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from sweep.engine.tuner import actor
from sweep.store.retry import Outage

JOB: dict[str, Any] = {"hang_seconds": 0.01}


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event that is set instead of the end of this process."""
    found = threading.Event()
    monkeypatch.setattr(actor._Watchdog, "_give_up", lambda *_: found.set())
    return found


def test_a_trial_that_waits_for_its_store_does_not_hang_until_the_store_answers(
    hung: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Semaphore(0)

    class Looked(Outage):
        @property
        def lasts(self) -> bool:
            looked.release()
            return super().lasts

    outage = Looked(lambda _: None)
    monkeypatch.setattr(actor, "OUTAGE", outage)
    outage.failed("s3://b", outage.clock(), "slow down")
    with actor._Watchdog(JOB):
        for _ in range(3):
            assert looked.acquire(timeout=60)
        assert not hung.is_set()
        outage.answered("s3://b")
        assert hung.wait(60)


def test_a_trial_that_ends_in_time_is_left_alone(hung: threading.Event) -> None:
    with actor._Watchdog({"hang_seconds": 600}):
        pass
    for thread in [thread for thread in threading.enumerate() if thread.name == "watchdog"]:
        thread.join(60)
        assert not thread.is_alive()
    assert not hung.is_set()
