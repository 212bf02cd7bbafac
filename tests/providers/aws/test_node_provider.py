"""Ray's node provider for EC2: the network that may connect, and further requests after a refusal."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweep.providers import ray_config as ray_yaml
from sweep.providers.aws import capacity
from sweep.providers.aws.iam import make, roles
from sweep.spec.cluster import Aws
from tests.support.aws_sweeps import account, generated, node_configs, sweep_on_aws


@pytest.fixture(autouse=True)
def nothing_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the file of refusals in a temporary folder, because this machine may be a head."""
    monkeypatch.setattr(capacity, "FILE", tmp_path / "refused")


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Yield the configuration after Ray's bootstrap, in an account with one default network and the two profiles."""
    import boto3
    from ray.autoscaler._private.aws.utils import client_cache, resource_cache

    from sweep.providers.aws.node_provider import SpotFirst

    with pytest.MonkeyPatch.context() as monkeypatch, account(monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray writes the key there
        resource_cache.cache_clear()  # Ray caches clients, which may belong to moto's account of another test
        client_cache.cache_clear()
        sweep = sweep_on_aws()
        assert isinstance(sweep.cluster, Aws)
        iam = boto3.client("iam", "us-east-1")
        for role in roles(sweep.cluster, sweep.storage, "123456789012"):
            make(iam, role, lambda seconds: None)
        image = boto3.client("ec2", "us-east-1").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        config = generated()
        for node in node_configs(config):
            node["ImageId"] = image
        yield SpotFirst.bootstrap_config(ray_yaml.validate(config))
        resource_cache.cache_clear()
        client_cache.cache_clear()


def test_ssh_is_let_in_from_one_network_and_follows_it_at_the_next_launch(launcher: dict[str, Any]) -> None:
    import boto3

    from sweep.providers.aws.node_provider import SpotFirst

    def rules() -> list[dict[str, Any]]:
        (group,) = {node["SecurityGroupIds"][0] for node in node_configs(launcher)}
        found: list[dict[str, Any]] = boto3.resource("ec2", "us-east-1").SecurityGroup(group).ip_permissions
        return found

    def ssh() -> list[str]:
        return [r["CidrIp"] for rule in rules() for r in rule.get("IpRanges", [])]

    assert ssh() == ["203.0.113.7/32"]
    assert [rule["IpProtocol"] for rule in rules() if not rule.get("IpRanges")] == ["-1"]
    assert all(pair["GroupId"] for rule in rules() for pair in rule.get("UserIdGroupPairs", []))
    again = copy.deepcopy(launcher)
    for node in node_configs(again):
        del node["SecurityGroupIds"]
    again["provider"]["ssh_from"] = "198.51.100.0/24"
    SpotFirst.bootstrap_config(again)
    assert ssh() == ["198.51.100.0/24"]


class Capacity:
    """EC2's RunInstances with refusals.

    Args:
        provider: node provider whose requests are answered.
        refused: pairs (instance type, market) without capacity.
        code: error code of a refusal.
        requests: number of first requests that may be refused.
    """

    def __init__(
        self,
        provider: Any,
        refused: set[tuple[str, str]],
        code: str = "InsufficientInstanceCapacity",
        requests: float = math.inf,
    ) -> None:
        self.asked: list[tuple[str, str, str]] = []
        make = provider.ec2_fail_fast.create_instances

        def create_instances(**request: Any) -> Any:
            from botocore.exceptions import ClientError

            market = "spot" if "InstanceMarketOptions" in request else "on demand"
            self.asked.append((request["InstanceType"], market, request["SubnetId"]))
            if (request["InstanceType"], market) in refused and len(self.asked) <= requests:
                raise ClientError({"Error": {"Code": code, "Message": "no"}}, "RunInstances")
            return make(**request)

        provider.ec2_fail_fast = type("Ec2", (), {"create_instances": staticmethod(create_instances)})


SPOT = {("g5.xlarge", "spot"), ("g6.xlarge", "spot")}


@pytest.mark.parametrize(
    ("refused", "made"),
    [
        (set(), ("g5.xlarge", "spot")),
        ({("g5.xlarge", "spot")}, ("g6.xlarge", "spot")),
        (SPOT, ("g5.xlarge", "on demand")),
        (SPOT | {("g5.xlarge", "on demand")}, ("g6.xlarge", "on demand")),
    ],
)
def test_a_worker_is_any_type_as_spot_in_any_zone_and_then_on_demand(
    launcher: dict[str, Any], refused: set[tuple[str, str]], made: tuple[str, str]
) -> None:
    import boto3

    provider, node = provider_and_node(launcher, "worker")
    capacity = Capacity(provider, refused)
    (name,) = provider.create_node(node, {"ray-node-type": "worker"}, 1)
    assert capacity.asked[-1][:2] == made
    for wanted in refused:
        assert {zone for *asked, zone in capacity.asked if tuple(asked) == wanted} == set(node["SubnetIds"])
    (reservation,) = boto3.client("ec2", "us-east-1").describe_instances(InstanceIds=[name])["Reservations"]
    (machine,) = reservation["Instances"]
    assert (machine["InstanceType"], machine.get("InstanceLifecycle", "on demand")) == made
    assert {"Key": "anomaly-sweep", "Value": "table-1"} in machine["Tags"]


def test_no_capacity_anywhere_and_a_missing_right_are_said_as_they_are(launcher: dict[str, Any]) -> None:
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    everything = {(name, market) for name in ("g5.xlarge", "g6.xlarge") for market in ("spot", "on demand")}
    for code, tried in (("InsufficientInstanceCapacity", 4), ("UnauthorizedOperation", 1)):
        provider, node = provider_and_node(launcher, "worker")
        capacity = Capacity(provider, everything, code)
        with pytest.raises(NodeLaunchException) as caught:
            provider.create_node(node, {"ray-node-type": "worker"}, 1)
        assert caught.value.category == code
        assert len({asked[:2] for asked in capacity.asked}) == tried


@pytest.mark.parametrize("kind", ["head", "worker"])
def test_while_ec2_is_too_busy_the_same_is_asked_for_again_a_few_times(
    launcher: dict[str, Any], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from ray.autoscaler._private.constants import BOTO_CREATE_MAX_RETRIES
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    from sweep.providers.aws import node_provider

    monkeypatch.setattr(node_provider, "PAUSES", (0.0, 0.0, 0.0))
    first = {"head": ("m6i.large", "on demand"), "worker": ("g5.xlarge", "spot")}[kind]
    provider, node = provider_and_node(launcher, kind)
    once = max(BOTO_CREATE_MAX_RETRIES, len(node["SubnetIds"]))  # number of requests that Ray makes for one machine
    capacity = Capacity(provider, {first}, "RequestLimitExceeded", requests=3 * once)
    assert len(provider.create_node(node, {"ray-node-type": kind}, 1)) == 1
    assert {asked[:2] for asked in capacity.asked} == {first}
    provider, node = provider_and_node(launcher, kind)
    capacity = Capacity(provider, {first}, "RequestLimitExceeded")
    with pytest.raises(NodeLaunchException, match="RequestLimitExceeded"):
        provider.create_node(node, {"ray-node-type": kind}, 1)
    assert len(capacity.asked) == 4 * once


def test_the_last_refusal_of_a_worker_is_left_for_the_driver_until_one_is_given(
    launcher: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    def ask(kind: str, code: str | None) -> str | None:
        provider, node = provider_and_node(launcher, kind)
        names = {node["InstanceType"], "g5.xlarge", "g6.xlarge"}
        everything = {(name, market) for name in names for market in ("spot", "on demand")}
        Capacity(provider, everything if code else set(), code or "")
        try:
            provider.create_node(node, {"ray-node-type": kind}, 1)
        except NodeLaunchException as refused:
            assert refused.category == code
        return capacity.read_refusal()

    assert ask("head", "InsufficientInstanceCapacity") is None, (
        "the head is requested by the launch, which reports the refusal itself"
    )
    assert ask("worker", "VcpuLimitExceeded") == "VcpuLimitExceeded: no"
    assert ask("worker", "UnauthorizedOperation") == "UnauthorizedOperation: no"
    assert ask("worker", None) is None
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(capacity, "FILE", tmp_path / "nowhere/refused")
    assert ask("worker", "VcpuLimitExceeded") is None, "without a file the refusal still reaches Ray"


def test_what_is_left_of_a_refusal_can_be_read_by_a_person() -> None:
    capacity.write_refusal("UnauthorizedOperation: You may not.\nEncoded authorization failure message: " + "x" * 1000)
    assert capacity.read_refusal() == "UnauthorizedOperation: You may not."
    capacity.write_refusal("Code: " + "long " * 1000)
    assert len(capacity.read_refusal() or "") <= capacity.LONGEST


def test_the_head_is_on_demand_and_of_its_own_type_alone(launcher: dict[str, Any]) -> None:
    provider, node = provider_and_node(launcher, "head")
    capacity = Capacity(provider, set())
    provider.create_node(node, {"ray-node-type": "head"}, 1)
    assert {asked[:2] for asked in capacity.asked} == {("m6i.large", "on demand")}


def test_the_head_is_of_its_own_type_also_where_workers_may_be_of_it(launcher: dict[str, Any]) -> None:
    provider, node = provider_and_node(launcher, "head")
    provider.provider_config["worker_types"] = ["m6i.4xlarge", "m6i.large"]
    capacity = Capacity(provider, set())
    provider.create_node(node, {"ray-node-type": "head"}, 1)
    assert {asked[:2] for asked in capacity.asked} == {("m6i.large", "on demand")}


def provider_and_node(launcher: dict[str, Any], kind: str) -> tuple[Any, dict[str, Any]]:
    from sweep.providers.aws.node_provider import SpotFirst

    provider = SpotFirst(launcher["provider"], launcher["cluster_name"])  # type: ignore[no-untyped-call]
    return provider, launcher["available_node_types"][kind]["node_config"]
