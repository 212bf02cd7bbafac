"""Queue of trials: every trial once, all cells at the same rate, and no slot idle while work is left."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.engine.queue import Job, Queue
from sweep.plan.expand import Planned, Work
from sweep.store import open_store
from sweep.store.base import Store
from sweep.store.ledger import Ledger
from tests.plan.test_expand import result_of, work_of


@pytest.fixture
def ledger(folder_url: str) -> Ledger:
    return Ledger(open_store(folder_url), "x")


def queue_of(work: Work, ledger: Ledger, **given: Any) -> Queue:
    given = {"results": {}, "cost": lambda _: 1.0, "retries": 0, **given}
    for key, result in given["results"].items():
        ledger.put_result(key, result)
    return Queue(work, ledger, given.pop("results"), given.pop("cost"), **given)


def drain(queue: Queue, slots: int = 2, seed: int = 0) -> list[Planned]:
    """Run everything with made-up results; assert that no slot is idle while a trial can run."""
    rng = random.Random(seed)
    ran: list[Planned] = []
    live: list[Job] = []
    while not queue.finished:
        while len(live) < slots and (job := queue.next()) is not None:
            live.append(job)
            ran.append(job.planned)
        assert live, "the queue is not finished, but gives out no work"
        job = live.pop(rng.randrange(len(live)))
        queue.record_result(job.key, result_of(job.planned))
    return ran


@settings(deadline=None, max_examples=20)
@given(slots=st.integers(1, 9), seed=st.integers(0, 99))
def test_every_trial_is_given_out_exactly_once(tmp_path_factory: pytest.TempPathFactory, slots: int, seed: int) -> None:
    work = work_of(detectors=["ganomaly", "pca", "constant"], seeds=3)
    ledger = Ledger(open_store(str(tmp_path_factory.mktemp("s"))), "x")
    ran = drain(queue_of(work, ledger), slots, seed)
    assert Counter(planned.key for planned in ran) == Counter(planned.key for planned in work.fixed)


def test_cells_advance_together(ledger: Ledger) -> None:
    work = work_of(detectors=["ganomaly", "skip_ganomaly"], seeds=4)
    queue = queue_of(work, ledger)
    started: Counter[tuple[str, ...]] = Counter()
    while (job := queue.next()) is not None:
        started[job.planned.cell] += 1
        assert max(started.values()) - min(started[p.cell] for p in work.fixed) <= 1


def test_the_longest_trials_come_first(ledger: Ledger) -> None:
    work = work_of(detectors=["constant", "ganomaly", "pca"], seeds=1)
    cost = {"constant": 1.0, "ganomaly": 9.0, "pca": 3.0}
    ran = drain(queue_of(work, ledger, cost=lambda planned: cost[planned.detector]))
    assert [planned.detector for planned in ran] == ["ganomaly"] * 4 + ["pca"] * 4 + ["constant"] * 4


def test_what_has_a_result_is_not_given_out(ledger: Ledger) -> None:
    work = work_of(seeds=2)
    done = {planned.key: result_of(planned) for planned in work.fixed[:5]}
    ran = drain(queue_of(work, ledger, results=done))
    assert {planned.key for planned in ran} == {planned.key for planned in work.fixed[5:]}


def test_a_trial_of_two_studies_runs_once(ledger: Ledger) -> None:
    grid = work_of(kind="grid", axes={"nz": [100], "w_con": [50]}, seeds=1)
    assert len(grid.fixed) == 8
    assert len(drain(queue_of(grid, ledger))) == 4


def test_a_failing_trial_is_tried_again_last_and_given_up_in_the_end(ledger: Ledger) -> None:
    work = work_of(seeds=1)
    queue = queue_of(work, ledger, retries=2)
    poison, outcomes, order = work.fixed[0].key, [], []
    while (job := queue.next()) is not None:
        order.append(job.key)
        if job.key == poison:
            outcomes.append(queue.record_failure(job.key))
        else:
            queue.record_result(job.key, result_of(job.planned))
    assert outcomes == [True, True, False]
    assert order.count(poison) == 3
    assert queue.finished


@settings(deadline=None, max_examples=30)
@given(slots=st.integers(1, 5), seed=st.integers(0, 999), earlier=st.booleans())
def test_a_trial_that_ran_out_of_memory_is_tried_again_beside_no_other(
    tmp_path_factory: pytest.TempPathFactory, slots: int, seed: int, earlier: bool
) -> None:
    work = work_of(detectors=["ganomaly", "pca"], seeds=2)
    rng = random.Random(seed)
    keys = [planned.key for planned in work.fixed]
    big = set(rng.sample(keys, 3))
    ledger = Ledger(open_store(str(tmp_path_factory.mktemp("s"))), "x")
    queue = queue_of(work, ledger, retries=1, alone=big if earlier else ())
    live: list[Job] = []
    started: Counter[str] = Counter()
    while not queue.finished:
        while len(live) < slots and (job := queue.next()) is not None:
            live.append(job)
            started[job.key] += 1
        lonely = [job for job in live if job.key in big and (earlier or started[job.key] == 2)]
        assert live and (not lonely or len(live) == 1)
        job = live.pop(rng.randrange(len(live)))
        if rng.random() < 0.2:
            started[job.key] -= 1
            queue.record_interruption(job.key)
        elif job.key in big and started[job.key] == 1 and not earlier:
            assert queue.record_failure(job.key, alone=True)
        else:
            queue.record_result(job.key, result_of(job.planned))
    assert started == Counter({key: 2 if key in big and not earlier else 1 for key in keys})


def test_tries_of_an_earlier_generation_count(ledger: Ledger) -> None:
    work = work_of(seeds=1)
    poison = work.fixed[0].key
    ran = drain(queue_of(work, ledger, retries=1, tries={poison: 2}))
    assert poison not in {planned.key for planned in ran}


def test_an_interrupted_trial_is_given_out_again_and_loses_no_try(ledger: Ledger) -> None:
    queue = queue_of(work_of(seeds=1), ledger)
    job = queue.next()
    assert job is not None
    for _ in range(5):
        queue.record_interruption(job.key)
        again = queue.next()
        assert again is not None
        assert again.key == job.key


def test_a_search_runs_to_its_reports_and_uses_what_it_chose(ledger: Ledger) -> None:
    work = work_of(kind="search", candidates=3, seeds=2, space=["nz", "lambda"])
    ran = drain(queue_of(work, ledger))
    reports = [planned for planned in ran if planned.reported]
    assert len(reports) == 2 * 2 * 2
    assert {planned.lam for planned in reports} == {1.0}, "the made-up results are best there"
    assert all(len(ledger.asks(search.spec.id)) == 3 for search in work.searches)


def test_a_search_goes_on_after_a_crash_with_the_same_candidates(ledger: Ledger, tmp_path: Any) -> None:
    work = work_of(kind="search", candidates=3, seeds=1, space=["nz"])
    whole = Ledger(open_store(str(tmp_path / "other")), "x")
    drain(queue_of(work, whole), slots=1)
    queue, results = queue_of(work, ledger), {}
    for _ in range(7):
        job = queue.next()
        assert job is not None
        results[job.key] = result_of(job.planned)
        queue.record_result(job.key, results[job.key])
    drain(queue_of(work, ledger, results=results), slots=1)
    for search in work.searches:
        assert ledger.asks(search.spec.id) == whole.asks(search.spec.id)


def test_failed_trials_can_be_left_alone(ledger: Ledger) -> None:
    work = work_of(seeds=1)
    skipped = work.fixed[2].key
    ran = drain(queue_of(work, ledger, skip={skipped}))
    assert skipped not in {planned.key for planned in ran}


def test_stores_are_not_touched_by_fixed_trials(ledger: Ledger) -> None:
    drain(queue_of(work_of(), ledger))
    store: Store = ledger.store
    assert list(store.list("")) == []


@pytest.mark.parametrize("crash_after", [9, 17])
def test_a_crash_changes_no_later_candidate_even_after_a_prune(ledger: Ledger, tmp_path: Any, crash_after: int) -> None:
    work = work_of(kind="search", candidates=9, parallel=1, seeds=1, space={"nz": {"low": 4, "high": 200}})

    def result(planned: Planned) -> dict[str, Any]:
        nz = int(planned.spec.hyperparameters["nz"])
        noise = random.Random(f"{nz} {planned.seed} {planned.abnormal}").random() / 50
        found = result_of(planned)
        if planned.spec.validation:
            found["validation"]["auroc"] = [0.9 - abs(nz - 100) / 300 + noise for _ in found["validation"]["auroc"]]
        return found

    def run(ledger: Ledger, results: dict[str, Any], trials: int) -> None:
        queue = queue_of(work, ledger, results=results)
        for _ in range(trials):
            if (job := queue.next()) is None:
                return
            results[job.key] = result(job.planned)
            queue.record_result(job.key, results[job.key])

    calm = Ledger(open_store(str(tmp_path / "calm")), "x")
    run(calm, {}, 10_000)
    results: dict[str, Any] = {}
    for _ in range(40):
        run(ledger, results, crash_after)
    for search in work.searches:
        assert calm.prunes(search.spec.id), "something was pruned"
        assert ledger.asks(search.spec.id) == calm.asks(search.spec.id)
        assert ledger.prunes(search.spec.id) == calm.prunes(search.spec.id)
