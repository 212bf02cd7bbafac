"""Two roles with the least rights: the head may run and end this project's machines, workers use the bucket.

Names of rights and condition keys are AWS's; each statement says what it is for.
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

SPOT_ROLE = "AWSServiceRoleForEC2Spot"  # EC2 needs it for the first spot machine of an account
READS = (
    "ec2:DescribeAvailabilityZones", "ec2:DescribeImages", "ec2:DescribeInstances", "ec2:DescribeInstanceTypes",
    "ec2:DescribeKeyPairs", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeVpcs",
    "ec2:DescribeSpotPriceHistory", "pricing:GetProducts",  # to hold dollars against budget.max_usd
)  # fmt: skip
POLL_SECONDS, LOOKS = 2.0, 15  # for what was just made
RUN_ON = ("image", "key-pair", "network-interface", "security-group", "spot-instances-request", "subnet")


@dataclass(frozen=True)
class Role:
    """An instance profile with one role of the same name and one policy, for this sweep's storage.

    Attributes:
        name: of profile and role.
        policy_name: another for each storage: a profile that the user names may serve several.
        policy, trust: the documents: what it may do, and who may take it on.
    """

    name: str
    policy_name: str
    policy: dict[str, Any]
    trust: dict[str, Any]


def roles(cluster: Aws, storage: str, account: str) -> tuple[Role, Role]:
    """The head's role, then the workers'.

    Raises:
        BotoCoreError: nobody knows the cluster's region.
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
    """Objects under the prefix alone: to read, write and delete.

    A listing of another prefix is refused, one without a prefix is not: it shows the names of the bucket's objects.
    AWS tells it by nothing from the question whether there is a bucket, and whether a missing object is answered by
    404, which the store has to know, or by 403: all three are s3:ListBucket without a prefix.  Hence `IfExists`.
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
    """What Ray's autoscaler does on the head: run, tag and terminate machines that bear our tag.

    Args:
        ec2: how ARNs of EC2 in the region begin.
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
    """What is wrong with a profile, None where nothing is; what else its role may do is its owner's business.

    Raises:
        BotoCoreError, ClientError: IAM does not say.
    """
    try:
        held = iam.get_instance_profile(InstanceProfileName=role.name)["InstanceProfile"]["Roles"]
    except iam.exceptions.NoSuchEntityException:
        return f"there is no instance profile {role.name}"
    if not held:
        return f"instance profile {role.name} has no role"
    if held[0]["RoleName"] != role.name:
        return f"instance profile {role.name} holds the role {held[0]['RoleName']}, which is not ours to change"
    try:
        stands = iam.get_role_policy(RoleName=held[0]["RoleName"], PolicyName=role.policy_name)["PolicyDocument"]
    except iam.exceptions.NoSuchEntityException:
        return f"role {held[0]['RoleName']} has no policy {role.policy_name}, which gives it this storage"
    if isinstance(stands, str):
        stands = json.loads(stands)
    return None if stands == role.policy else f"policy {role.policy_name} of {role.name} is not what this sweep needs"


def make(iam: Any, role: Role, pause: Callable[[float], None] = time.sleep) -> None:
    """Make what is missing of a profile, its role and policy; again: nothing changes.

    A profile that holds a role of another name is somebody's, and left alone.

    Args:
        iam: client of IAM, whose answers may be older than what was made last.
        role: what is made.
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
        with suppress(iam.exceptions.EntityAlreadyExistsException):  # of an earlier attempt that was cut off here
            iam.create_role(RoleName=role.name, AssumeRolePolicyDocument=json.dumps(role.trust), Tags=tags)
        _until_seen(lambda: _taken_in(iam, role), pause)
    elif profile["Roles"][0]["RoleName"] != role.name:
        return
    iam.put_role_policy(RoleName=role.name, PolicyName=role.policy_name, PolicyDocument=json.dumps(role.policy))
    if not profile["Roles"]:  # IAM is many servers, and EC2 learns of it no sooner than they do
        _until_seen(lambda: problem(iam, role) is None, pause, looks_in_a_row=2)


def _taken_in(iam: Any, role: Role) -> bool:
    """Put a role into its profile; False where IAM does not know yet that both were made."""
    try:
        iam.add_role_to_instance_profile(InstanceProfileName=role.name, RoleName=role.name)
    except iam.exceptions.NoSuchEntityException:
        return False
    return True


def _until_seen(look: Callable[[], bool], pause: Callable[[float], None], looks_in_a_row: int = 1) -> None:
    """Look until it is so, for half a minute; whether it is in the end is seen by whoever asks next."""
    seen = 0
    for _ in range(LOOKS):
        seen = seen + 1 if look() else 0
        if seen == looks_in_a_row:
            return
        pause(POLL_SECONDS)


def has_spot_role(iam: Any) -> bool:
    """Whether the account has EC2's own role for spot machines."""
    try:
        iam.get_role(RoleName=SPOT_ROLE)
    except iam.exceptions.NoSuchEntityException:
        return False
    return True


def make_spot_role(iam: Any) -> None:
    """Have AWS make it, once for an account."""
    iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")


def account(region: str) -> tuple[str, str]:
    """Account number, and who these credentials are, as AWS names them.

    Raises:
        BotoCoreError, ClientError: there are none, or AWS refuses them.
    """
    identity = client.client("sts", region).get_caller_identity()
    return str(identity["Account"]), str(identity["Arn"])
