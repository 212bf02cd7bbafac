"""`down` on EC2: it removes everything of this sweep, and nothing of others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, NoCredentialsError, ReadTimeoutError

from sweep.errors import UserError
from sweep.providers.aws import client, teardown
from sweep.providers.aws.ray_config import CLUSTER_TAG, TAG
from sweep.providers.local_files import cluster_name
from tests.support.aws_sweeps import account, sweep_on_aws

REGION = "us-east-1"
IMAGE = "ami-12c6146b"  # an image that moto has
OURS, THEIRS = cluster_name(sweep_on_aws()), cluster_name(sweep_on_aws(storage="s3://another-bucket/x"))


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(teardown, "POLL_SECONDS", 0.0)
    with account(monkeypatch):
        yield boto3.client("ec2", REGION)


def tags(kind: str, cluster: str, **more: str) -> list[dict[str, Any]]:
    pairs = {TAG: "table-1", CLUSTER_TAG: cluster, **more}
    return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in pairs.items()]}]


def make(ec2: Any, cluster: str, roles: tuple[str, ...] = ("head", "worker", "worker")) -> list[str]:
    """Make machines in their own security group, with a key pair and a detached disk.  Returns the machines' ids."""
    ec2.create_key_pair(KeyName=cluster, TagSpecifications=tags("key-pair", cluster))
    group = ec2.create_security_group(
        GroupName=cluster, Description="x", TagSpecifications=tags("security-group", cluster)
    )["GroupId"]
    ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=100, TagSpecifications=tags("volume", cluster))
    made = []
    for role in roles:
        spot = {"InstanceMarketOptions": {"MarketType": "spot"}} if role == "worker" else {}
        (machine,) = ec2.run_instances(
            ImageId=IMAGE, MinCount=1, MaxCount=1, InstanceType="g5.xlarge", KeyName=cluster, SecurityGroupIds=[group],
            TagSpecifications=tags("instance", cluster, **{teardown.RAY_ROLE_TAG: role}), **spot,
        )["Instances"]  # fmt: skip
        made.append(machine["InstanceId"])
    return made


def running(ec2: Any) -> set[str]:
    pages = ec2.describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}])
    return {i["InstanceId"] for r in pages["Reservations"] for i in r["Instances"]}


def test_nothing_of_ours_is_left_and_everything_of_others_stays(ec2: Any) -> None:
    ours, theirs = make(ec2, OURS), make(ec2, THEIRS, ("head",))
    found = teardown.list_resources(REGION, OURS)
    kinds = ["machine", "machine", "machine", "disk", "key pair", "security group"]
    assert [thing.kind for thing in found] == kinds
    assert (found[0].name, found[0].role) == (ours[0], "head")
    assert "worker, g5.xlarge spot in us-east-1" in found[1].details

    removed = teardown.remove_all(REGION, OURS, lambda text: None)
    assert {line.split(":")[0].rpartition(" ")[2] for line in removed} == {thing.name for thing in found}
    assert teardown.list_resources(REGION, OURS) == []
    assert running(ec2) == set(theirs)
    assert len(teardown.list_resources(REGION, THEIRS)) == 4
    assert teardown.remove_all(REGION, OURS, lambda text: None) == [], "a second call finds nothing"


def test_the_role_of_a_machine_is_what_ray_has_put_on_it() -> None:
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND

    assert teardown.RAY_ROLE_TAG == TAG_RAY_NODE_KIND


def test_a_machine_that_somebody_stopped_goes_too(ec2: Any) -> None:
    (machine,) = make(ec2, OURS, ("head",))
    ec2.stop_instances(InstanceIds=[machine])
    teardown.remove_all(REGION, OURS, lambda text: None)
    assert teardown.list_resources(REGION, OURS) == []


@dataclass
class Slow:
    """EC2 with machines that end slowly, and security groups that are in use a little longer."""

    ec2: Any
    looks: int = 3
    refusals: int = 2
    asked: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ec2, name)

    def get_paginator(self, name: str) -> Any:
        if name == "describe_instances" and self.asked:
            self.looks -= 1
            if self.looks > 0:
                machine = {"InstanceId": self.asked[0], "InstanceType": "m6i.large", "State": {"Name": "shutting-down"}}
                answer = [{"Reservations": [{"Instances": [machine]}]}]
                return type("Pages", (), {"paginate": lambda self, **_: answer})()
        return self.ec2.get_paginator(name)

    def terminate_instances(self, InstanceIds: list[str]) -> Any:  # noqa: N803
        self.asked += InstanceIds
        return self.ec2.terminate_instances(InstanceIds=InstanceIds)

    def delete_security_group(self, **group: str) -> Any:
        self.refusals -= 1
        if self.refusals >= 0:
            raise ClientError({"Error": {"Code": "DependencyViolation", "Message": "in use"}}, "DeleteSecurityGroup")
        return self.ec2.delete_security_group(**group)


