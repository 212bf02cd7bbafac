"""A search depends only on the values of its instances, not on their order and not on crashes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from sweep.plan.search import Search, SearchSpec, Values, best_lambda

SPEC = SearchSpec(
    id="example",
    space={
        "nz": {"low": 4, "high": 128, "log": True, "type": "int"},
        "w": {"low": 0.1, "high": 100.0, "log": True, "type": "float"},
    },
    default={"nz": 100, "w": 50.0},
    candidates=10,
    parallel=2,
    instances=6,
    lambdas=(0.0, 0.5, 1.0),
)
Records = dict[int, dict[str, Any]]


def found(params: Mapping[str, Any], instance: int) -> Values:
    """Return the validation AUROC of an invented detector that is best with nz near 30 and lambda 0.5."""
    noise = random.Random(f"{params['nz']} {params['w']} {instance}").gauss(0, 0.01)
    value = 0.9 - abs(params["nz"] - 30) / 200 + noise + instance * 0.01
    return {0.0: value - 0.1, 0.5: value, 1.0: value - 0.05}


class Run:
    """Drives a search like the tuner, with `slots` instances at the same time."""

    def __init__(self, spec: SearchSpec = SPEC, slots: int = 2) -> None:
        self.spec, self.slots = spec, slots
        self.asks: Records = {}
        self.prunes: Records = {}
        self.results: dict[tuple[int, int], Values | None] = {}
        self.ran: list[tuple[int, int]] = []
        self.search = self.begin()

    def begin(self) -> Search:
        search = Search(self.spec, self.asks, self.prunes, self.asks.setdefault, self.prunes.setdefault)
        for pair, values in self.results.items():
            search.observe(*pair, values)
        return search

    def finish(self, seed: int = 0, crash: float = 0.0, failing: tuple[tuple[int, int], ...] = ()) -> Run:
        rng = random.Random(seed)
        live: list[tuple[int, int]] = []
        while not self.search.finished:
            while len(live) < self.slots and (pair := self.search.next()) is not None:
                live.append(pair)
            pair = live.pop(rng.randrange(len(live)))
            self.ran.append(pair)
            params = self.search.candidates[pair[0]].params
            self.results[pair] = None if pair in failing else found(params, pair[1])
            self.search.observe(*pair, self.results[pair])
            if rng.random() < crash:
                live = []
                self.results = dict(sorted(self.results.items(), key=lambda _: rng.random()))
                self.search = self.begin()
        return self


@pytest.fixture(scope="module")
def calm() -> Run:
    """Return a search without disturbance, one instance after the other."""
    return Run(slots=1).finish()


@pytest.mark.parametrize(("slots", "seed"), [(1, 0), (2, 1), (2, 2), (7, 3)])
def test_neither_order_nor_crashes_change_candidates_prunes_or_choice(calm: Run, seed: int, slots: int) -> None:
    rough = Run(slots=slots).finish(seed=seed, crash=0.2)
    assert rough.asks == calm.asks
    assert rough.prunes == calm.prunes
    assert rough.search.frozen() == calm.search.frozen()


def test_no_candidate_is_lost_doubled_or_forgotten_by_a_crash() -> None:
    run = Run().finish(crash=0.3)
    assert sorted(run.asks) == list(range(SPEC.candidates))
    assert len(run.ran) == len(set(run.ran)), "an instance with a result does not run again"


def test_the_first_candidate_is_the_default(calm: Run) -> None:
    assert calm.search.candidates[0].params == SPEC.default


def test_a_worse_candidate_is_pruned_and_a_better_one_is_not() -> None:
    run = Run(SearchSpec(**{**vars(SPEC), "default": {"nz": 30, "w": 1.0}}), slots=1).finish()
    pruned = {n for n, c in enumerate(run.search.candidates) if c.pruned is not None}
    assert pruned == set(run.prunes)
    assert pruned, "some of ten candidates are clearly worse"
    best = run.search.best()
    assert best is not None
    assert best not in pruned
    assert all(run.search.candidates[n].pruned in (4, 5, 6) for n in pruned), "at least 4 instances are needed"
    assert len(run.ran) < SPEC.candidates * SPEC.instances, "pruning saves trials"


def test_a_search_learns() -> None:
    run = Run(SearchSpec(**{**vars(SPEC), "candidates": 25})).finish()
    frozen = run.search.frozen()
    assert frozen is not None
    assert abs(int(frozen[0]["nz"]) - 30) < 10


def test_lambda_is_chosen_from_what_instances_stored(calm: Run) -> None:
    frozen = calm.search.frozen()
    assert frozen is not None
    assert frozen[1] == 0.5
    value, lam = best_lambda([{0.0: 0.1, 1.0: 0.9}, {0.0: 0.6, 1.0: 0.2}], (0.0, 1.0))
    assert value == pytest.approx(0.55)
    assert lam == 1.0


def test_a_score_of_one_component_has_no_lambda() -> None:
    value, lam = best_lambda([{None: 0.5}, {None: 0.7}], (None,))
    assert value == pytest.approx(0.6)
    assert lam is None


def test_a_candidate_with_a_failed_instance_is_given_up_and_never_chosen(calm: Run) -> None:
    best = calm.search.best()
    assert best is not None
    run = Run().finish(failing=((best, 5),))
    assert run.search.finished
    assert run.search.best() not in (None, best)


def test_a_search_of_which_nothing_works_chooses_nothing() -> None:
    every = tuple((n, i) for n in range(SPEC.candidates) for i in range(SPEC.instances))
    run = Run().finish(failing=every)
    assert run.search.frozen() is None


def test_candidates_under_way_are_limited_by_parallel() -> None:
    search = Run(slots=100).search
    started = set()
    while (pair := search.next()) is not None:
        started.add(pair[0])
    assert started == {0, 1}


def test_an_interrupted_instance_is_given_out_again() -> None:
    search = Run().search
    pair = search.next()
    assert pair is not None
    search.requeue(*pair)
    assert search.next() == pair


def test_one_who_only_reads_asks_nothing() -> None:
    search = Search(SPEC, {}, {})
    assert search.next() is None
    assert not search.finished


def test_a_longer_search_goes_on_from_a_shorter_one(calm: Run) -> None:
    short = Run(SearchSpec(**{**vars(SPEC), "candidates": 4})).finish()
    long = Run()
    long.asks, long.prunes, long.results = short.asks, short.prunes, short.results
    long.search = long.begin()
    long.finish()
    assert long.asks == calm.asks


def test_a_default_outside_the_space_is_not_a_candidate() -> None:
    run = Run(SearchSpec(**{**vars(SPEC), "default": {"nz": 500, "w": 1.0}, "candidates": 2})).finish()
    assert int(run.search.candidates[0].params["nz"]) <= 128


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 4, 3, 2, 1, 0), (4, 0, 1, 2, 3, 5)])
def test_a_failed_instance_counts_in_its_turn(order: tuple[int, ...]) -> None:
    run = Run(SearchSpec(**{**vars(SPEC), "default": {"nz": 30, "w": 1.0}, "candidates": 2, "parallel": 1}), slots=1)
    while len(run.search.candidates) < 2:
        pair = run.search.next()
        assert pair is not None
        if pair[0] == 0:
            run.search.observe(*pair, found(run.search.candidates[0].params, pair[1]))
    for instance in order:
        values = None if instance == 4 else dict.fromkeys(SPEC.lambdas, 0.1)
        run.search.observe(1, instance, values)
    assert run.search.candidates[1].pruned == 4, "it was hopeless before the fourth instance failed"
