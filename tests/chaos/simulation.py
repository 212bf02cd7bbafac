"""Seeded nights of launches: every disturbance in any order, and what must hold whatever happens.

A schedule is a seed and a list of disturbances.  It runs whole launches, of which only Ray Tune, the trials and the
machines are made up, over a store in memory whose answers get lost.  A broken invariant raises `Violation`.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

from sweep.engine.tuner import callbacks, tune
from sweep.plan import search as searches
from sweep.plan import status
from sweep.plan.expand import PlannedSearch
from sweep.plan.search import Search
from sweep.plan.status import read_status
from sweep.store import attempts, ledger
from sweep.store import lease as leases
from sweep.store.lease import TTL_SECONDS, Lease
from sweep.store.ledger import Ledger
from sweep.store.records import decode
from tests.chaos.simulated_launch import Launch, LostError, Run
from tests.chaos.simulated_plans import SimulatedSweep, auroc_of, plans, sample_once, worse_once
from tests.chaos.simulated_store import DONE, LATE, LOST, GuardedStore, Network, RemoteStore, Violation, parsed
from tests.support.simulated_time import Event, Lock, Process, Simulation, Thread

HORIZON = 160.0  # seconds after which nothing is disturbed any more
LATEST = 150.0  # seconds after which a late write has come
END = 20_000.0  # seconds after which every launch must have ended by itself
DRIFT = 0.004  # by so much clocks run faster or slower than time
LOSSES = ("process", "machine", "notice")
KINDS = (
    *("launch",) * 4, *("kill launch",) * 3, *("freeze",) * 3, "stop", "crash tuner", *LOSSES, "process",
    "lose finished", "kernel kills", "hang", "preempt", *("fail",) * 2, "out of memory", "silent", *("cut",) * 2,
    *(LOST, DONE, LATE) * 2, "slow",
)  # fmt: skip
LEASE_KINDS = (*("launch",) * 3, "kill launch", *("freeze",) * 3, *("cut",) * 2, *(DONE,) * 2, LATE, LOST, "silent")
WRITES = ("", "sweeps/a/lease", "/result.json", "/lease", "/attempts/", "/asks/", "/prunes/", "sweeps/a/lease")


@dataclass(frozen=True)
class Disturbance:
    """One thing that happens: its time, kind, which of several it hits, and how long it lasts."""

    time: float
    kind: str
    which: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.time:6.1f} s: {self.kind}, which={self.which}, seconds={self.seconds:.1f}"


def disturbances(rng: random.Random) -> list[Disturbance]:
    """Return what happens in one night."""
    kinds = LEASE_KINDS if rng.random() < 0.25 else KINDS
    found = [
        Disturbance(rng.random() * HORIZON, rng.choice(kinds), rng.randrange(60), rng.choice((2.0, 10.0, 32.0, 70.0)))
        for _ in range(rng.randrange(11))
    ]
    return [Disturbance(0.0, "launch", rng.randrange(60), 0.0), *sorted(found, key=lambda one: one.time)]


class World:
    """All that exists in one schedule."""

    def __init__(self, seed: int, sweeps: list[SimulatedSweep]) -> None:
        self.seed, self.sweeps = seed, {sweep.name: sweep for sweep in sweeps}
        self.rng = random.Random(seed)
        self.simulation = Simulation()
        self.store = GuardedStore()
        self.store.observer = self._after_write
        self.network = Network(self.simulation, self.store, self.rng)
        self.network.on_lease = lambda path: setattr(self.simulation, "check", partial(self.judge, path))
        self.launches: list[Launch] = []
        self.leases: dict[str, list[tuple[Process, Lease]]] = {}
        self.processes: dict[tuple[str, int], Process] = {}
        self.calm = self.rng.random() < 0.3  # then no trial is bad by itself
        self.last: list[Launch] = []  # launches that nothing disturbs
        self.lose_finished: list[str] = []  # losses of the next processes that have just put a result
        self.released: dict[str, int] = {}  # epochs whose holder has released a lease, and may not have heard so yet
        self.late: set[str] = set()  # keys of trials with an attempt that came late

    # -- what launches use ----------------------------------------------------------------------

    def process(self, name: str, machine: str) -> Process:
        pid = 1 + (len(self.processes) % 50)  # ids come again
        before = self.processes.get((machine, pid))
        start = 1 if before is None else before.start + 1
        if before is not None and before.alive:
            pid, start = 1000 + len(self.processes), 1
        offset = zlib.crc32(machine.encode()) % 7200 - 3600.0
        process = Process(name, machine, pid, start, offset, 1 + (offset / 3600) * DRIFT)
        self.processes[machine, pid] = process
        return process

    def clock(self, process: Process) -> float:
        return process.offset + process.rate * self.simulation.now

    def lease(self, process: Process, store: RemoteStore, path: str) -> Lease:
        lease = Lease(store, path, process.name, TTL_SECONDS, partial(self.clock, process))
        self.leases.setdefault(path, []).append((process, lease))
        return lease

    def fate(self, key: str) -> str:
        """Return what a trial does whenever it runs."""
        drawn = zlib.crc32(f"{self.seed} {key}".encode()) % 100
        return "" if self.calm or drawn > 16 else ("poison", "big", "diverged")[drawn % 3]

    # -- what invariants look at ----------------------------------------------------------------

    def finished(self) -> set[str]:
        return {path.split("/")[1] for path in self.store.objects if path.endswith("/result.json")}

    def attempts(self, key: str) -> list[bytes]:
        start = f"trials/{key}/attempts/"
        return [data for path, data in self.store.objects.items() if path.startswith(start)]

    def failures(self, launch: Launch, key: str) -> int:
        """Return how often a trial has failed in a launch; 0 if nobody can know, because a record came late."""
        records = map(json.loads, self.attempts(key))
        return (
            0
            if key in self.late
            else sum(r["status"] != "preempted" and r["cause"].endswith(f"@{launch.name}") for r in records)
        )

    def failed_by_chance(self, key: str) -> bool:
        """Return True if a trial has failed that does not always fail, so that a search may have seen it as failed."""
        bad = self.fate(key) == "poison"
        return not bad and any(json.loads(data)["status"] != "preempted" for data in self.attempts(key))

    def _after_write(self, path: str) -> None:
        if "/attempts/" in path and self.simulation.current is None:
            self.late.add(path.split("/")[1])
        if path.endswith("/lease") and (holder := parsed(self.store.objects[path]))["pid"] == 0:
            self.released[path] = holder["epoch"]
        if path.endswith("/result.json") and self.simulation.current is not None:
            name = self.simulation.process.name
            for launch in self.launches:
                if name.startswith(f"{launch.name}."):
                    launch.own_results.add(path.split("/")[1])

    def judge(self, path: str) -> None:
        """Check that of the processes that live, one at most believes that it holds a lease which guards something."""
        if f"{path.removesuffix('lease')}result.json" in self.store.objects:
            return  # it guards nothing any more, and whoever finishes a trial deletes its lease
        believers = [
            process.name for process, lease in self.leases[path]
            if process.alive and lease.epoch > self.released.get(path, 0) and not lease.is_lost
        ]  # fmt: skip
        if len(believers) > 1:
            raise Violation(f"{' and '.join(believers)} hold {path} at the same time")

    # -- what happens ---------------------------------------------------------------------------

    def run(self, night: Sequence[Disturbance]) -> None:
        """Run a whole schedule.

        Raises:
            Violation: an invariant is broken.
        """
        for one in night:
            self.simulation.at(one.time, partial(self._happen, one))
        self.simulation.at(HORIZON, self._calm_down)
        _world.append(self)
        try:
            self.simulation.run()
        finally:
            _world.pop()

    def start_launch(self, name: str, which: int) -> Launch:
        machine = ("m1", "m1", "m2", "m3")[which % 4]
        process = self.process(f"{name}{len(self.launches)}", machine)
        slots, quota, skip = 1 + which % 3, (3, 1000)[which % 2], which % 11 == 10
        launch = Launch(self, process.name, self.sweeps[name], process, skip, slots, quota)
        self.launches.append(launch)
        self.simulation.spawn(process, launch.run)
        return launch

    def _happen(self, one: Disturbance) -> None:
        now, which = self.simulation.now, one.which
        launches = [launch for launch in self.launches if launch.process.alive]
        runs = [run for launch in launches for run in launch.runs.values() if run.process.alive]
        if one.kind == "launch":
            self.start_launch(list(self.sweeps)[which % len(self.sweeps)], which)
        elif one.kind == "silent":
            self.network.silent_until[None] = now + one.seconds
        elif one.kind == "slow":
            self.network.slow.append(one.seconds)
        elif one.kind in (LOST, DONE, LATE):
            self.network.armed.append((one.kind, WRITES[which % len(WRITES)], one.seconds))
        elif one.kind == "lose finished":
            self.lose_finished.append(LOSSES[which % 2])
        elif one.kind == "cut":
            processes = [*(launch.process for launch in launches), *(run.process for run in runs)]
            if processes:
                self.network.silent_until[processes[which % len(processes)]] = now + one.seconds
        elif launches and one.kind in ("kill launch", "freeze", "stop", "crash tuner"):
            self._disturb(launches[which % len(launches)], one)
        elif runs and one.kind not in ("kill launch", "freeze", "stop", "crash tuner"):
            _hit(runs[which % len(runs)], one.kind)

    def _disturb(self, launch: Launch, one: Disturbance) -> None:
        if one.kind == "kill launch":
            self.simulation.kill(launch.process)
            if one.which % 3:  # otherwise its trials go on for a while, on other machines
                for run in launch.runs.values():
                    self.simulation.kill(run.process)
        elif one.kind == "freeze":
            for process in [launch.process, *(run.process for run in launch.runs.values() if one.which % 3)]:
                process.frozen_until = self.simulation.now + one.seconds
        elif one.kind == "stop":
            launch.stopping = True
        else:
            launch.crashing = True

    def _calm_down(self) -> None:
        """Disturb nothing any more; when all have ended, launch again, and check what is there in the end."""
        self.network.armed, self.network.slow, self.lose_finished = [], [], []
        self.network.silent_until.clear()
        if any(launch.process.alive for launch in self.launches):
            if self.simulation.now > END:
                alive = [launch.name for launch in self.launches if launch.process.alive]
                raise Violation(f"{', '.join(alive)} never ended")
            self.simulation.at(self.simulation.now + 20, self._calm_down)
        elif self.simulation.now < HORIZON + LATEST:
            self.simulation.at(HORIZON + LATEST, self._calm_down)  # now nothing is on its way to the store any more
        elif not self.last:
            self.last = [self.start_launch(name, 1) for name in self.sweeps]
            self.simulation.at(self.simulation.now + 20, self._calm_down)
        else:
            for launch in self.last:
                check_end(self, launch)


def _hit(run: Run, kind: str) -> None:
    if kind in LOSSES:
        run.die(kind)
    elif kind == "kernel kills":
        run.die("process", "OutOfMemoryError")
    elif kind == "hang":
        run.record_and_die("hung", "process")
    elif kind == "preempt":
        run.record_and_die("preempted", "notice")
    else:
        run.fate = kind


# -- checks of the end, and runs of schedules -----------------------------------------------------------------------


def check_end(world: World, launch: Launch) -> None:
    """Check what the last launch of a sweep leaves, which nothing has disturbed."""
    sweep, records = launch.sweep, Ledger(world.store, launch.sweep.name)
    if launch.end != "finished":
        raise Violation(f"{launch.name}, which nothing disturbs, ends with {launch.end}")
    found = read_status(sweep.work, records)
    if found.count("to_run"):
        raise Violation(f"{launch.name} leaves {found.count('to_run')} trials to run")
    for planned in found.planned:
        poison, tries = world.fate(planned.key) == "poison", world.failures(launch, planned.key)
        if poison == (planned.key in found.finished) and (planned.reported or poison):
            raise Violation(f"{planned.key} is {'done' if poison else 'not done'} at the end")
        if poison and planned.reported and planned.key not in world.late and tries != sweep.sweep.trial.retries + 1:
            raise Violation(f"{planned.key} failed after {tries} tries of {launch.name}")
    assert launch.searcher is not None
    own = {cell.search.spec.id: cell.search for cell in launch.searcher.queue._cells if cell.search is not None}
    for planned_search, search in found.searches:
        name, mine = planned_search.spec.id, own[planned_search.spec.id]
        seen, decided = [(s.frozen(), [c.pruned for c in s.candidates]) for s in (search, mine)]
        if seen != decided:
            raise Violation(f"the search chose {decided} for {launch.name}, and {seen} for a reader")
        tuning = {p.key for n in search.candidates for i in range(search.spec.instances)
                  for p in [planned_search.instance(n.params, i)]}  # fmt: skip
        failed = any(world.failed_by_chance(key) for key in tuning)
        asks = {number: record["params"] for number, record in records.asks(name).items()}
        prunes = {number: record["step"] for number, record in records.prunes(name).items()}
        if not failed and (asks, prunes) != (expected := undisturbed_search(world, planned_search)):
            raise Violation(f"disturbances changed candidates or prunes from {expected} to {(asks, prunes)}")


def undisturbed_search(world: World, planned: PlannedSearch) -> tuple[dict[int, Any], dict[int, Any]]:
    """Return candidates and prunes of a search that runs alone, one trial after the other."""
    asks: dict[int, Any] = {}
    prunes: dict[int, Any] = {}
    search = Search(planned.spec, {}, {}, asks.setdefault, prunes.setdefault)
    while (pair := search.next()) is not None:
        spec = planned.instance(search.candidates[pair[0]].params, pair[1]).spec
        bad = world.fate(spec.key) in ("poison", "diverged")
        search.observe(*pair, None if bad else {0.0: auroc_of(spec)})
    return {n: ask["params"] for n, ask in asks.items()}, {n: prune["step"] for n, prune in prunes.items()}


class _LostWorker:
    """Stand-in for `LostWorker`: the cause is known after a while."""

    def __init__(self, error: LostError) -> None:
        self.error = error

    def cause(self) -> Any:
        return self.error.loss if self.error.simulation.now >= self.error.known_at else None


def _no_cost(*_: object, **__: object) -> Any:
    return SimpleNamespace(seconds=lambda _: 1.0, measured=lambda _: False)


_world: list[World] = []  # the one that runs is the last one


@contextmanager
def simulated() -> Iterator[None]:
    """Put simulated time, processes and machines in the place of the real ones while the block runs."""

    def ended(pid: int, start: int | None) -> bool:
        world = _world[-1]
        found = world.processes.get((world.simulation.process.machine, pid))
        return found is None or not found.alive or found.start != start

    def sleep(seconds: float) -> None:
        _world[-1].simulation.sleep(seconds)

    time = SimpleNamespace(
        sleep=sleep,
        monotonic=lambda: _world[-1].clock(_world[-1].simulation.process),
        time=lambda: 2e9 + _world[-1].clock(_world[-1].simulation.process),
    )
    threading = SimpleNamespace(
        Event=lambda: Event(_world[-1].simulation),
        RLock=lambda: Lock(_world[-1].simulation),
        Thread=lambda **given: Thread(_world[-1].simulation, **given),
    )
    own = SimpleNamespace(getpid=lambda: _world[-1].simulation.process.pid)
    with ExitStack() as stack:
        for module, names in (
            (leases, {
                "time": time, "threading": threading, "os": own, "_process_ended": ended,
                "this_machine": lambda: _world[-1].simulation.process.machine,
                "_process_start": lambda _: _world[-1].simulation.process.start,
                "_parse": lru_cache(maxsize=100_000)(leases._parse),
            }),
            (callbacks, {
                "time": time, "LostWorker": _LostWorker, "_error_of": lambda trial: trial.error,
                "count_kills": int, "list_workers": list, "remove_old_logs": lambda _: None,
            }),
            (tune, {"expand": lambda sweep, _: _world[-1].sweeps[sweep.name].work, "sample_cost": _no_cost}),
            # What follows are functions of their arguments alone, which take most of the time.
            (status, {"sample_cost": _no_cost}),
            (attempts, {"hide_secrets": str}),
            (ledger, {"decode": lru_cache(maxsize=100_000)(decode)}),
            (searches, {"_worse": worse_once, "PATIENCE": 1}),
            (Search, {"_sample": sample_once}),
        ):  # fmt: skip
            stack.enter_context(mock.patch.multiple(module, **names))
        yield


def schedule(seed: int) -> tuple[list[SimulatedSweep], list[Disturbance]]:
    """Return the plan and the disturbances that belong to a seed."""
    rng = random.Random(seed)
    plan = rng.choices(plans(), (5, 2, 3))[0]
    return plan, disturbances(rng)


def run_schedule(seed: int, night: Sequence[Disturbance] | None = None) -> Violation | None:
    """Run one schedule; returns what is broken.

    Args:
        seed: number of the schedule.
        night: other disturbances than those of the seed.
    """
    plan, own = schedule(seed)
    try:
        World(seed, plan).run(own if night is None else night)
    except Violation as violation:
        return violation
    except Exception as error:
        raise AssertionError(explain(seed, own, error)) from error
    return None


def explain(seed: int, night: Sequence[Disturbance], why: BaseException) -> str:
    """Return the message about a broken schedule."""
    return "\n".join([f"seed {seed}: {type(why).__name__}: {why}", *map(str, night)])


def shortest(seed: int, violation: Violation) -> str:
    """Return the message about a violation, with only the disturbances that it needs."""
    night = schedule(seed)[1]
    for one in reversed(list(night)):
        fewer = [other for other in night if other is not one]
        if (found := run_schedule(seed, fewer)) is not None:
            night, violation = fewer, found
    return explain(seed, night, violation)
