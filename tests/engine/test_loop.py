"""Behaviour of the loop when the tuner process dies or a stop is requested, tested without Ray."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

from sweep.engine import loop
from sweep.engine.loop import MAX_CONSECUTIVE_CRASHES, MAX_STARTS, TrialLoop, _Stop
from sweep.engine.tuner_process import TunerCrashed, TunerProcess
from sweep.errors import DONE, INTERRUPTED, USER_ERROR, UserError
from sweep.plan.expand import expand
from sweep.plan.status import SweepStatus
from sweep.spec.load import load
from sweep.store import open_store
from sweep.store.base import StoreUnreachable
from sweep.store.lease import Lease, LeaseHeld
from sweep.store.ledger import Ledger
from tests.support.sweeps import logged, platform, write_config


@dataclass
class Dying(TunerProcess):
    """Tuner process that ends without an event: by itself, or because a stop was requested twice.

    Attributes:
        stops: number of requests to stop while it runs.
        ready: it starts its Ray before it ends.
        started: number of generations that were started.
    """

    stops: int = 0
    ready: bool = True
    started: int = 0

    def run_generation(self, sweep: Any, **parameters: Any) -> Iterator[dict[str, Any] | None]:
        self.started += 1
        yield {"event": "ready"} if self.ready else None
        for _ in range(self.stops):
            self.stop()
        raise TunerCrashed(-9, "the last that it printed")


@dataclass
class Launched:
    """Launch with a tuner process that dies."""

    generations: TrialLoop
    cluster: Dying
    lease: Lease
    output: io.StringIO

    def run(self) -> int:
        return self.generations.run(self.lease, self.cluster).code


@pytest.fixture
def launched(tmp_path: Path) -> Launched:
    sweep = load(write_config(tmp_path, [logged(epochs=1)]))
    store, ran_on, output = open_store(sweep.storage), platform(sweep), io.StringIO()
    generations = TrialLoop(
        sweep=sweep,
        work=expand(sweep, ran_on),
        platform=ran_on,
        ledger=Ledger(store, sweep.name),
        console=Console(file=output, width=200),
        log_command=lambda key: key,
        skip_failed=False,
        number=1,
        provenance={},
        exhausted=lambda: None,
        pause=0.01,
    )
    return Launched(generations, Dying(tmp_path, ran_on), Lease(store, "lease", "a test"), output)


@pytest.mark.parametrize(("ready", "tries"), [(True, MAX_CONSECUTIVE_CRASHES), (False, MAX_STARTS)])
def test_a_process_that_dies_is_started_again_a_few_times(ready: bool, tries: int, launched: Launched) -> None:
    launched.cluster.ready = ready
    with pytest.raises(UserError, match="the last that it printed"):
        launched.run()
    assert launched.cluster.started == tries, "a Ray that has never started gets more patience"
    assert "ended with status -9 (the last that it printed): starting it again" in launched.output.getvalue()


def test_a_process_that_was_ended_by_a_second_stop_is_not_said_to_be_started_again(launched: Launched) -> None:
    launched.cluster.stops = 2
    assert launched.run() == INTERRUPTED
    assert launched.cluster.started == 1
    assert "starting it again" not in launched.output.getvalue()


def test_a_process_that_always_dies_when_asked_to_stop_ends_a_stop_all_the_same(launched: Launched) -> None:
    launched.cluster.stops = 1
    assert launched.run() == INTERRUPTED
    assert launched.cluster.started == 1


def test_resume_states_of_finished_trials_are_removed(launched: Launched) -> None:
    store = launched.generations.ledger.store
    store.put("trials/k/checkpoint/000001.pt", b"of a trial that was killed after its result was stored")
    launched.generations.run(
        launched.lease, launched.cluster, SweepStatus((), (), frozenset("k"), {}, leftovers=frozenset("k"))
    )
    assert not [*store.list("trials/k")]


@dataclass
class Waiting(TunerProcess):
    """Tuner process that sends nothing and heeds no stop, as when Ray cannot write its files."""

    def run_generation(self, sweep: Any, **parameters: Any) -> Iterator[dict[str, Any] | None]:
        while True:
            yield None


def test_a_full_disk_ends_a_launch_that_would_wait_for_ray(launched: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Waiting(launched.cluster.scratch, launched.cluster.platform)
    free = iter([1e9, 1e9, 0.0])
    monkeypatch.setattr(loop, "free_bytes", lambda folder: next(free))
    with pytest.raises(UserError, match="is full: free some space there, or set TMPDIR"):
        launched.generations.run(launched.lease, waiting)


@dataclass
class WithoutWorkers(TunerProcess):
    """Tuner process whose trials wait until a stop is requested."""

    def run_generation(self, sweep: Any, **parameters: Any) -> Iterator[dict[str, Any] | None]:
        yield None
        assert self.stop_file.exists(), "it would wait for ever"
        yield {"event": "ended", "finished": False, "stopped": None}


def test_trials_that_no_worker_comes_for_end_the_launch_in_order_and_with_an_error(
    launched: Launched, tmp_path: Path
) -> None:
    generations = replace(launched.generations, stranded=lambda: "no worker has come")
    assert generations.run(launched.lease, WithoutWorkers(tmp_path, generations.platform)).code == USER_ERROR
    assert "no worker has come" in launched.output.getvalue()


@dataclass
class Ending(TunerProcess):
    """Tuner process that ends with an event.

    Attributes:
        fields: fields of the event.
    """

    fields: dict[str, Any] = field(default_factory=dict)

    def run_generation(self, sweep: Any, **parameters: Any) -> Iterator[dict[str, Any] | None]:
        yield None
        if not self.stop_file.exists():
            yield {"event": "ended", "finished": False, "stopped": None, "unreachable": False, **self.fields}


@pytest.mark.parametrize(("unreachable", "kind"), [(True, StoreUnreachable), (False, UserError)])
def test_a_store_that_does_not_answer_is_another_end_than_one_that_refuses(
    launched: Launched, tmp_path: Path, unreachable: bool, kind: type[Exception]
) -> None:
    tuner = Ending(tmp_path, launched.generations.platform)
    tuner.fields = {"stopped": "the store failed: no route", "unreachable": unreachable}
    with pytest.raises(kind, match=r"stopped: the store failed: no route\nThe same command goes on where it was"):
        launched.generations.run(launched.lease, tuner)


def test_a_launch_goes_on_without_a_renewed_lease_until_another_launch_has_it(
    launched: Launched, tmp_path: Path
) -> None:
    now = [0.0]
    store = launched.lease.store
    ours, theirs = (Lease(store, "lease", name, clock=lambda: now[0]) for name in ("ours", "theirs"))
    ours.acquire()
    with pytest.raises(LeaseHeld):
        theirs.acquire()
    now[0] = 3600.0
    assert ours.is_lost
    tuner = Ending(tmp_path, launched.generations.platform, fields={"finished": True})
    assert launched.generations.run(ours, tuner).code == DONE
    theirs.acquire()
    assert not ours.renew()
    with pytest.raises(UserError, match="another launch of this sweep has taken over"):
        launched.generations.run(ours, tuner)


def test_the_same_signal_that_comes_again_inside_the_handler_is_no_second_request() -> None:
    requests: list[str] = []

    class Tuner:
        stop = staticmethod(lambda: requests.append("stop"))

        @property
        def stop_file(self) -> Path:
            if len(calls) < 2:  # a supervisor passes on a signal that the driver has received itself
                calls.append("again")
                handler()
            return Path("missing")

    calls = ["first"]
    handler = _Stop(Tuner(), Mock(), echo_seconds=60.0)  # type: ignore[arg-type]
    handler()
    assert calls == ["first", "again"]
    assert requests == ["stop"]
