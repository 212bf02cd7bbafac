"""Rights of a role: its policies, evaluated as AWS does, as far as this project writes policies.

A statement can only allow.  Conditions can use tags, `s3:prefix`, `ec2:CreateAction` and `iam:PassedToService`; any
other condition is a problem of the lab and stops it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from moto.backends import get_backend

from tests.lab.calls import Call
from tests.lab.identities import ACCOUNT

FREE = ("sts:GetCallerIdentity",)  # it needs no right
MADE = ("instance", "volume")  # resources that RunInstances makes, with tags
USED = {  # resources that RunInstances uses: kind, and the parameter with its name
    "image": "ImageId", "key-pair": "KeyName", "subnet": "SubnetId", "security-group": "SecurityGroupId.1",
}  # fmt: skip
NAMES = {  # resources of other actions: kind, and the list or parameter with its name
    "ec2:TerminateInstances": ("instance", "InstanceId"),
    "ec2:StopInstances": ("instance", "InstanceId"),
    "ec2:CreateTags": ("instance", "ResourceId"),
    "ec2:DeleteVolume": ("volume", "VolumeId"),
    "ec2:DeleteSecurityGroup": ("security-group", "GroupId"),
    "ec2:DeleteKeyPair": ("key-pair", "KeyPairId"),
}


@dataclass(frozen=True)
class Question:
    """The question if an action is allowed on a resource.

    Attributes:
        action: name of the action, e.g. "ec2:RunInstances".
        resource: its ARN; "*" if the action has no resources.
        context: values of condition keys; a key that is missing here is missing in the request.
    """

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)


class Rights:
    """Rights of roles, from moto's IAM.

    Args:
        tags_of: returns the present tags of an instance, volume, key pair or security group.
    """

    def __init__(self, tags_of: Callable[[str], dict[str, str]]) -> None:
        self._tags_of = tags_of

    def problem(self, role: str, call: Call) -> str | None:
        """Return why a role may not make a call; None if it may."""
        if call.action in FREE:
            return None
        statements = [statement for policy in _policies(role) for statement in policy["Statement"]]
        for question in self._questions(call):
            if not any(_allows(statement, question) for statement in statements):
                return f"no statement allows {question.action} on {question.resource} with {dict(question.context)}"
        return None

    def _questions(self, call: Call) -> Iterator[Question]:
        if call.service == "s3":
            yield from _s3_questions(call)
        elif call.action == "ec2:RunInstances":
            yield from _launch_questions(call)
        elif call.action in NAMES:
            kind, parameter = NAMES[call.action]
            for name in call.numbered(parameter) or [call.form.get(parameter, "")]:
                tags = {f"aws:ResourceTag/{key}": value for key, value in self._tags_of(name).items()}
                yield Question(call.action, _arn(call, kind, name), tags)
        else:
            yield Question(call.action, "*")


def _s3_questions(call: Call) -> Iterator[Question]:
    bucket = f"arn:aws:s3:::{call.bucket}"
    if call.action == "s3:ListBucket":
        prefix = call.request.args.get("prefix")
        yield Question(call.action, bucket, {} if prefix is None else {"s3:prefix": prefix})
    elif call.action == "s3:DeleteObject" and not call.object_key:
        for part in call.body.decode().split("<Key>")[1:]:
            yield Question(call.action, f"{bucket}/{part.partition('</Key>')[0]}")
    elif call.object_key:
        yield Question(call.action, f"{bucket}/{call.object_key}")
    else:
        yield Question(call.action, bucket)


def _launch_questions(call: Call) -> Iterator[Question]:
    run, form = "ec2:RunInstances", call.form
    for kind in MADE:
        tags = call.tags(kind)
        yield Question(run, _arn(call, kind, "*"), {f"aws:RequestTag/{key}": value for key, value in tags.items()})
        if tags:
            yield Question("ec2:CreateTags", _arn(call, kind, "*"), {"ec2:CreateAction": "RunInstances"})
    yield Question(run, _arn(call, "network-interface", "*"))
    for kind, parameter in USED.items():
        yield Question(run, _arn(call, kind, form[parameter]))
    if form.get("InstanceMarketOptions.MarketType") == "spot":
        yield Question(run, _arn(call, "spot-instances-request", "*"))
    profile = form.get("IamInstanceProfile.Name")
    if profile:
        role = f"arn:aws:iam::{ACCOUNT}:role/{_role_of(profile)}"
        yield Question("iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"})


def _arn(call: Call, kind: str, name: str) -> str:
    return f"arn:aws:ec2:{call.region}:{'' if kind == 'image' else ACCOUNT}:{kind}/{name}"


def _allows(statement: dict[str, Any], question: Question) -> bool:
    assert statement["Effect"] == "Allow", statement
    return (
        any(fnmatchcase(question.action, pattern) for pattern in _listed(statement["Action"]))
        and any(fnmatchcase(question.resource, pattern) for pattern in _listed(statement["Resource"]))
        and all(
            _holds(operator, key, _listed(values), question.context)
            for operator, conditions in statement.get("Condition", {}).items()
            for key, values in conditions.items()
        )
    )


def _holds(operator: str, key: str, patterns: list[str], context: Mapping[str, str]) -> bool:
    assert operator in ("StringEquals", "StringLike", "StringLikeIfExists", "StringEqualsIfExists"), operator
    value = context.get(key)
    if value is None:
        return operator.endswith("IfExists")
    return any(fnmatchcase(value, p) if "Like" in operator else value == p for p in patterns)


def _policies(role: str) -> Iterator[dict[str, Any]]:
    """Yield the inline policies of a role."""
    found = [r for r in get_backend("iam")[ACCOUNT]["aws"].roles.values() if r.name == role]
    for document in (text for r in found for text in r.policies.values()):
        yield json.loads(document) if isinstance(document, str) else document


def _role_of(profile: str) -> str:
    profiles = get_backend("iam")[ACCOUNT]["aws"].instance_profiles.values()
    return next((str(p.roles[0].name) for p in profiles if p.name == profile and p.roles), "")


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
