"""Launches on simulated time: the tuner's own code, with made-up trials in the place of Ray Tune's."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from sweep.engine.tuner import tune
from sweep.engine.tuner.callbacks import TrialCallback
from sweep.engine.tuner.lost_workers import LossCause
from sweep.engine.tuner.searcher import Multiplexer
from sweep.engine.tuner_job import TunerJob
from sweep.plan.expand import Planned
from sweep.store.attempts import Status, attempt_record
from sweep.store.base import StoreError
from sweep.store.lease import Lease, LeaseHeld
from sweep.store.ledger import Ledger, Record
from sweep.store.records import canonical_json
from tests.chaos.simulated_plans import SimulatedSweep, validation_of
from tests.chaos.simulated_store import RemoteStore, Violation
from tests.plan.test_expand import CPU
from tests.support.simulated_time import Event, Process, Simulation

if TYPE_CHECKING:
    from tests.chaos.simulation import World

PLATFORM = asdict(CPU)


@dataclass(eq=False)
class Run:
    """One process that runs one trial of a launch."""

    launch: Launch
    planned: Planned
    id: str
    process: Process
    lonely: bool
    trial: SimpleNamespace  # what Tune's callbacks get
    fate: str = ""
    publishing: bool = False
    dying: bool = False  # it says its last words, once
    asked: bool = False  # to write its resume state and end

    @property
    def job(self) -> dict[str, Any]:
        sweep = self.launch.sweep.name
        return {"key": self.planned.key, "launch": self.launch.number, "sweep": sweep, "storage": "memory"}

    def run(self) -> None:
        world, launch = self.launch.world, self.launch
        rng, store = world.rng, RemoteStore(world.network)
        ledger, key = Ledger(store, launch.sweep.name), self.planned.key
        lease = world.lease(self.process, store, f"trials/{key}/lease")
        held, big = False, world.fate(key) == "big" and len(launch.runs) > 1
        try:
            for _ in range(rng.randrange(1, 4)):
                world.simulation.sleep(rng.random() * 12)
                if self.asked:
                    self._close(lease, held)
                    return self._report({"outcome": "interrupted"})
                try:
                    held = lease.renew() if held else lease.acquire()
                except LeaseHeld:
                    held = False
            fate = self.fate or ("out of memory" if big else world.fate(key))
            if fate in ("fail", "poison", "out of memory"):
                self._close(lease, held)
                status: Status = "oom" if fate == "out of memory" else "failed"
                record = attempt_record(status, cause=self.cause(fate), job=self.job)
                return self._report({"outcome": "attempt", "record": json.dumps(record)})
            self.publishing = True
            result = self._result("diverged" if fate == "diverged" else "ok")
            if not ledger.put_result(key, result):
                result = ledger.result(key) or result
            if world.lose_finished:
                self.die(world.lose_finished.pop())
            self._close(lease, held)
            store.delete(lease.path)
            self._report({"outcome": "result", "record": json.dumps(result)})
        except StoreError as error:
            self._report({"outcome": "storage", "cause": str(error), "unreachable": True})

    def _close(self, lease: Lease, held: bool) -> None:
        if held:
            lease.release()

    def _result(self, status: str) -> Record:
        spec, validation = self.planned.spec, None
        if spec.validation is not None and status == "ok":
            validation = validation_of(spec)
        return {
            "key": spec.key, "spec": spec.to_dict(), "status": status, "metrics": [], "validation": validation,
            "lam": None, "seconds": 1.0, "host": self.process.name,
        }  # fmt: skip

    def cause(self, why: str) -> str:
        """Return a cause that names the launch, which the number in the record does not."""
        return f"{why} @{self.launch.name}"

    def record_and_die(self, status: Status, loss: str) -> None:
        """Let the process record its own attempt and end, as its watchdog does."""
        world = self.launch.world
        if status == "preempted" and self.publishing:
            self.die("machine")
        if self.dying or not self.process.alive:
            return
        self.dying = True
        record = attempt_record(status, cause=self.cause(status), job=self.job)

        def last_words() -> None:
            with suppress(StoreError):
                Ledger(RemoteStore(world.network), self.launch.sweep.name).put_attempt(self.planned.key, record)
            self.die(loss)

        for task in self.process.tasks:
            task.killed = True
            world.simulation.wake(task)
        world.simulation.spawn(self.process, last_words)

    def die(self, of: str, text: str = "") -> None:
        """End the process; the launch notices after a while, and learns the cause even later."""
        world = self.launch.world
        if not self.process.alive:
            return
        of = "machine" if of == "notice" and self.publishing else of  # it gives up before, or not at all
        now = world.simulation.now
        loss = LossCause(of, self.cause(f"{of} lost"))  # type: ignore[arg-type]  # one of its three words
        error = LostError(self.cause(text or "lost"), loss, now + world.rng.random() * 40, world.simulation)
        world.simulation.at(now + world.rng.random() * 5, partial(self.launch.receive, self.id, error))
        world.simulation.kill(self.process)

    def _report(self, outcome: dict[str, Any]) -> None:
        simulation = self.launch.world.simulation
        self.process.alive = False
        at = simulation.now + self.launch.world.rng.random() ** 4 * 20
        simulation.at(at, partial(self.launch.receive, self.id, outcome))


class LostError(RuntimeError):
    """Error that Ray gives for a lost process; here it also has the cause, which is known only later."""

    def __init__(self, text: str, loss: LossCause, known_at: float, simulation: Simulation) -> None:
        super().__init__(text)
        self.loss, self.known_at, self.simulation = loss, known_at, simulation


@dataclass(eq=False)
class Launch:
    """One launch of a sweep: the process that holds the lease and drives the queue, and its trials."""

    world: World
    name: str
    sweep: SimulatedSweep
    process: Process
    skip_failed: bool
    slots: int
    quota: int
    number: int = 0
    end: str = ""
    stopping: bool = False
    crashing: bool = False
    runs: dict[str, Run] = field(default_factory=dict)
    own_results: set[str] = field(default_factory=set)
    searcher: Multiplexer | None = None
    lonely: set[str] = field(default_factory=set)  # keys of trials that must run beside no other
    _inbox: list[tuple[str, dict[str, Any] | LostError]] = field(default_factory=list)
    _given: int = 0

    def run(self) -> None:
        self._news = Event(self.world.simulation)
        store = RemoteStore(self.world.network)
        lease = self.world.lease(self.process, store, f"sweeps/{self.sweep.name}/lease")
        try:
            with lease.hold(patience=lease.ttl_seconds):
                self.number = Ledger(store, self.sweep.name).put_spec({"commit": self.name})
                while not self.end:
                    self.end = self._generation(lease, store)
        except (LeaseHeld, StoreError) as error:
            self.end = f"{type(error).__name__}: {error}"
        self.process.alive = False

    def receive(self, run_id: str, outcome: dict[str, Any] | LostError) -> None:
        self._inbox.append((run_id, outcome))
        self._news.set()

    def _generation(self, lease: Lease, store: RemoteStore) -> str:
        """Do what Ray Tune does in one generation.  Returns how the launch ends; "" if another generation follows."""
        world, ledger, sweep = self.world, Ledger(store, self.sweep.name), self.sweep.sweep
        known = world.finished()
        job = TunerJob({}, PLATFORM, self.quota, "", "", False, "", None, "", {}, self.skip_failed, self.number)
        searcher, jobs = tune._resume(job, sweep, ledger, self._hear)
        self.searcher, self.crashing, given = searcher, False, None
        self.lonely = set(searcher.queue._alone)
        watch = TrialCallback(searcher, ledger, jobs, self._hear, Path("."), self.process_clock)
        self.runs, self._inbox, offered = {}, [], self._given
        while True:
            self.stopping = self.stopping or lease.is_taken
            if self.crashing:
                self._end_trials()
                return ""
            while not self.stopping and len(self.runs) < self.slots:
                given = searcher.suggest(f"{self.name}.{self._given}")
                if not isinstance(given, dict):
                    break
                self._start(jobs.planned[json.loads(given["job"])["key"]], given, known, watch)
            for run in self.runs.values():
                run.asked = self.stopping or searcher.stopped is not None
            if not self.runs:
                if self.stopping or given == Searcher.FINISHED:
                    break
                if not watch.running:
                    raise Violation(f"{self.name}: nothing runs, nothing is given out, and trials are left")
            self._news.wait(1.0 if not self.runs else 10.0)
            self._news.clear()
            for run_id, outcome in self._inbox[:]:
                self._inbox.pop(0)
                self._deliver(run_id, outcome, searcher, watch)
            watch.on_step_end(0, [])
        watch.close(patient=searcher.stopped is None and not self.stopping)
        if searcher.queue.finished and searcher.stopped is None:
            return "finished"
        if self.stopping or searcher.stopped:
            return f"stopped: {searcher.stopped}"
        if self._given == offered:
            raise Violation(f"{self.name}: a generation without a trial, and trials are left")
        return ""

    def process_clock(self) -> float:
        return self.world.clock(self.process)

    def _start(self, planned: Planned, given: dict[str, Any], known: set[str], watch: TrialCallback) -> None:
        key, name = planned.key, f"{self.name}.{self._given}"
        self._given += 1
        if key in known or key in self.own_results:
            raise Violation(f"{self.name} trains {key} again, which is finished")
        retries = self.sweep.sweep.trial.retries
        if self.world.failures(self, key) > retries:
            raise Violation(f"{self.name} tries {key} after {self.world.failures(self, key)} failures")
        if any(run.planned.key == key for run in self.runs.values()):
            raise Violation(f"{self.name} runs {key} twice at the same time")
        if any(run.lonely for run in self.runs.values()) or (key in self.lonely and self.runs):
            raise Violation(f"{self.name} runs {key} beside a trial that ran out of memory")
        process = self.world.process(name, self.process.machine)
        run = Run(self, planned, name, process, key in self.lonely, SimpleNamespace(config=given, error=None))
        self.runs[name] = run
        watch.on_trial_start(0, [], run.trial)
        self.world.simulation.spawn(process, run.run)

    def _deliver(
        self, run_id: str, outcome: dict[str, Any] | LostError, searcher: Multiplexer, watch: TrialCallback
    ) -> None:
        run = self.runs.pop(run_id, None)
        if run is None:
            return  # of a generation that has crashed
        if isinstance(outcome, LostError):
            run.trial.error = outcome
            searcher.on_trial_complete(run_id, error=True)
            watch.on_trial_error(0, [], run.trial)
        else:
            searcher.on_trial_complete(run_id, outcome)
            watch.on_trial_complete(0, [], run.trial)

    def _hear(self, event: str, planned: Planned | None = None, **fields: Any) -> None:
        """Check an event of the tuner."""
        if event != "attempt" or planned is None:
            return
        key, record, again = planned.key, fields["record"], fields["again"]
        if canonical_json(record).encode() not in self.world.attempts(key):
            raise Violation(f"{self.name}: an attempt of {key} is lost")
        if record["status"] != "preempted":
            left = self.world.failures(self, key) <= self.sweep.sweep.trial.retries
            if again != left and key not in self.world.late and not (self.searcher and self.searcher.stopped):
                raise Violation(f"{self.name}: {key} is {'' if again else 'not '}tried again")
            (self.lonely.add if record["status"] == "oom" and again else self.lonely.discard)(key)

    def _end_trials(self) -> None:
        for run in self.runs.values():
            self.world.simulation.kill(run.process)
        self.runs = {}
