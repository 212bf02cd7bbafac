"""`check` for an AWS account: missing things are reported with their fix, and --fix makes them if that is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from sweep.errors import UserError
from sweep.launch.check import check
from sweep.providers.aws import checks, client, defaults
from sweep.providers.aws import iam as access
from sweep.providers.finding import Finding
from sweep.spec.cluster import Aws
from sweep.spec.sweep import Sweep
from tests.support.aws_sweeps import BUCKET, account, sweep_on_aws

ACCOUNT = "123456789012"


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """Yield an image in an empty account, which all tests of this file share."""
    with pytest.MonkeyPatch.context() as monkeypatch, account(monkeypatch):
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        monkeypatch.setattr(access, "POLL_SECONDS", 0.0)
        yield boto3.client("ec2", "us-east-1").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]


def ready(image: str, **cluster: Any) -> Sweep:
    return sweep_on_aws({"image": image, "ssh_from": "203.0.113.7", **cluster})


def states(findings: tuple[Finding, ...]) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


def test_what_is_missing_is_made_by_fix_and_then_all_is_ok(image: str) -> None:
    sweep = ready(image)
    before = check(sweep)
    assert not before.passed
    fixes = {f.name: f.fix for f in before.findings if f.state == "not ok"}
    assert set(fixes) == {"bucket", "head profile", "worker profile", "spot role"}
    assert all("--fix" in fix for fix in fixes.values())
    assert boto3.client("s3", "us-east-1").list_buckets()["Buckets"] == [], "without --fix nothing is made"

    fixed = check(sweep, fix=True)
    assert fixed.passed, [f for f in fixed.findings if f.state == "not ok"]
    again = check(sweep)
    assert {name for name, state in states(again.findings).items() if state == "unknown"} == {
        "quota g5 spot", "quota g5 on demand", "quota g6 spot", "quota g6 on demand", "quota head",
    }, "moto has no quotas of EC2"  # fmt: skip
    blocked = boto3.client("s3").get_public_access_block(Bucket=BUCKET)["PublicAccessBlockConfiguration"]
    assert blocked and all(blocked.values())
    assert boto3.client("s3").list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0, "the probe is deleted"
    assert boto3.client("ec2", "us-east-1").describe_instances()["Reservations"] == [], "nothing is started"
    assert any("ray start --head" in command for command in again.commands["head"])


def test_a_bucket_that_is_public_or_elsewhere_is_not_ok(image: str) -> None:
    s3 = boto3.client("s3", "eu-west-1")
    s3.create_bucket(Bucket="in-europe", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    assert "cluster.region=eu-west-1" in bucket_finding(image, "s3://in-europe/x").fix
    s3.create_bucket(Bucket="open", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    found = bucket_finding(image, "s3://open/x", region="eu-west-1")
    assert (found.state, found.found) == ("not ok", "open does not block public access")
    assert "edit the YAML" in bucket_finding(image, "s3://No_Name/x").fix


def test_a_placeholder_is_told_first_and_nothing_is_made_of_it(image: str) -> None:
    cluster = {"image": image, "ssh_from": "203.0.113.7", "head_profile": "unmade"}
    sweep = sweep_on_aws(cluster, storage="s3://EDIT-THIS-BUCKET/x")
    first, *others = check(sweep, fix=True).findings
    assert (first.name, first.state) == ("storage", "not ok")
    assert "edit that line of the YAML, e.g. s3://your-bucket/prefix" in first.fix
    found = {line.name: line.state for line in others}
    assert (found["credentials"], found["region"], found["data"]) == ("ok", "ok", "unknown")
    assert found["profiles"] == "unknown", "the placeholder would be part of their policies"
    assert "bucket" not in found
    made = boto3.client("iam").list_instance_profiles()["InstanceProfiles"]
    assert "unmade" not in [profile["InstanceProfileName"] for profile in made]


def bucket_finding(image: str, storage: str, **cluster: Any) -> Finding:
    sweep = sweep_on_aws({"image": image, "ssh_from": "203.0.113.7", **cluster}, storage=storage)
    return {finding.name: finding for finding in check(sweep).findings}["bucket"]


def test_zones_and_images_that_do_not_exist_are_not_ok(image: str) -> None:
    findings = {f.name: f for f in check(ready("ami-0123456789abcdef0", zones=["us-east-1x"])).findings}
    assert "us-east-1 has no zone us-east-1x" in findings["region"].found
    assert findings["image"].state == "not ok"


def test_a_disk_smaller_than_the_images_is_not_ok(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    disks = {"RootDeviceName": "/dev/sda1", "BlockDeviceMappings": [{"Ebs": {"VolumeSize": 150}}]}
    ec2 = type("Ec2", (), {"describe_images": lambda self, **_: {"Images": [disks]}})()
    monkeypatch.setattr(client, "client", lambda service, region: ec2)
    cluster = ready(image).cluster
    assert isinstance(cluster, Aws)
    assert checks._image(cluster).fix == "--set cluster.disk_gb=150"


def test_a_policy_that_somebody_changed_is_put_right_again(image: str) -> None:
    sweep = ready(image, worker_profile="changed")
    check(sweep, fix=True)
    cluster = sweep.cluster
    assert isinstance(cluster, Aws)
    _, of_worker = access.roles(cluster, sweep.storage, ACCOUNT)
    iam = boto3.client("iam")
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    iam.put_role_policy(RoleName="changed", PolicyName=of_worker.policy_name, PolicyDocument=json.dumps(everything))
    assert "is not what this sweep needs" in (access.problem(iam, of_worker) or "")
    access.make(iam, of_worker)
    assert access.problem(iam, of_worker) is None


class Lagging:
    """IAM with several servers that learn one after another that a role was made.

    Args:
        iam: client that knows it.
        knows: for each request after that, True if the server knows it; later requests succeed.
    """

    def __init__(self, iam: Any, *knows: bool) -> None:
        self.iam, self.knows = iam, list(knows)
        self.made = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.iam, name)

    def create_role(self, **role: Any) -> None:
        self.iam.create_role(**role)
        self.made = True

    def get_instance_profile(self, **profile: str) -> Any:
        return self._ask("get_instance_profile", profile)

    def add_role_to_instance_profile(self, **names: str) -> Any:
        return self._ask("add_role_to_instance_profile", names)

    def _ask(self, call: str, words: dict[str, str]) -> Any:
        if self.made and self.knows and not self.knows.pop(0):
            raise self.iam.exceptions.NoSuchEntityException({"Error": {"Code": "NoSuchEntity"}}, call)
        return getattr(self.iam, call)(**words)


def test_what_was_just_made_is_waited_for_until_it_is_seen_twice_in_a_row(image: str) -> None:
    iam, pauses = Lagging(boto3.client("iam"), False, True, True, False, True, True), list[float]()
    _, role = access.roles(Aws(), "s3://lagging/x", ACCOUNT)
    access.make(iam, role, pauses.append)
    assert iam.knows == []
    assert len(pauses) == 4
    assert access.problem(iam.iam, role) is None
    access.make(iam.iam, role, pauses.append)
    assert len(pauses) == 4, "a profile that existed before is not waited for"


def test_what_iam_never_knows_is_not_waited_for_without_end(image: str) -> None:
    iam, pauses = Lagging(boto3.client("iam"), *[False] * 1000), list[float]()
    _, role = access.roles(Aws(), "s3://lagging/y", ACCOUNT)
    access.make(iam, role, pauses.append)
    assert 1 < len(pauses) < 100
    assert "no instance profile" in (access.problem(iam, role) or ""), "the next check reports it"


def test_a_profile_with_somebody_elses_role_is_left_alone(image: str) -> None:
    iam = boto3.client("iam")
    iam.create_role(RoleName="theirs", AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName="taken")
    iam.add_role_to_instance_profile(InstanceProfileName="taken", RoleName="theirs")
    finding = {f.name: f for f in check(ready(image, head_profile="taken"), fix=True).findings}["head profile"]
    assert finding.state == "not ok" and "theirs" in finding.found
    assert iam.list_role_policies(RoleName="theirs")["PolicyNames"] == []


def statements(role: access.Role) -> dict[str, dict[str, Any]]:
    return {statement["Sid"]: statement for statement in role.policy["Statement"]}


def test_workers_may_use_the_prefix_and_nothing_else() -> None:
    sweep = sweep_on_aws()
    assert isinstance(sweep.cluster, Aws)
    _, of_worker = access.roles(sweep.cluster, sweep.storage, ACCOUNT)
    found = statements(of_worker)
    assert set(found) == {"List", "Objects"}
    assert found["Objects"]["Resource"] == f"arn:aws:s3:::{BUCKET}/some/prefix/*"
    assert found["List"]["Condition"]["StringLikeIfExists"]["s3:prefix"] == ["some/prefix", "some/prefix/*"]


def test_each_storage_has_roles_of_its_own_unless_the_user_names_them(image: str) -> None:
    iam, cluster = boto3.client("iam"), Aws(image=image)
    found = [role for prefix in "abcdef" for role in access.roles(cluster, f"s3://{BUCKET}/{prefix}", ACCOUNT)]
    for role in found:
        access.make(iam, role)
    assert len({role.name for role in found}) == 12
    for role in found:  # the policies of one role may have 10,240 characters together
        assert iam.list_role_policies(RoleName=role.name)["PolicyNames"] == [role.policy_name]
    named = cluster.model_copy(update={"head_profile": "a-head", "worker_profile": "a-worker"})
    assert [role.name for role in access.roles(named, f"s3://{BUCKET}/a", ACCOUNT)] == ["a-head", "a-worker"]


def test_the_head_runs_and_ends_tagged_machines_alone_and_passes_the_workers_role_alone() -> None:
    sweep = sweep_on_aws()
    assert isinstance(sweep.cluster, Aws)
    head, of_worker = access.roles(sweep.cluster, sweep.storage, ACCOUNT)
    found = statements(head)
    assert found["RunTagged"]["Condition"] == {"StringLike": {"aws:RequestTag/anomaly-sweep": "*"}}
    assert found["TagAndEndOwn"]["Condition"] == {"StringLike": {"aws:ResourceTag/anomaly-sweep": "*"}}
    assert found["PassWorkersRole"]["Resource"] == f"arn:aws:iam::{ACCOUNT}:role/{of_worker.name}"
    wide = [s for s in head.policy["Statement"] if s["Resource"] == "*"]
    assert [s["Sid"] for s in wide] == ["Look"]
    assert {action for action in wide[0]["Action"] if not action.startswith("ec2:Describe")} == {"pricing:GetProducts"}


@pytest.mark.parametrize(
    ("region", "partition", "service"),
    [
        ("eu-west-1", "aws", "ec2.amazonaws.com"),
        ("cn-north-1", "aws-cn", "ec2.amazonaws.com.cn"),
        ("us-gov-west-1", "aws-us-gov", "ec2.amazonaws.com"),
    ],
)
def test_rights_are_named_as_the_regions_own_cloud_has_them(region: str, partition: str, service: str) -> None:
    cluster = Aws(region=region)
    head, of_worker = access.roles(cluster, f"s3://{BUCKET}/x", ACCOUNT)
    for role in (head, of_worker):
        arns = re.findall(r"arn:([\w-]+):", json.dumps(role.policy))
        assert set(arns) == {partition}
        assert role.trust["Statement"][0]["Principal"] == {"Service": service}
    assert statements(head)["PassWorkersRole"]["Condition"] == {"StringEquals": {"iam:PassedToService": service}}


class Quotas:
    """Service Quotas with the same answer for all quotas."""

    def __init__(self, vcpus: float) -> None:
        self.vcpus = vcpus

    def get_service_quota(self, **_: str) -> dict[str, Any]:
        return {"Quota": {"Value": self.vcpus}}


@pytest.mark.parametrize(
    ("vcpus", "states", "fix"),
    [
        (64, ["ok", "ok", "ok"], ""),
        (8, ["not ok", "ok", "ok"], "cluster.max_workers=2"),
        (0, ["not ok", "not ok", "not ok"], "quotas/L-3819A6DF"),
    ],
)
def test_quotas_are_held_against_the_workers(
    vcpus: float, states: list[str], fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "client", lambda service, region: Quotas(vcpus))
    cluster = sweep_on_aws({"worker": "g5.xlarge", "max_workers": 8}).cluster
    assert isinstance(cluster, Aws)
    spot, on_demand, head = checks._quotas(cluster)
    assert [spot.state, on_demand.state, head.state] == states
    assert fix in spot.fix


def test_without_credentials_nothing_else_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    found = check(sweep_on_aws())
    assert not found.passed
    assert found.findings[0].name == "credentials" and "AWS_PROFILE" in found.findings[0].fix
    assert {f.state for f in found.findings[1:-1]} == {"unknown"}


def test_a_refusal_by_aws_is_said_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Finding:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "User: x is not authorized"}}, "GetRole")

    found = checks._try("spot role", refuse)
    assert (found.state, found.found) == ("not ok", "AccessDenied User: x is not authorized")
    assert "right" in found.fix


def test_the_newest_image_is_asked_of_aws_and_where_it_does_not_say_a_key_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ssm:
        def get_parameter(self, **asked: str) -> dict[str, Any]:
            if "deeplearning" not in asked["Name"]:
                raise AssertionError(asked)
            return {"Parameter": {"Value": "ami-0abc"}}

    cluster = sweep_on_aws().cluster
    assert isinstance(cluster, Aws)
    monkeypatch.setattr(client, "client", lambda service, region: Ssm())
    assert defaults.image(cluster) == "ami-0abc"

    def denied(**_: str) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": ""}}, "GetParameter")

    monkeypatch.setattr(Ssm, "get_parameter", lambda self, **asked: denied(**asked))
    with pytest.raises(UserError, match=r"--set cluster\.image=ami-"):
        defaults.image(cluster)


def test_ssh_is_opened_to_this_machines_own_address_unless_another_is_named() -> None:
    named, unnamed = sweep_on_aws({"ssh_from": "198.51.100.9"}).cluster, sweep_on_aws().cluster
    assert isinstance(named, Aws) and isinstance(unnamed, Aws)
    assert defaults.ssh_from(named) == "198.51.100.9/32"
    assert defaults.ssh_from(unnamed, ask=lambda: "203.0.113.7\n") == "203.0.113.7/32"
    for answer in ("", "<html>", "203.0.113.0/24 "):
        with pytest.raises(UserError, match=r"cluster\.ssh_from"):
            defaults.ssh_from(unnamed, ask=lambda answer=answer: f"not {answer}")  # type: ignore[misc]
