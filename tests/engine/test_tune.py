"""Handling of trials whose processes end, without Ray: its tables and Tune's trials are made up."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from ray.exceptions import RayActorError

from sweep.engine.tuner import lost_workers
from sweep.engine.tuner.callbacks import MOST_LOSSES, StopWhenIdle, TrialCallback, remove_old_logs
from sweep.engine.tuner.searcher import Multiplexer
from sweep.engine.tuner.tune import _resume
from sweep.engine.tuner_job import TunerJob
from sweep.spec.load import load
from sweep.store import open_store
from sweep.store.attempts import attempt_record
from sweep.store.base import StoreUnreachable
from sweep.store.ledger import Ledger
from tests.support.records import result_record
from tests.support.sweeps import logged, platform, write_config

ACTOR = "b529ebd3bfb98b14581c120201000000"


@dataclass
class Trial:
    """Trial with the fields of a trial of Tune."""

    trial_id: str
    config: dict[str, Any]
    pickled_error_file: str | None = None


@dataclass
class Generation:
    """Queue of ten trials with its callback, and the events that were written."""

    folder: Path
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    given: int = 0

    def __post_init__(self) -> None:
        config = write_config(self.folder, [{**logged(), "seeds": 10}], trial={"retries": 0})
        sweep = load(config)
        self.ledger = Ledger(open_store(sweep.storage), sweep.name)
        tuner_job = TunerJob(
            sweep=sweep.model_dump(mode="json"), platform=asdict(platform(sweep)), quota=100,
            stop_file=str(self.folder / "stop"), stop_key="key", attached=True, scratch=str(self.folder), folder=None,
            cache="", provenance={}, skip_failed=False, launch=1,
        )  # fmt: skip
        self.searcher: Multiplexer
        self.searcher, jobs = _resume(tuner_job, sweep, self.ledger, self.emit)
        self.watch = TrialCallback(self.searcher, self.ledger, jobs, self.emit, self.folder / "logs")

    def emit(self, event: str, planned: Any = None, **fields: Any) -> None:
        self.events.append((event, fields))

    def start(self) -> Trial:
        """Start the next trial on a process."""
        self.given += 1
        config = self.searcher.suggest(f"t{self.given}")
        assert isinstance(config, dict)
        trial = Trial(f"t{self.given}", config)
        self.watch.on_trial_start(0, [], trial)
        return trial

    def lose(self, trial: Trial, error: Exception) -> None:
        """Report that the process of a trial is lost."""
        path = self.folder / f"{trial.trial_id}.pkl"
        path.write_bytes(cloudpickle.dumps(error))
        trial.pickled_error_file = str(path)
        self.searcher.on_trial_complete(trial.trial_id, error=True)
        self.watch.on_trial_error(0, [], trial)

    def statuses(self) -> list[str]:
        return [fields["record"]["status"] for event, fields in self.events if event == "attempt"]


@pytest.fixture
def generation(tmp_path: Path) -> Generation:
    return Generation(tmp_path)


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Let all processes run on one node, which is lost; return the node's entry."""
    node: dict[str, Any] = {
        "NodeID": "n",
        "NodeManagerAddress": "10.0.0.7",
        "Alive": False,
        "DeathReasonMessage": "",
        "Resources": {},
    }

    class Cluster:
        def actor_table(self, actor: str) -> dict[str, Any]:
            return {"State": "DEAD", "Address": {"NodeID": "n"}}

        def node_table(self) -> list[dict[str, Any]]:
            return [node]

    monkeypatch.setattr(lost_workers, "cluster", Cluster())
    return node


def test_lost_machines_count_neither_as_retries_nor_as_failures_that_are_alike(
    generation: Generation, lost: dict[str, Any]
) -> None:
    keys = []
    for trial in [generation.start() for _ in range(5)]:
        generation.lose(trial, RayActorError(ACTOR, "it died"))
        keys.append(trial.config["job"])
    assert generation.statuses() == ["preempted"] * 5
    assert generation.searcher.stopped is None
    again = [generation.start() for _ in range(10)]
    assert len({trial.config["job"] for trial in again}) == 10
    assert len(generation.ledger.index().attempts) == 5


def test_three_processes_that_die_alike_stop_the_launch(generation: Generation, lost: dict[str, Any]) -> None:
    lost["Alive"] = True
    for trial in [generation.start() for _ in range(3)]:
        generation.lose(trial, RayActorError(ACTOR, "it died"))
    assert generation.statuses() == ["failed"] * 3
    assert generation.searcher.stopped is not None


def test_a_trial_that_outlives_no_machine_is_suspected_in_the_end(generation: Generation, lost: dict[str, Any]) -> None:
    others = [generation.start() for _ in range(9)]
    for _ in range(MOST_LOSSES + 1):
        generation.lose(generation.start(), RayActorError(ACTOR, "it died"))
    assert generation.statuses() == ["preempted"] * MOST_LOSSES + ["failed"]
    assert generation.watch.running == len(others)


def test_a_process_that_was_lost_before_its_trial_began_leaves_no_record(
    generation: Generation, lost: dict[str, Any]
) -> None:
    config = generation.searcher.suggest("t")
    assert isinstance(config, dict)
    generation.lose(Trial("t", config), RayActorError(ACTOR, "it died"))
    assert generation.events == []
    assert len({generation.start().config["job"] for _ in range(10)}) == 10


def test_the_last_words_of_a_process_are_believed(generation: Generation, lost: dict[str, Any]) -> None:
    trial = generation.start()
    job: dict[str, Any] = json.loads(trial.config["job"])
    generation.ledger.put_attempt(job["key"], attempt_record("hung", job=job, cause="no progress for 20 s"))
    generation.lose(trial, RayActorError(ACTOR, "it died"))
    assert generation.statuses() == ["hung"]
    assert len(generation.ledger.attempts_of(job["key"])) == 1


