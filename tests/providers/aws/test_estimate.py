"""Estimates of workers, hours and dollars, and their texts if something is unknown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.errors import UserError
from sweep.plan.status import StatusRow, SweepStatus
from sweep.providers.aws import client, estimate, prices
from sweep.providers.aws.estimate import Estimate, fewest_slots, lines, makespan, start_seconds
from sweep.providers.aws.instances import platform, worker
from sweep.spec.cluster import Aws
from sweep.spec.sweep import Sweep
from tests.support.aws_sweeps import STUDY, sweep_on_aws

JOBS = st.lists(st.tuples(st.integers(1, 20), st.floats(0.1, 1000)), min_size=1, max_size=5)
PRICES = {"m6i.large": {"on_demand": 0.1, "spot": 0.04}, "g5.xlarge": {"on_demand": 1.0, "spot": 0.4}}
HOUR = 3600.0


@pytest.fixture(autouse=True)
def aws_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "has_credentials", lambda: False)


def status_of(*jobs: tuple[int, float]) -> SweepStatus:
    found = [StatusRow("s", "ganomaly", "v", "digits", trials=n, to_run=n, seconds=n * took) for n, took in jobs]
    return SweepStatus(tuple(found), (), frozenset(), {})


def estimated(jobs: list[tuple[int, float]], cluster: dict[str, Any], **sections: Any) -> Estimate:
    sweep = sweep_on_aws({"worker": "g5.xlarge", "prices": PRICES, **cluster}, **sections)
    return estimate.estimate(sweep, status_of(*jobs))


def estimate_text(sweep: Sweep, *jobs: tuple[int, float]) -> str:
    return "\n".join(lines(sweep, estimate.estimate(sweep, status_of(*jobs)), worker(sweep).platform))


@given(JOBS, st.integers(1, 30))
def test_a_makespan_is_at_least_the_work_over_the_slots_and_the_longest_trial(
    jobs: list[tuple[int, float]], slots: int
) -> None:
    found = makespan(jobs, slots)
    work, longest = sum(n * took for n, took in jobs), max(took for _, took in jobs)
    assert found >= max(work / slots, longest) * (1 - 1e-9)
    assert found <= work / slots + longest * (1 + 1e-9)  # Graham's bound of list scheduling


@given(JOBS, st.floats(0.1, 5000))
def test_the_fewest_slots_meet_the_limit_and_one_fewer_does_not(jobs: list[tuple[int, float]], seconds: float) -> None:
    slots = fewest_slots(jobs, seconds)
    if slots is None:
        assert max(took for _, took in jobs) > seconds * (1 - 1e-9)
        return
    assert makespan(jobs, slots) <= seconds
    assert slots == 1 or makespan(jobs, slots - 1) > seconds


def test_as_many_workers_are_made_as_meet_the_hours_boot_set_up_and_an_orderly_end_included() -> None:
    ready = {"environment": "/opt/x"}
    cluster = sweep_on_aws(ready).cluster
    assert isinstance(cluster, Aws)
    start, orderly = start_seconds(cluster) / HOUR, estimate.GRACE_SECONDS / HOUR
    enough = {"max_hours": 2 + start + orderly}
    assert estimated([(8, HOUR)], ready, budget=enough).workers == 4
    assert estimated([(8, HOUR)], ready, budget={"max_hours": 2 + orderly}).workers == 8, "boot takes some of the time"
    assert estimated([(8, HOUR)], ready, budget={"max_hours": 2 + start}).workers == 8, (
        "trials are stopped before the end"
    )
    found = estimated([(8, HOUR)], ready, budget=enough)
    assert found.hours == pytest.approx(2 + start)
    assert found.gpu_hours == pytest.approx(8)
    assert found.on_demand_usd == pytest.approx(0.1 * (2 + start) + 4 * 1.0 * (2 + start / 2))
    assert found.spot_usd == pytest.approx(0.1 * (2 + start) + 4 * 0.4 * (2 + start / 2))


def test_one_gpu_is_called_enough_where_it_is() -> None:
    sweep = sweep_on_aws({"prices": PRICES})
    assert "one GPU is enough" in estimate_text(sweep, (10, 60))
    assert "one GPU is enough" not in estimate_text(sweep, (100, HOUR))


@pytest.mark.parametrize(
    ("jobs", "cluster", "sections", "message"),
    [
        ((100, HOUR), {"max_workers": 2}, {}, "cluster.max_workers is 2"),
        ((1, 99 * HOUR), {}, {}, "budget.max_hours is too short for any number of workers"),
        ((8, HOUR), {}, {"budget": {"max_hours": 12, "max_usd": 1}}, "above budget.max_usd 1"),
        ((8, HOUR), {}, {"budget": {"max_hours": 12, "max_usd": 8}}, "as spot, but above it if workers are on demand"),
        ((8, HOUR), {}, {"budget": {"max_hours": 12, "max_usd": 100}}, "within budget.max_usd 100"),
        ((8, HOUR), {"spot": False}, {"budget": {"max_hours": 12, "max_usd": 8}}, "above budget.max_usd 8"),
        ((0, 0.0), {}, {}, "nothing to run, no machine is needed"),
    ],
)
def test_a_plan_says_what_its_budget_means(
    jobs: tuple[int, float], cluster: dict[str, Any], sections: dict[str, Any], message: str
) -> None:
    assert message in estimate_text(
        sweep_on_aws({"worker": "g5.xlarge", "prices": PRICES, **cluster}, **sections), jobs
    )


def test_a_price_is_the_users_then_that_of_aws_then_the_dated_tables_then_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "has_credentials", lambda: True)
    monkeypatch.setattr(prices, "_spot", lambda cluster, names: {"g5.xlarge": 0.5})
    monkeypatch.setattr(prices, "_on_demand", lambda region, names: {"m6i.large": 0.2})
    cluster = sweep_on_aws({"prices": {"g5.xlarge": {"on_demand": 9}}, "worker": ["g5.xlarge", "g6.xlarge"]}).cluster
    assert isinstance(cluster, Aws)
    found = prices.quotes(cluster)
    assert (found["g5.xlarge"].on_demand, found["g5.xlarge"].on_demand_source) == (9, "cluster.prices")
    assert (found["g5.xlarge"].spot, found["g5.xlarge"].spot_source) == (0.5, "EC2's present spot prices")
    assert (found["m6i.large"].on_demand, found["m6i.large"].on_demand_source) == (0.2, "AWS's price list")
    assert found["g6.xlarge"].on_demand_source.startswith("the package's table of 20")
    elsewhere = cluster.model_copy(update={"region": "eu-west-1"})
    assert prices.quotes(elsewhere)["g6.xlarge"].on_demand_source == "unknown"


def test_an_unknown_price_is_called_unknown() -> None:
    sweep = sweep_on_aws({"region": "eu-west-1"}, budget={"max_hours": 12, "max_usd": 5})
    text = estimate_text(sweep, (8, HOUR))
    assert "unknown as spot, unknown on demand" in text
    assert "cannot be enforced, because a price is unknown" in text


class Answering:
    """Client of AWS that gives the same answer to every call."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def get_products(self, **_: Any) -> Any:
        return self.answer

    def get_paginator(self, _: str) -> Any:
        return type("Pages", (), {"paginate": lambda me, **_: [self.answer]})()


