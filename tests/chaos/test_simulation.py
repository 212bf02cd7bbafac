"""Disturbed nights of launches leave every invariant true, and the simulation finds what is broken on purpose.

SWEEP_CHAOS_SCHEDULES is the number of schedules, and SWEEP_CHAOS_SEED the first of them.  A violation prints its seed
and the disturbances that it needs; `run_schedule(SEED)` of `tests.chaos.simulation` repeats it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from sweep.engine.queue import Queue
from sweep.engine.tuner.searcher import Multiplexer
from sweep.plan.search import Search
from sweep.store import attempts, lease
from sweep.store.base import ObjectNotFound
from sweep.store.lease import Holder, Lease, LeaseHeld
from sweep.store.ledger import Ledger, Record, _encode
from tests.chaos.simulated_store import DONE
from tests.chaos.simulation import Disturbance, run_schedule, shortest, simulated

SCHEDULES = int(os.environ.get("SWEEP_CHAOS_SCHEDULES", "1000"))
FIRST = int(os.environ.get("SWEEP_CHAOS_SEED", "0"))
PARTS = 2  # for as many processes of pytest


@pytest.fixture(autouse=True)
def on_simulated_time() -> Iterator[None]:
    with simulated():
        yield


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_no_schedule_loses_doubles_contradicts_or_hangs_anything(part: int) -> None:
    for seed in range(FIRST + part, FIRST + SCHEDULES, PARTS):
        if (violation := run_schedule(seed)) is not None:
            pytest.fail(shortest(seed, violation), pytrace=False)


def test_a_schedule_is_repeated_by_its_seed() -> None:
    def broken() -> list[str]:
        with judged_by_wall_clocks():
            return [str(run_schedule(seed)) for seed in range(60)]

    assert broken() == broken()


# -- mutations --------------------------------------------------------------------------------------------------------

_fail = Multiplexer.fail
_record_failure, _begin = Queue.record_failure, Search.__init__


def judged_by_wall_clocks() -> Any:
    def judge(self: Lease, holder: Holder, tag: str, asked_at: float) -> None:
        now: float = lease.time.time()  # type: ignore[attr-defined]  # simulated
        if not holder.is_released and now - holder.since < holder.ttl_seconds:
            raise LeaseHeld(self.path, holder, alive=False)

    return mock.patch.object(Lease, "_judge", judge)


def believed_for_ever() -> Any:
    return mock.patch.object(Lease, "is_lost", property(lambda self: self._mine is not None and self._tag is None))


def believed_too_long() -> Any:
    return mock.patch.object(lease, "BELIEF", 1.2)


def epochs_that_stay() -> Any:
    return mock.patch.object(Lease, "_record", lambda self, epoch, make=Lease._record: make(self, max(1, epoch - 1)))


def renewed_without_a_change() -> Any:
    def write(self: Lease, record: Holder, store: Any) -> bool:
        try:
            data, tag = store.get_tagged(self.path)
        except ObjectNotFound:
            return not record.is_released and self._write(record, None, store)
        ours = self._mine is not None and replace(lease._parse(data), beat=self._mine.beat) == self._mine
        return ours and self._write(record, tag, store)

    return mock.patch.object(Lease, "_write_over_own", write)


def released_by_a_loser() -> Any:
    def release(self: Lease) -> None:
        assert self._mine is not None
        self.store.put(self.path, json.dumps(vars(replace(self._mine, pid=0))).encode())
        self._tag = None

    return mock.patch.object(Lease, "release", release)


def results_that_overwrite() -> Any:
    def put(self: Ledger, key: str, result: Record) -> bool:
        self.store.put(f"trials/{key}/result.json", _encode(result))
        return True

    return mock.patch.object(Ledger, "put_result", put)


def attempts_that_are_not_recorded() -> Any:
    return mock.patch.object(Multiplexer, "fail", lambda self, key, record, recorded=False: _fail(
        self, key, record, recorded=True))  # fmt: skip


def failures_of_every_sweep_count() -> Any:
    return mock.patch.object(attempts, "is_of", lambda record, _, launch: record["launch"] == launch)


def a_finished_trial_is_tried_again() -> Any:
    def fail(self: Multiplexer, key: str, record: Record, *, recorded: bool = False) -> None:
        with mock.patch.object(self._ledger, "result", lambda _: None):
            _fail(self, key, record, recorded=recorded)

    return mock.patch.object(Multiplexer, "fail", fail)


def an_interrupted_trial_is_forgotten() -> Any:
    return mock.patch.object(Queue, "record_interruption", lambda self, key: self._take(key))


def one_try_too_few() -> Any:
    def record(self: Queue, key: str, *, alone: bool = False) -> bool:
        self._tries[key] = self._tries.get(key, 0) + 1
        return _record_failure(self, key, alone=alone)

    return mock.patch.object(Queue, "record_failure", record)


def memory_that_is_shared_again() -> Any:
    return mock.patch.object(Queue, "record_failure", lambda self, key, alone=False: _record_failure(self, key))


def prunes_that_are_not_recorded() -> Any:
    return mock.patch.object(Ledger, "put_prune", lambda _, study, number, prune: prune)


def prunes_that_are_not_read() -> Any:
    return mock.patch.object(Search, "__init__", lambda self, spec, asks, _, *ways: _begin(self, spec, asks, {}, *ways))


def candidates_that_learn_from_timing() -> Any:
    def horizon(self: Search) -> int:
        return next((n for n, c in enumerate(self.candidates) if not c.is_settled(self.spec.instances)), 0)

    return mock.patch.object(Search, "_horizon", horizon)


def candidates_that_are_drawn_anew() -> Any:
    def begin(self: Search, spec: Any, asks: Any, prunes: Any, *ways: Any) -> None:
        _begin(self, spec, {n: ask for n, ask in asks.items() if n < len(asks) - 1}, prunes, *ways)

    return mock.patch.object(Search, "__init__", begin)


MUTATIONS: list[Callable[[], Any]] = [
    judged_by_wall_clocks, believed_for_ever, believed_too_long, epochs_that_stay,
    released_by_a_loser, results_that_overwrite, attempts_that_are_not_recorded,
    failures_of_every_sweep_count, a_finished_trial_is_tried_again,
    an_interrupted_trial_is_forgotten, one_try_too_few, memory_that_is_shared_again, prunes_that_are_not_recorded,
    prunes_that_are_not_read, candidates_that_learn_from_timing, candidates_that_are_drawn_anew,
]  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_the_simulation_finds(mutation: Callable[[], Any]) -> None:
    with mutation():
        assert any(run_schedule(seed) for seed in range(400))


def test_the_simulation_finds_a_lease_that_is_renewed_without_a_change() -> None:
    night = [
        Disturbance(0.0, "launch", 2, 0.0),
        Disturbance(35.0, DONE, 1, 0.0),  # the next renewal, at 40 s; the one after it, at 55 s, is what fails
        Disturbance(43.0, "launch", 3, 0.0),
        Disturbance(59.0, "freeze", 0, 32.0),
    ]
    assert not any(run_schedule(seed, night) for seed in range(100))
    with renewed_without_a_change():
        assert any("at the same time" in str(run_schedule(seed, night)) for seed in range(100))
