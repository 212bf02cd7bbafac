"""Two roles with minimal rights: the head may run and end machines of this project, and workers may use the bucket.

The names of rights and condition keys are AWS's.  The "Sid" of each statement names its purpose.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sweep.providers.aws import client
from sweep.providers.aws.ray_config import TAG, profiles, storage_digest
from sweep.spec.cluster import Aws

SPOT_ROLE = "AWSServiceRoleForEC2Spot"  # an account needs it before its first spot machine
READS = (
    "ec2:DescribeAvailabilityZones", "ec2:DescribeImages", "ec2:DescribeInstances", "ec2:DescribeInstanceTypes",
    "ec2:DescribeKeyPairs", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeVpcs",
    "ec2:DescribeSpotPriceHistory", "pricing:GetProducts",  # for prices, to enforce budget.max_usd
)  # fmt: skip
POLL_SECONDS, LOOKS = 2.0, 15  # interval and number of looks for a thing that was just made
RUN_ON = ("image", "key-pair", "network-interface", "security-group", "spot-instances-request", "subnet")


@dataclass(frozen=True)
class Role:
    """An instance profile with one role of the same name, and one policy for this sweep's storage.

    Attributes:
        name: name of profile and role.
        policy_name: name of the policy; it depends on the storage, because a user's profile may serve several.
        policy: document with the rights of the role.
        trust: document that allows EC2 to use the role.
    """

    name: str
    policy_name: str
    policy: dict[str, Any]
    trust: dict[str, Any]


def roles(cluster: Aws, storage: str, account: str) -> tuple[Role, Role]:
    """Return the head's role and the workers' role.

    Raises:
        BotoCoreError: the region is unknown.
    """
    partition = client.partition(cluster.region)
    ec2 = f"ec2.amazonaws.com{'.cn' if partition == 'aws-cn' else ''}"
    trust = _document([{"Effect": "Allow", "Principal": {"Service": ec2}, "Action": "sts:AssumeRole"}])
    head_profile, worker_profile = profiles(cluster, storage)
    policy = f"{TAG}-{storage_digest(cluster, storage)}"
    stored = _storage(partition, storage)
    pass_worker = {
        "Sid": "PassWorkersRole", "Effect": "Allow", "Action": "iam:PassRole",
        "Resource": f"arn:{partition}:iam::{account}:role/{worker_profile}",
        "Condition": {"StringEquals": {"iam:PassedToService": ec2}},
    }  # fmt: skip
    head = [*stored, *_machines(f"arn:{partition}:ec2:{cluster.region}", account), pass_worker]
    return (
        Role(head_profile, policy, _document(head), trust),
        Role(worker_profile, policy, _document(stored), trust),
    )


def _document(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": statements}


def _storage(partition: str, storage: str) -> list[dict[str, Any]]:
    """Return statements for the bucket: read, write and delete objects under the prefix only.

    A listing with another prefix is refused.  A listing without a prefix is allowed, although it shows the names of all
    objects in the bucket.  AWS uses the right s3:ListBucket without a prefix also to tell whether the bucket exists,
    and to answer 404 instead of 403 for a missing object.  The store needs both, so the condition is `IfExists`.
    """
    bucket, _, prefix = storage.removeprefix("s3://").rstrip("/").partition("/")
    arn = f"arn:{partition}:s3:::{bucket}"
    listing: dict[str, Any] = {"Sid": "List", "Effect": "Allow", "Action": "s3:ListBucket", "Resource": arn}
    if prefix:
        listing["Condition"] = {"StringLikeIfExists": {"s3:prefix": [prefix, f"{prefix}/*"]}}
    actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]
    objects = f"{arn}/{prefix}/*" if prefix else f"{arn}/*"
    return [listing, {"Sid": "Objects", "Effect": "Allow", "Action": actions, "Resource": objects}]


def _machines(ec2: str, account: str) -> list[dict[str, Any]]:
    """Return statements for Ray's autoscaler on the head: run, tag and terminate machines that have our tag.

    Args:
        ec2: beginning of EC2's ARNs in the region.
        account: number of the account.
    """
    asked = {"StringLike": {f"aws:RequestTag/{TAG}": "*"}}
    owned = {"StringLike": {f"aws:ResourceTag/{TAG}": "*"}}
    made = [f"{ec2}:{account}:{kind}/*" for kind in ("instance", "volume")]
    used = [f"{ec2}:{'' if kind == 'image' else account}:{kind}/*" for kind in RUN_ON]
    return [
        {"Sid": "Look", "Effect": "Allow", "Action": list(READS), "Resource": "*"},
        {"Sid": "RunTagged", "Effect": "Allow", "Action": "ec2:RunInstances", "Resource": made, "Condition": asked},
        {"Sid": "RunOn", "Effect": "Allow", "Action": "ec2:RunInstances", "Resource": used},
        {
            "Sid": "TagNew", "Effect": "Allow", "Action": "ec2:CreateTags", "Resource": made,
            "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}},
        },
        {
            "Sid": "TagAndEndOwn", "Effect": "Allow", "Action": ["ec2:CreateTags", "ec2:TerminateInstances"],
            "Resource": f"{ec2}:{account}:instance/*", "Condition": owned,
        },
    ]  # fmt: skip


def problem(iam: Any, role: Role) -> str | None:
    """Return what is wrong with a profile; None if nothing is.  Other rights of its role are allowed.

    Raises:
        BotoCoreError, ClientError: IAM does not answer.
    """
    try:
        found = iam.get_instance_profile(InstanceProfileName=role.name)["InstanceProfile"]["Roles"]
    except iam.exceptions.NoSuchEntityException:
        return f"no instance profile {role.name} exists"
    if not found:
        return f"instance profile {role.name} has no role"
    if found[0]["RoleName"] != role.name:
        other = found[0]["RoleName"]
        return f"instance profile {role.name} holds the role {other}, which is not of Sweep and is not changed"
    try:
        stored = iam.get_role_policy(RoleName=found[0]["RoleName"], PolicyName=role.policy_name)["PolicyDocument"]
    except iam.exceptions.NoSuchEntityException:
        return f"role {found[0]['RoleName']} has no policy {role.policy_name}, which gives access to this storage"
    if isinstance(stored, str):
        stored = json.loads(stored)
    return None if stored == role.policy else f"policy {role.policy_name} of {role.name} is not what this sweep needs"


def make(iam: Any, role: Role, pause: Callable[[float], None] = time.sleep) -> None:
    """Make the missing parts of a profile, its role and policy.  Idempotent.

    A profile with a role of another name belongs to someone else, and is not changed.

    Args:
        iam: client of IAM; its answers may be older than the last changes.
        role: what to make.
        pause: lets seconds pass.

    Raises:
        BotoCoreError, ClientError: IAM refuses.
    """
    tags = [{"Key": TAG, "Value": "access"}]
    try:
        profile = iam.get_instance_profile(InstanceProfileName=role.name)["InstanceProfile"]
    except iam.exceptions.NoSuchEntityException:
        profile = iam.create_instance_profile(InstanceProfileName=role.name, Tags=tags)["InstanceProfile"]
    if not profile["Roles"]:
        with suppress(iam.exceptions.EntityAlreadyExistsException):  # made by an earlier run that was interrupted here
            iam.create_role(RoleName=role.name, AssumeRolePolicyDocument=json.dumps(role.trust), Tags=tags)
        _until_seen(lambda: _add_role(iam, role), pause)
    elif profile["Roles"][0]["RoleName"] != role.name:
        return
    iam.put_role_policy(RoleName=role.name, PolicyName=role.policy_name, PolicyDocument=json.dumps(role.policy))
    if not profile["Roles"]:  # IAM has many servers; EC2 sees the profile only after they do
        _until_seen(lambda: problem(iam, role) is None, pause, looks_in_a_row=2)


def _add_role(iam: Any, role: Role) -> bool:
    """Put a role into its profile.  Returns False if IAM does not know both yet."""
    try:
        iam.add_role_to_instance_profile(InstanceProfileName=role.name, RoleName=role.name)
    except iam.exceptions.NoSuchEntityException:
        return False
    return True


def _until_seen(look: Callable[[], bool], pause: Callable[[float], None], looks_in_a_row: int = 1) -> None:
    """Call `look` until it returns True, for half a minute at most; the caller checks the result again.

    Args:
        look: the check.
        pause: lets seconds pass.
        looks_in_a_row: number of consecutive successes that are needed.
    """
    seen = 0
    for _ in range(LOOKS):
        seen = seen + 1 if look() else 0
        if seen == looks_in_a_row:
            return
        pause(POLL_SECONDS)


def has_spot_role(iam: Any) -> bool:
    """Return True if the account has EC2's role for spot machines."""
    try:
        iam.get_role(RoleName=SPOT_ROLE)
    except iam.exceptions.NoSuchEntityException:
        return False
    return True


def make_spot_role(iam: Any) -> None:
    """Let AWS make EC2's role for spot machines, once for each account."""
    iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")


def account(region: str) -> tuple[str, str]:
    """Return the account number and the ARN of the present credentials.

    Raises:
        BotoCoreError, ClientError: there are no credentials, or AWS refuses them.
    """
    identity = client.client("sts", region).get_caller_identity()
    return str(identity["Account"]), str(identity["Arn"])
