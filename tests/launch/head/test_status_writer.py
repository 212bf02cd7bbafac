"""head.json: machines and dollars in it, who may write it, and when a budget is used up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sweep.engine.progress import Progress
from sweep.launch.head.status_writer import STRANDED_SECONDS, Bill, Refused, StatusWriter
from sweep.plan.platform import Platform
from sweep.plan.status import SweepStatus
from sweep.providers.aws import client
from sweep.providers.aws.billing import list_machines
from sweep.providers.aws.provider import AwsProvider
from sweep.providers.aws.ray_config import TAG
from sweep.providers.local_files import cluster_name
from sweep.spec.sweep import Sweep
from sweep.spec.trial import Numerics
from sweep.store import launch_status, open_store
from sweep.store.base import Store
from sweep.store.launch_status import LaunchStatus, Node, dollars, merge_nodes
from sweep.store.lease import Lease
from tests.support.aws_sweeps import account, sweep_on_aws
from tests.support.sweeps import wait_until

HOUR = 3600.0
PLATFORM = Platform(device="NVIDIA L4", numerics=Numerics(), slots=16, cpus=2, gpus=0.5)
PRICES = {"m6i.large": {"on_demand": 0.1, "spot": 0.04}, "g5.xlarge": {"on_demand": 1.0, "spot": 0.4}}
TIMES = st.floats(0, 1e6)
NODES = st.builds(
    Node,
    name=st.sampled_from("abcdef"),
    since=TIMES,
    alive=st.booleans(),
    usd_per_hour=st.floats(0, 10),
)
LISTS = st.lists(NODES, unique_by=lambda node: node.name)


@given(st.lists(LISTS, max_size=5))
def test_a_machine_that_was_seen_stays_and_its_dollars_never_grow_smaller(seen: list[list[Node]]) -> None:
    known: tuple[Node, ...] = ()
    spent, names = 0.0, set()
    for hour, nodes in enumerate(seen):
        now = 2e6 + hour * HOUR
        priced = [replace(node, usd_per_hour=ord(node.name) - 96.0) for node in nodes]
        known = merge_nodes(known, priced, now)
        names |= {node.name for node in nodes}
        assert {node.name for node in known} == names
        assert {node.name for node in known if node.alive} == {node.name for node in nodes if node.alive}
        assert all((node.until is None) == node.alive for node in known)
        found = dollars(known, 0.0, now)
        assert found is not None
        if not any(node.alive for node in known):  # a machine that comes back is charged for the time in between
            assert found >= spent - 1e-6 * spent
        spent = found


def test_dollars_are_counted_from_the_launch_to_the_end_of_each_machine() -> None:
    head = Node("head", since=0.0, usd_per_hour=0.1)
    gone = Node("gone", since=2 * HOUR, alive=False, until=3 * HOUR, usd_per_hour=1.0)
    before = Node("before", since=0.0, alive=False, until=HOUR / 2, usd_per_hour=100.0)
    assert dollars([head, gone, before], started=HOUR, now=5 * HOUR) == pytest.approx(4 * 0.1 + 1.0)
    assert dollars([head, Node("unpriced")], started=HOUR, now=5 * HOUR) is None
    assert dollars([], started=HOUR, now=5 * HOUR) == 0.0


def test_machines_of_an_earlier_launch_that_are_gone_cost_this_one_nothing(folder_url: str) -> None:
    store, sweep, now = open_store(folder_url), sweep_on_aws(), time.time()
    each = Node("dated", since=now - 3 * HOUR, alive=False, until=now - 2 * HOUR, usd_per_hour=10.0)
    listed = [
        each,
        replace(each, name="undated", until=None),
        replace(each, name="taken over", until=now - HOUR / 2),
        Node("head", since=now - HOUR, usd_per_hour=0.1),
    ]
    with status_writer_of(store, sweep, lambda: listed, started=now - HOUR) as writer:
        writer.end(0)
    head = launch_status.read(store, sweep.name)
    assert head is not None
    assert head.usd == pytest.approx(0.1 + 5.0, abs=0.05)
    assert {node.name for node in head.nodes} == {"taken over", "head"}


def test_a_machine_that_came_and_went_between_two_looks_is_charged_until_it_ended() -> None:
    gone = Node("i-1", since=HOUR, alive=False, until=2 * HOUR, usd_per_hour=1.0)
    for until, usd in ((2 * HOUR, 1.0), (None, 4.0)):
        assert dollars(merge_nodes((), [replace(gone, until=until)], 5 * HOUR, HOUR), HOUR, 9 * HOUR) == usd


def test_a_record_is_read_as_it_was_written_and_by_older_and_newer_versions(folder_url: str) -> None:
    store = open_store(folder_url)
    head = LaunchStatus(3, "running", trials=5, nodes=(Node("i-1", "g5.xlarge", "spot", "us-east-1a", 1.0),), usd=0.25)
    launch_status.write(store, "s", head)
    found = launch_status.read(store, "s")
    assert found is not None
    assert replace(found, time=0.0) == head
    assert (
        LaunchStatus.from_json({**head.to_json(), "invented": 1, "nodes": [{"name": "i-2", "invented": 1}]}).launch == 3
    )
    assert launch_status.read(store, "another") is None


@pytest.mark.parametrize("damaged", ["", "[]", "{}", '{"launch": 1}', '{"launch": 1, "state": "asleep"}'])
def test_what_is_no_record_is_none(folder_url: str, damaged: str) -> None:
    store = open_store(folder_url)
    store.put("sweeps/s/head.json", damaged.encode())
    assert launch_status.read(store, "s") is None


@contextmanager
def status_writer_of(
    store: Store,
    sweep: Sweep,
    machines: Bill | None = None,
    out: StringIO | None = None,
    refused: Refused | None = None,
    clock: Callable[[], float] = time.monotonic,
    **record: Any,
) -> Iterator[StatusWriter]:
    lease = Lease(store, f"sweeps/{sweep.name}/lease", "a test")
    found, console = {"time": time.time(), **record}, Console(file=out or StringIO(), width=200)
    with (
        lease.hold(),
        StatusWriter(
            store, sweep, PLATFORM, lease, 1, found, machines, console, refused, clock, AwsProvider.capacity_advice
        ) as writer,
    ):
        yield writer


def test_dollars_end_a_launch_and_its_dead_machines_still_count_for_the_next_driver(folder_url: str) -> None:
    store, sweep = open_store(folder_url), sweep_on_aws(budget={"max_hours": 12, "max_usd": 3})
    listed = [Node("i-1", since=0.0, usd_per_hour=1.0)]
    launched = time.time() - 2 * HOUR
    with status_writer_of(store, sweep, lambda: listed, started=launched) as writer:
        wait_until(lambda: (launch_status.read(store, sweep.name) or LaunchStatus(0, "starting")).usd)
        assert writer.exhausted_budget() is None
    listed = [Node("i-2", since=0.0, usd_per_hour=1.0)]
    with status_writer_of(store, sweep, lambda: listed, started=launched) as writer:
        wait_until(lambda: writer.exhausted_budget() == "budget.max_usd=3")
        writer.end(3)
    head = launch_status.read(store, sweep.name)
    assert head is not None
    assert (head.state, head.exit_code, head.restarts) == ("ended", 3, 1)
    assert head.usd == pytest.approx(4.0, abs=0.1)
    assert {node.name: node.alive for node in head.nodes} == {"i-1": False, "i-2": True}


def test_while_a_place_does_not_answer_its_machines_go_on_costing(folder_url: str) -> None:
    store, sweep = open_store(folder_url), sweep_on_aws()
    before = LaunchStatus(1, "running", nodes=(Node("i-1", since=0.0, usd_per_hour=2.0),))
    launch_status.write(store, sweep.name, before)
    with status_writer_of(store, sweep, lambda: None, started=time.time() - HOUR) as writer:
        writer.end(0)
    head = launch_status.read(store, sweep.name)
    assert head is not None
    assert head.usd == pytest.approx(2.0, abs=0.1)


def test_an_unknown_price_is_said_and_ends_nothing(folder_url: str) -> None:
    store, sweep, out = open_store(folder_url), sweep_on_aws(budget={"max_hours": 12, "max_usd": 3}), StringIO()
    with status_writer_of(store, sweep, lambda: [Node("i-1", "x9.huge")], out, started=0.0) as writer:
        wait_until(lambda: "the price of x9.huge is unknown" in out.getvalue())
        writer.end(0)
    head = launch_status.read(store, sweep.name)
    assert head is not None
    assert head.usd is None


@pytest.mark.parametrize(
    ("record", "budget"),
    [
        ({"deadline": 1.0}, "budget.max_hours=12"),
        ({"deadline": None}, None),
        ({"started": 1.0}, "budget.max_hours=12"),
        ({}, None),
    ],
)
def test_the_time_limit_is_the_launchs_own_else_the_budgets(
    folder_url: str, record: dict[str, Any], budget: str | None
) -> None:
    with status_writer_of(open_store(folder_url), sweep_on_aws(), **record) as writer:
        assert writer.exhausted_budget() == budget


def test_slots_are_those_of_the_machines_that_are_there(folder_url: str) -> None:
    store, sweep = open_store(folder_url), sweep_on_aws()
    progress = Progress(SweepStatus((), (), frozenset(), {}), 16, Console(quiet=True), str, bool)

    def slots_with(*nodes: dict[str, Any]) -> Callable[[], int]:
        found = [{"name": f"n{number}", "alive": True, **node} for number, node in enumerate(nodes)]
        writer.hear({"event": "nodes", "nodes": found}, progress)
        return lambda: (launch_status.read(store, sweep.name) or LaunchStatus(0, "starting")).slots

    with status_writer_of(store, sweep) as writer:
        gpu = {"cpus": 4, "gpus": 1}
        for nodes, slots in (
            ([gpu], 2),
            ([gpu, {"cpus": 3, "gpus": 4}], 3),
            ([gpu, {"cpus": 0, "gpus": 0, "alive": False}], 2),
            ([gpu] * 100, 16),  # at most as many as the launch uses
        ):
            slots_now = slots_with(*nodes)
            wait_until(lambda slots_now=slots_now, slots=slots: slots_now() == slots)
        writer.end(0)
        assert slots_now() == 0


class Waiting(Progress):
    """Progress with a given number of trials that wait."""

    def __init__(self, to_run: int) -> None:
        super().__init__(SweepStatus((), (), frozenset(), {}), 16, Console(quiet=True), str, bool)
        self.to_run = to_run

    def counts(self) -> dict[str, int]:
        return {**super().counts(), "to_run": self.to_run}


@dataclass
class Waited:
    """Events for a status writer, with a clock that the test moves.

    Attributes:
        now: reading of the clock.
        answer: the provider's answer to a request for a machine.
    """

    now: float = 0.0
    answer: str | None = "VcpuLimitExceeded: you may have 0"

    def hear(self, writer: StatusWriter, *, after: float = 0.0, workers: int = 0, to_run: int = 2) -> str | None:
        self.now += after
        nodes = [{"name": f"n{number}", "alive": True, "cpus": 4, "gpus": 1} for number in range(workers)]
        writer.hear({"event": "nodes", "nodes": nodes}, Waiting(to_run))
        return writer.why_stranded()


def test_trials_that_waited_half_an_hour_for_a_worker_end_the_launch_with_the_places_answer(folder_url: str) -> None:
    waited = Waited(now=5_000.0)  # the time in which data were put does not count
    with status_writer_of(
        open_store(folder_url), sweep_on_aws(), refused=lambda: waited.answer, clock=lambda: waited.now
    ) as writer:
        assert writer.why_stranded() is None, "the plan is not known yet"
        assert waited.hear(writer) is None
        assert waited.hear(writer, after=STRANDED_SECONDS - 1) is None
        reason = waited.hear(writer, after=1)
        assert reason is not None and "VcpuLimitExceeded: you may have 0" in reason
        assert "`check` shows which quota" in reason
        assert waited.hear(writer, workers=1) == reason, "the launch is being stopped already"


@pytest.mark.parametrize("meanwhile", [{"workers": 1}, {"to_run": 0}])
def test_the_wait_counts_from_the_last_worker_and_while_trials_wait(folder_url: str, meanwhile: dict[str, int]) -> None:
    waited = Waited(answer=None)
    with status_writer_of(
        open_store(folder_url), sweep_on_aws(), refused=lambda: waited.answer, clock=lambda: waited.now
    ) as writer:
        assert waited.hear(writer) is None
        assert waited.hear(writer, after=STRANDED_SECONDS - 1, **meanwhile) is None
        assert waited.hear(writer, after=STRANDED_SECONDS) is None
        assert waited.hear(writer, after=STRANDED_SECONDS - 1) is None
        assert "cannot be set up" in (waited.hear(writer, after=1) or "")


def test_where_no_place_is_asked_for_machines_trials_wait_for_as_long_as_it_takes(folder_url: str) -> None:
    waited = Waited()
    with status_writer_of(open_store(folder_url), sweep_on_aws(), clock=lambda: waited.now) as writer:
        assert waited.hear(writer) is None
        assert waited.hear(writer, after=100 * STRANDED_SECONDS) is None


def test_the_places_refusal_is_in_the_record(folder_url: str) -> None:
    store, sweep = open_store(folder_url), sweep_on_aws()
    with status_writer_of(store, sweep, refused=lambda: "VcpuLimitExceeded: no"):
        wait_until(
            lambda: (
                (launch_status.read(store, sweep.name) or LaunchStatus(0, "starting")).refused
                == "VcpuLimitExceeded: no"
            )
        )


def test_whoever_has_lost_the_lease_writes_nothing(folder_url: str) -> None:
    store, sweep = open_store(folder_url), sweep_on_aws()
    with status_writer_of(store, sweep) as writer:
        wait_until(lambda: launch_status.read(store, sweep.name) is not None)
        holder = json.loads(store.get(f"sweeps/{sweep.name}/lease"))
        store.put(f"sweeps/{sweep.name}/lease", json.dumps({**holder, "owner": "another", "epoch": 9}).encode())
        store.delete(f"sweeps/{sweep.name}/head.json")
        assert not writer.lease.renew()
        writer.end(0)
    assert launch_status.read(store, sweep.name) is None


def test_the_bill_lists_this_sweeps_machines_with_their_prices(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_on_aws({"worker": "g5.xlarge", "prices": PRICES})
    tags = {TAG: sweep.name, "ray-cluster-name": cluster_name(sweep)}
    with account(monkeypatch):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        ec2 = client.client("ec2", "us-east-1")
        image = ec2.describe_images()["Images"][0]["ImageId"]

        def run(kind: str, tags: dict[str, str], **more: Any) -> str:
            pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
            marked = [{"ResourceType": "instance", "Tags": pairs}]
            made = ec2.run_instances(
                ImageId=image, InstanceType=kind, MinCount=1, MaxCount=1, TagSpecifications=marked, **more
            )
            name: str = made["Instances"][0]["InstanceId"]
            return name

        head = run("m6i.large", tags)
        spot = run("g5.xlarge", tags, InstanceMarketOptions={"MarketType": "spot"})
        gone = run("g5.xlarge", tags)
        unpriced = run("p3.2xlarge", tags)
        run("g5.xlarge", {**tags, TAG: "another"})
        ec2.terminate_instances(InstanceIds=[gone])
        listed = list_machines(sweep, {})
    assert listed is not None
    found = {node.name: node for node in listed}
    assert found.keys() == {head, spot, gone, unpriced}
    assert (found[head].market, found[head].usd_per_hour, found[head].alive) == ("on demand", 0.1, True)
    assert (found[spot].market, found[spot].usd_per_hour) == ("spot", 0.4)
    assert (found[gone].usd_per_hour, found[gone].alive) == (1.0, False)
    assert abs((found[gone].until or 0.0) - time.time()) < 600, "the time that EC2 reports"
    assert found[spot].until is None
    assert found[unpriced].usd_per_hour is None
    assert found[head].zone.startswith("us-east-1")
    assert abs(found[head].since - time.time()) < 600


def test_the_bill_is_none_when_ec2_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_on_aws({"worker": "g5.xlarge", "prices": PRICES})
    with account(monkeypatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        assert list_machines(sweep, {}) is None