@pytest.mark.parametrize("recorded", [False, True])
def test_a_process_that_is_lost_after_it_has_stored_its_result_has_finished(
    generation: Generation, lost: dict[str, Any], recorded: bool
) -> None:
    trial = generation.start()
    job: dict[str, Any] = json.loads(trial.config["job"])
    generation.ledger.put_result(job["key"], result_record(spec=job["spec"], key=job["key"]))
    if recorded:
        generation.ledger.put_attempt(job["key"], attempt_record("hung", job=job, cause="no progress for 20 s"))
    generation.lose(trial, RayActorError(ACTOR, "it died"))
    assert [event for event, _ in generation.events] == ["started", "result"]
    others = {json.loads(generation.start().config["job"])["key"] for _ in range(9)}
    assert job["key"] not in others
    assert generation.searcher.suggest("none is left") is None


def test_a_record_of_another_sweep_is_not_taken_for_the_last_words_of_a_process(
    generation: Generation, lost: dict[str, Any]
) -> None:
    lost["Alive"] = True
    trial = generation.start()
    job: dict[str, Any] = json.loads(trial.config["job"])
    generation.ledger.put_attempt(job["key"], attempt_record("failed", job={**job, "sweep": "another"}, cause="x"))
    generation.lose(trial, RayActorError(ACTOR, "it died"))
    assert [record["sweep"] for record in generation.ledger.attempts_of(job["key"])] == ["another", job["sweep"]]


def test_a_store_that_fails_when_a_process_is_lost_leaves_no_attempt_twice(
    generation: Generation, lost: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost["Alive"] = True
    trial = generation.start()
    job: dict[str, Any] = json.loads(trial.config["job"])
    generation.ledger.put_attempt(job["key"], attempt_record("hung", job=job, cause="no progress for 20 s"))

    def fail(_: str) -> None:
        raise StoreUnreachable("no route")

    with monkeypatch.context() as silent:
        silent.setattr(generation.ledger, "attempts_of", fail)
        generation.lose(trial, RayActorError(ACTOR, "it died"))
    generation.watch.on_step_end(0, [])
    assert (generation.searcher.stopped, generation.searcher.unreachable) == ("the store failed: no route", True)
    assert len(generation.ledger.attempts_of(job["key"])) == 1
    assert generation.watch.running == 0


@pytest.mark.parametrize(("sweep", "left"), [("another", 10), ("own", 9)])
def test_failures_in_another_sweep_do_not_count_although_its_launch_has_the_same_number(
    tmp_path: Path, sweep: str, left: int
) -> None:
    first = Generation(tmp_path)
    job: dict[str, Any] = json.loads(first.start().config["job"])
    job["sweep"] = job["sweep"] if sweep == "own" else sweep
    first.ledger.put_attempt(job["key"], attempt_record("failed", job=job, cause="x"))
    again = Generation(tmp_path)
    for _ in range(left):
        again.start()
    assert again.searcher.suggest("none is left") is None


@pytest.mark.parametrize("unreachable", [True, False])
def test_a_store_that_fails_in_a_trial_stops_the_generation_and_blames_no_trial(
    generation: Generation, unreachable: bool
) -> None:
    trials = [generation.start() for _ in range(2)]
    outcome = {"outcome": "storage", "cause": "the store failed: no route", "unreachable": unreachable, "done": True}
    generation.searcher.on_trial_complete(trials[0].trial_id, outcome)
    generation.searcher.on_trial_complete(trials[1].trial_id, {**outcome, "cause": "later", "unreachable": False})
    assert (generation.searcher.stopped, generation.searcher.unreachable) == ("the store failed: no route", unreachable)
    assert generation.searcher.suggest("next") == Multiplexer.FINISHED
    assert generation.statuses() == []
    assert not generation.ledger.index().attempts


@pytest.mark.parametrize("outcome", ["result", "attempt"])
def test_a_store_that_fails_after_a_trial_stops_the_generation_and_loses_nothing(
    generation: Generation, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreUnreachable("no route")

    monkeypatch.setattr(generation.searcher.queue, f"record_{'failure' if outcome == 'attempt' else outcome}", fail)
    trial = generation.start()
    record = {"status": "failed", "cause": "its own", "launch": 1}
    generation.searcher.on_trial_complete(trial.trial_id, {"outcome": outcome, "record": json.dumps(record)})
    assert (generation.searcher.stopped, generation.searcher.unreachable) == ("the store failed: no route", True)
    assert [event for event, _ in generation.events] == ["started", outcome]


def test_asked_to_stop_it_waits_for_what_runs_and_for_nothing_else(generation: Generation) -> None:
    standstill = StopWhenIdle(str(generation.folder / "stop"), generation.watch)
    trial = generation.start()
    assert not standstill.stop_all()
    (generation.folder / "stop").touch()
    assert not standstill.stop_all()
    generation.watch.on_trial_complete(0, [], trial)
    assert standstill.stop_all()


def test_the_oldest_output_of_processes_is_removed_first(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"worker-{number}.out").write_bytes(b"x" * 100)
        os.utime(tmp_path / f"worker-{number}.out", (number, number))
    (tmp_path / "raylet.out").write_bytes(b"x" * 1000)
    remove_old_logs(tmp_path, limit=250)
    assert {path.name for path in tmp_path.iterdir()} == {"worker-3.out", "worker-4.out", "raylet.out"}
    remove_old_logs(tmp_path / "no such folder", limit=250)