def test_machines_are_waited_for_and_each_is_ended_once(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine,) = make(ec2, OURS, ("head",))
    slow, lines = Slow(ec2), list[str]()
    monkeypatch.setattr(client, "client", lambda service, region: slow)
    removed = teardown.remove_all(REGION, OURS, lines.append)
    assert slow.asked == [machine]
    assert lines == ["waiting for 1 machine to end"]
    assert len(removed) == 4
    assert teardown.list_resources(REGION, OURS) == []


def test_machines_that_were_asked_for_are_waited_for_where_only_their_key_is_seen(
    ec2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ec2.create_key_pair(KeyName=OURS, TagSpecifications=tags("key-pair", OURS))
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        ec2.delete_key_pair(KeyName=OURS)
        make(ec2, OURS, ("head",))

    monkeypatch.setattr("sweep.providers.aws.teardown.time.sleep", pause)
    teardown.settle(REGION, OURS)
    assert len(pauses) == 1
    assert "machine" in [thing.kind for thing in teardown.list_resources(REGION, OURS)]


def test_what_does_not_go_is_named_with_the_fix(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    make(ec2, OURS, ("head",))
    monkeypatch.setattr(client, "client", lambda service, region: Slow(ec2, refusals=10**6))
    monkeypatch.setattr(teardown, "PATIENCE_SECONDS", 0.2)
    with pytest.raises(UserError, match=r"not removed after .*security group sg-.*run `down` again"):
        teardown.remove_all(REGION, OURS, lambda text: None)
    monkeypatch.undo()


def test_expired_credentials_are_a_problem_and_not_a_traceback(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def expired(service: str, region: str) -> Any:
        raise ClientError({"Error": {"Code": "RequestExpired", "Message": "Request has expired."}}, "DescribeInstances")

    monkeypatch.setattr(client, "client", expired)
    with pytest.raises(UserError, match="RequestExpired"):
        teardown.list_resources(REGION, OURS)


def answer(code: str, status: int = 400) -> ClientError:
    response = {"Error": {"Code": code, "Message": "so it is"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "DescribeInstances")


PASSING = [
    answer("RequestLimitExceeded", 503), answer("Throttling"), answer("InternalError", 500),
    ConnectTimeoutError(endpoint_url="https://ec2"), ReadTimeoutError(endpoint_url="https://ec2"),
]  # fmt: skip
LASTING = [answer("UnauthorizedOperation", 403), answer("RequestExpired"), NoCredentialsError()]


@dataclass
class Failing:
    """EC2 with first calls that fail."""

    ec2: Any
    errors: list[Exception]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ec2, name)

    def get_paginator(self, name: str) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return self.ec2.get_paginator(name)


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_what_may_pass_ends_no_removal(ec2: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    make(ec2, OURS)
    lines = list[str]()
    with monkeypatch.context() as patch:
        failing = Failing(ec2, [error, error])
        patch.setattr(client, "client", lambda service, region: failing)
        removed = teardown.remove_all(REGION, OURS, lines.append)
    assert len(removed) == 6
    assert "trying again" in lines[0]
    assert teardown.list_resources(REGION, OURS) == []


@pytest.mark.parametrize("error", LASTING, ids=str)
def test_what_lasts_ends_it_at_once(ec2: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    failing = Failing(ec2, [error, error])
    monkeypatch.setattr(client, "client", lambda service, region: failing)
    with pytest.raises(UserError, match=r"cannot .*; once that is fixed the same command goes on"):
        teardown.remove_all(REGION, OURS, lambda text: None)
    assert failing.errors == [error], "EC2 is not asked again"


def test_what_does_not_pass_is_not_waited_for_without_end(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "client", lambda service, region: Failing(ec2, [PASSING[0]] * 10**6))
    monkeypatch.setattr(teardown, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(UserError, match=r"RequestLimitExceeded so it is; later the same command goes on"):
        teardown.remove_all(REGION, OURS, lambda text: None)


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_a_head_ends_the_workers_also_after_a_call_that_failed(
    ec2: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    head, *_ = make(ec2, OURS)
    left: list[set[str]] = []
    failing = Failing(ec2, [error])
    monkeypatch.setattr(client, "client", lambda service, region: failing)
    monkeypatch.setattr(teardown, "_end_this_machine", lambda region, cluster: left.append(running(ec2)))
    teardown.main([REGION, OURS, "--from-head"])
    assert left == [{head}]


def test_a_head_ends_the_workers_and_then_itself(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    head, *_ = make(ec2, OURS)
    foreign = make(ec2, THEIRS)
    left: list[set[str]] = []
    monkeypatch.setattr(teardown, "_end_this_machine", lambda region, cluster: left.append(running(ec2)))
    teardown.main([REGION, OURS, "--from-head"])
    assert left == [{head, *foreign}], "the workers are gone when the head powers itself off"


def test_a_head_goes_even_when_ec2_refuses_it_everything(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    def refused(service: str, region: str) -> Any:
        raise ClientError({"Error": {"Code": "UnauthorizedOperation", "Message": "no"}}, "DescribeInstances")

    monkeypatch.setattr(client, "client", refused)
    monkeypatch.setattr(teardown, "_end_this_machine", lambda region, cluster: ended.append(cluster))
    teardown.main([REGION, OURS, "--from-head"])
    assert ended == [OURS]