def price_list(unit: str, usd: str) -> dict[str, Any]:
    dimension = {"unit": unit, "pricePerUnit": {"USD": usd}}
    return {"PriceList": [json.dumps({"terms": {"OnDemand": {"x": {"priceDimensions": {"y": dimension}}}}})]}


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (price_list("Hrs", "1.006"), {"g5.xlarge": 1.006}),
        (price_list("Hrs", "0.0"), {}),
        (price_list("Quantity", "5"), {}),
        ({"PriceList": []}, {}),
        ({"PriceList": ["{"]}, {}),
        ({}, {}),
    ],
)
def test_the_price_list_is_read_as_aws_writes_it(
    answer: Any, found: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "client", lambda service, region: Answering(answer))
    assert prices._on_demand("us-east-1", ["g5.xlarge"]) == found


def test_spot_prices_are_the_median_over_the_zones_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    by_zone = {"us-east-1a": "0.4", "us-east-1b": "0.6", "us-east-1c": "9"}
    history = [{"InstanceType": "g5.xlarge", "AvailabilityZone": z, "SpotPrice": p} for z, p in by_zone.items()]
    monkeypatch.setattr(client, "client", lambda service, region: Answering({"SpotPriceHistory": history}))
    for zones, price in (("auto", 0.6), (["us-east-1a", "us-east-1b"], 0.5)):
        cluster = sweep_on_aws({"zones": zones}).cluster
        assert isinstance(cluster, Aws)
        assert prices._spot(cluster, ["g5.xlarge"]) == pytest.approx({"g5.xlarge": price})


