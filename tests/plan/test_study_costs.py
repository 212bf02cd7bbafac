"""What each study of a plan costs, and what another number of seeds would cost and give."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy import stats

from sweep.plan.expand import expand
from sweep.plan.platform import Platform
from sweep.plan.status import SweepStatus, read_status
from sweep.plan.study_costs import HALF_WIDTHS, SeedCost, seed_costs, study_costs
from sweep.spec.load import resolve
from sweep.spec.sweep import Sweep
from sweep.spec.trial import Numerics
from sweep.store import open_store
from sweep.store.base import Store
from sweep.store.ledger import Ledger

CPU = Platform(device="cpu", numerics=Numerics(), slots=2, cpus=1, gpus=0.0)
TABLE: dict[str, Any] = {
    "name": "table", "kind": "error_bars", "datasets": ["digits"], "abnormal": [0, 1], "seeds": 3,
    "detectors": ["ganomaly", "knn"],
}  # fmt: skip
SEARCH: dict[str, Any] = {**TABLE, "name": "search", "kind": "search", "detectors": ["ganomaly"], "candidates": 4}
RUNTIME: dict[str, Any] = {"name": "times", "kind": "runtime", "datasets": ["digits"], "detectors": ["ganomaly"]}


@pytest.fixture
def store(folder_url: str) -> Store:
    return open_store(folder_url)


def sweep_of(*studies: dict[str, Any]) -> Sweep:
    return resolve({"storage": "./r", "sweep": {"studies": [*studies]}})


def status_of(sweep: Sweep, store: Store) -> SweepStatus:
    return read_status(expand(sweep, CPU), Ledger(store, "x"))


def costs(store: Store, *studies: dict[str, Any], usd: float | None = None) -> dict[int, SeedCost]:
    sweep = sweep_of(*studies)
    return {cost.seeds: cost for cost in seed_costs(sweep, status_of(sweep, store), CPU.slots, usd)}


def test_each_study_has_its_trials_and_its_share_of_time_and_dollars(store: Store) -> None:
    sweep = sweep_of(TABLE, SEARCH)
    status = status_of(sweep, store)
    table, search = study_costs(sweep, status, slots=2, usd=10.0)
    assert (table.study, table.trials, table.to_run) == ("table", 2 * 3 + 2, 2 * 3 + 2)
    assert search.trials == 4 * 2 * 3 + 2 * 3
    assert table.seconds + search.seconds == pytest.approx(status.seconds_left(2))
    assert table.usd is not None and search.usd is not None
    assert table.usd + search.usd == pytest.approx(10.0)
    assert table.usd / search.usd == pytest.approx(table.seconds / search.seconds)
    assert [cost.usd for cost in study_costs(sweep, status, 2, None)] == [None, None]


def test_a_study_of_which_all_is_done_costs_nothing(store: Store) -> None:
    sweep = sweep_of({**TABLE, "detectors": ["knn"]})
    for planned in expand(sweep, CPU).fixed:
        result = {"key": planned.key, "spec": planned.spec.to_dict(), "status": "ok", "seconds": 2.0, "metrics": []}
        Ledger(store, "x").put_result(planned.key, {**result, "validation": None, "lam": None})
    (cost,) = study_costs(sweep, status_of(sweep, store), 2, 0.0)
    assert (cost.trials, cost.to_run, cost.seconds, cost.usd) == (2, 0, 0.0, 0.0)


@pytest.mark.parametrize("study", [TABLE, {**TABLE, "split_seed": "follow"}, SEARCH])
def test_other_numbers_of_seeds_cost_what_their_own_plan_says(store: Store, study: dict[str, Any]) -> None:
    found = costs(store, study, usd=None)
    for seeds, cost in found.items():
        sweep = sweep_of({**study, "seeds": seeds})
        assert cost.seconds == pytest.approx(status_of(sweep, store).seconds_left(CPU.slots), rel=0.02)


def test_dollars_follow_the_seconds(store: Store) -> None:
    found = costs(store, TABLE, usd=6.0)
    assert found[3].usd == pytest.approx(6.0)
    assert found[10].usd == pytest.approx(6.0 * found[10].seconds / found[3].seconds)


def test_nothing_is_said_of_seeds_where_none_is_averaged_over(store: Store) -> None:
    assert costs(store, {**TABLE, "detectors": ["knn"]}) == {}
    assert costs(store, RUNTIME) == {}
    assert costs(store, {**TABLE, "detectors": ["knn"], "split_seed": "follow"}) != {}


def test_half_widths_are_those_of_students_t() -> None:
    assert set(HALF_WIDTHS) == {3, 5, 10}
    for seeds, width in HALF_WIDTHS.items():
        assert width == pytest.approx(stats.t.ppf(0.975, seeds - 1) / math.sqrt(seeds), abs=0.005)
