"""A sweep is expanded into exactly the trials that it asks for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from models import catalog
from models.scoring import LAMBDAS
from sweep.plan.expand import Planned, Work, expand
from sweep.plan.platform import Platform
from sweep.plan.status import read_status
from sweep.spec.load import resolve
from sweep.spec.trial import Numerics
from sweep.store import open_store
from sweep.store.base import Store
from sweep.store.ledger import Ledger

CPU = Platform(device="cpu", numerics=Numerics(), slots=2, cpus=1, gpus=0.0)
STUDY: dict[str, Any] = {
    "name": "s", "kind": "error_bars", "datasets": ["digits"], "detectors": ["ganomaly"],
    "abnormal": [0, 1, 2, 3],
}  # fmt: skip


def work_of(**keys: Any) -> Work:
    return expand(resolve({"storage": "./r", "sweep": {"studies": [{**STUDY, **keys}]}}), CPU)


def result_of(planned: Planned) -> dict[str, Any]:
    """Return a result record with only the fields that the status needs."""
    validation = None
    if planned.spec.validation:
        validation = {"epoch": 1, "lambda": [*LAMBDAS], "auroc": [0.6 + 0.1 * lam for lam in LAMBDAS]}
    return {
        "key": planned.key, "spec": planned.spec.to_dict(), "status": "ok", "seconds": 2.0, "metrics": [],
        "validation": validation, "lam": planned.lam,
    }  # fmt: skip


def test_error_bars_runs_every_class_with_every_seed() -> None:
    work = work_of(seeds=3, detectors=["ganomaly", "skip_ganomaly"])
    assert len(work.fixed) == 2 * 4 * 3
    assert len({planned.key for planned in work.fixed}) == 2 * 4 * 3
    assert {planned.spec.protocol for planned in work.fixed} == {"D1"}


def test_a_deterministic_detector_runs_once_per_split() -> None:
    assert len(work_of(detectors=["pca"], seeds=3).fixed) == 4
    assert len(work_of(detectors=["pca"], seeds=3, split_seed="follow").fixed) == 4 * 3


def test_split_seed_and_training_seed_are_two_things() -> None:
    fixed = work_of(seeds=[5, 6]).fixed
    assert {(planned.split_seed, planned.seed) for planned in fixed} == {(0, 5), (0, 6)}
    followed = work_of(seeds=[5, 6], split_seed="follow").fixed
    assert {(planned.split_seed, planned.seed) for planned in followed} == {(5, 5), (6, 6)}


def test_validation_has_a_protocol_of_its_own() -> None:
    fixed = work_of(validation={"normal": 0.2, "abnormal": 0.3}).fixed
    assert {planned.protocol for planned in fixed} == {"D1v"}


def test_untrained_stays_untrained_whatever_the_study_says() -> None:
    work = work_of(variants=["default", "untrained"], hyperparameters={"all": {"epochs": 7}})
    epochs = {planned.variant: planned.spec.hyperparameters["epochs"] for planned in work.fixed}
    assert epochs == {"repo_head": 7, "untrained": 0}


def test_a_variant_may_train_longer_on_one_dataset_unless_the_study_says_otherwise() -> None:
    asked: dict[str, Any] = {"variants": ["paper"], "datasets": ["digits", "cifar10"], "abnormal": "all"}
    epochs = {planned.dataset: planned.spec.hyperparameters["epochs"] for planned in work_of(**asked).fixed}
    assert epochs == {"digits": 15, "cifar10": 25}
    short = work_of(**asked, hyperparameters={"all": {"epochs": 2}}).fixed
    assert {planned.spec.hyperparameters["epochs"] for planned in short} == {2}


def test_grid_varies_one_hyperparameter_at_a_time_around_the_default() -> None:
    fixed = work_of(kind="grid", seeds=1, abnormal=[0], axes={"nz": [8, 16], "w_con": [1, 50], "lambda": [0.5]}).fixed
    assert [planned.setting for planned in fixed] == [
        "nz=8", "nz=16", "nz=100", "w_con=1.0", "w_con=50.0", "lambda=0.5", "lambda=0.0"
    ]  # fmt: skip
    assert [planned.setting for planned in fixed if planned.centre] == ["nz=100", "w_con=50.0", "lambda=0.0"]
    default = fixed[2].spec.hyperparameters
    for planned in fixed:
        changed = {k for k, v in planned.spec.hyperparameters.items() if v != default[k]}
        assert changed <= {planned.axis}
    assert [planned.lam for planned in fixed][-2:] == [0.5, 0.0]
    assert fixed[-1].key == fixed[2].key, "choosing lambda needs no training"


def test_grid_leaves_out_detectors_that_lack_the_axis() -> None:
    work = work_of(kind="grid", detectors=["ganomaly", "skip_ganomaly"], axes={"w_lat": [0]})
    assert {planned.detector for planned in work.fixed} == {"skip_ganomaly"}


def test_transfer_tunes_on_one_half_of_the_classes_and_reports_the_other() -> None:
    searches = work_of(kind="search", candidates=2, seeds=2).searches
    assert len(searches) == 2
    for search, tuned, reported in zip(searches, ("02", "13"), ("13", "02"), strict=True):
        assert {planned.abnormal for planned in search.tuning} == set(tuned)
        assert {planned.abnormal for planned in search.reports} == set(reported)
        assert len(search.tuning) == 2 * 3
        assert len(search.reports) == 2 * 2
    assert searches[0].spec.id != searches[1].spec.id


def test_labelled_tunes_and_reports_alike_but_never_on_a_row_that_it_tested() -> None:
    (search,) = work_of(kind="search", objective="labelled").searches
    assert {planned.abnormal for planned in search.tuning} == {planned.abnormal for planned in search.reports}
    assert {planned.spec.validation for planned in (*search.tuning, *search.reports)} != {None}
    assert len({planned.spec.validation for planned in (*search.tuning, *search.reports)}) == 1
    assert {planned.objective for planned in search.reports} == {"labelled"}


@pytest.mark.parametrize(("objective", "studies"), [("labelled", 4), ("transfer", 4)])
def test_a_search_per_cell_has_one_study_a_class(objective: str, studies: int) -> None:
    searches = work_of(kind="search", objective=objective, per="cell").searches
    assert len(searches) == studies
    for search in searches:
        reported = {planned.abnormal for planned in search.reports}
        tuned = {planned.abnormal for planned in search.tuning}
        assert len(reported) == 1
        assert tuned == reported if objective == "labelled" else tuned.isdisjoint(reported)


def test_candidates_see_no_test_row_and_use_seeds_that_are_never_reported() -> None:
    for search in work_of(kind="search").searches:
        assert all(planned.spec.evaluations == () for planned in search.tuning)
        assert all(not planned.reported for planned in search.tuning)
        assert min(planned.seed for planned in search.tuning) >= 1000
        assert max(planned.seed for planned in search.reports) < 1000


def test_a_search_is_named_by_what_it_depends_on_and_not_by_how_long_it_is() -> None:
    name = work_of(kind="search").searches[0].spec.id
    assert work_of(kind="search", candidates=99, parallel=5, seeds=7).searches[0].spec.id == name
    assert work_of(kind="search", space=["nz"]).searches[0].spec.id != name
    assert work_of(kind="search", tuning_seeds=4).searches[0].spec.id != name
    assert work_of(kind="search", hyperparameters={"all": {"epochs": 3}}).searches[0].spec.id != name


def test_a_chosen_configuration_goes_into_what_is_reported() -> None:
    (search, _) = work_of(kind="search", space=["nz", "lambda"]).searches
    reports = search.reported_trials(({"nz": 7}, 0.25))
    assert {planned.spec.hyperparameters["nz"] for planned in reports} == {7}
    assert {planned.lam for planned in reports} == {0.25}


@pytest.fixture
def store(folder_url: str) -> Store:
    return open_store(folder_url)


def test_counts_add_up_before_in_the_middle_and_after(store: Store) -> None:
    work, ledger = work_of(seeds=2), Ledger(store, "x")
    for finished in range(len(work.fixed) + 1):
        state = read_status(work, ledger)
        assert state.count("trials") == len(work.fixed)
        assert state.count("done") == finished
        assert state.count("to_run") == len(work.fixed) - finished
        if finished < len(work.fixed):
            ledger.put_result(work.fixed[finished].key, result_of(work.fixed[finished]))


def test_a_failed_trial_is_counted_until_it_has_a_result(store: Store) -> None:
    work, ledger = work_of(seeds=1), Ledger(store, "x")
    key = work.fixed[0].key
    ledger.put_attempt(key, {"status": "failed", "cause": "c", "launch": 1})
    assert read_status(work, ledger).count("failed") == 1
    ledger.put_result(key, result_of(work.fixed[0]))
    state = read_status(work, ledger)
    assert (state.count("failed"), state.count("done")) == (0, 1)


def test_a_preempted_trial_has_not_failed(store: Store) -> None:
    work, ledger = work_of(seeds=1), Ledger(store, "x")
    ledger.put_attempt(work.fixed[0].key, {"status": "preempted", "cause": "c", "launch": 1})
    assert read_status(work, ledger).count("failed") == 0


def test_a_search_is_counted_with_all_that_it_may_still_ask(store: Store) -> None:
    work = work_of(kind="search", candidates=5, seeds=2)
    state = read_status(work, Ledger(store, "x"))
    assert state.count("trials") == state.count("to_run") == 2 * (5 * 6 + 4)


def test_results_of_an_older_revision_are_stale_and_not_reused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    work, ledger = work_of(seeds=1), Ledger(store, "x")
    for planned in work.fixed:
        ledger.put_result(planned.key, result_of(planned))
    info = catalog.DETECTORS["ganomaly"]
    monkeypatch.setitem(catalog.DETECTORS, "ganomaly", dataclasses.replace(info, revision=info.revision + 1))
    state = read_status(work_of(seeds=1), ledger)
    assert (state.count("stale"), state.count("done"), state.count("to_run")) == (4, 0, 4)


def test_time_left_is_measured_where_results_exist(store: Store) -> None:
    work, ledger = work_of(seeds=2), Ledger(store, "x")
    guessed = read_status(work, ledger)
    assert not guessed.lines[0].measured
    ledger.put_result(work.fixed[0].key, result_of(work.fixed[0]))
    measured = read_status(work, ledger)
    assert measured.lines[0].measured
    assert measured.seconds_left(slots=2) == pytest.approx(2.0 * 7 / 2)


def test_a_value_of_an_axis_that_is_given_twice_is_run_once() -> None:
    fixed = work_of(kind="grid", seeds=1, abnormal=[0], axes={"lr": ["2e-4", 0.0002], "w_con": [50, 50.0]}).fixed
    assert [planned.setting for planned in fixed] == ["lr=0.0002", "w_con=50.0"]


def test_the_centre_of_a_grid_is_what_its_study_says() -> None:
    given = {"all": {"nz": 32}}
    fixed = work_of(kind="grid", seeds=1, abnormal=[0], axes={"nz": [8, 100]}, hyperparameters=given).fixed
    assert [(planned.value, planned.centre) for planned in fixed] == [(8, False), (100, False), (32, True)]


def test_a_trial_of_two_studies_is_counted_once(store: Store) -> None:
    work = work_of(kind="grid", seeds=1, abnormal=[0], axes={"nz": [8], "w_con": [1]})
    assert len(work.fixed) == 4
    assert read_status(work, Ledger(store, "x")).count("trials") == 3


def test_a_choice_of_a_search_is_the_same_trial_however_it_is_written() -> None:
    (search, _) = work_of(kind="search", space=["w_con"]).searches
    assert search.instance({"w_con": 50}, 0).key == search.instance({"w_con": 50.0}, 0).key