@pytest.mark.parametrize(
    ("cluster", "trial", "message"),
    [
        ({"worker": ["g5.xlarge", "g5.12xlarge"]}, {}, "all types must have the same number of GPUs"),
        ({"worker": "p3.2xlarge"}, {}, "too old for this PyTorch"),
        ({"worker": "m6i.large"}, {"gpus": 1}, "m6i.large has no GPU"),
        ({"worker": "g5.xlarge"}, {"cpus": 5}, "a trial needs 5 cores; a machine offers 4 at most"),
        ({"worker": "g4dn.xlarge"}, {"precision": "tf32"}, "tf32 needs GPUs"),
    ],
)
def test_workers_on_which_trials_would_find_no_place_are_refused(
    cluster: dict[str, Any], trial: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        platform(sweep_on_aws(cluster, trial=trial))


@pytest.mark.parametrize(
    ("cluster", "trial", "slots", "device"),
    [
        ({"worker": "g5.xlarge", "max_workers": 3}, {}, 3, "NVIDIA A10G"),
        ({"worker": "g5.xlarge", "max_workers": 3}, {"gpus": 0.5}, 6, "NVIDIA A10G"),
        ({"worker": "g5.12xlarge", "max_workers": 2}, {"cpus": 24}, 4, "NVIDIA A10G"),
        ({"worker": ["g5.xlarge", "g6.xlarge"], "max_workers": 1}, {}, 1, "NVIDIA A10G or NVIDIA L4"),
        ({"worker": "m6i.2xlarge", "max_workers": 2}, {"cpus": 2}, 8, "cpu"),
        ({"worker": "g5.xlarge", "max_workers": 1}, {"gpus": 0}, 4, "cpu"),
    ],
)
def test_slots_and_device_of_a_cluster(cluster: dict[str, Any], trial: dict[str, Any], slots: int, device: str) -> None:
    found = platform(sweep_on_aws(cluster, trial=trial))
    assert (found.slots, found.device) == (slots, device)


def test_precision_is_the_workers_and_not_that_of_the_machine_that_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep.plan.platform.cpu_bf16_units", lambda: "amx_bf16")
    assert platform(sweep_on_aws({"worker": "m6i.large"})).numerics.precision == "float32"
    assert platform(sweep_on_aws({"worker": "g4dn.xlarge"})).numerics.precision == "float32"
    assert platform(sweep_on_aws({"worker": ["g5.xlarge", "g6.xlarge"]})).numerics.precision == "bf16"


def test_a_runtime_study_has_one_slot_on_one_worker_of_one_type() -> None:
    timed = {"name": "table-1", "studies": [{**STUDY, "kind": "runtime"}]}
    with pytest.raises(UserError, match=r"choose one, e\.g\. --set cluster\.worker=g5\.xlarge"):
        worker(sweep_on_aws(sweep=timed))
    assert platform(sweep_on_aws({"worker": "g5.12xlarge", "max_workers": 8}, sweep=timed)).slots == 1
    found = estimated([(6, 5 * HOUR)], {"max_workers": 8}, sweep=timed)
    assert (found.workers, found.slots) == (1, 1)
