"""Whatever stands in EC2 for one sweep: found by its tag, removed, looked for again.

    python -m sweep.providers.aws.teardown REGION CLUSTER --from-head

is the end of a head: first the workers, then itself.  Neither Ray, nor the store, nor the head is needed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sweep.errors import UserError
from sweep.providers.aws import client
from sweep.providers.aws.ray_config import CLUSTER_TAG

RAY_ROLE_TAG = "ray-node-type"  # "head" or "worker", put on by Ray
STANDING = ("pending", "running", "stopping", "stopped", "shutting-down")
POLL_SECONDS = 3.0
PATIENCE_SECONDS = 600.0  # machines with GPUs take minutes to end, and groups are in use until then
SETTLE_SECONDS = 5.0  # EC2 may show a machine only moments after it was asked for
SHUTDOWN_SECONDS = 60.0
SAID_SECONDS = 15.0


@dataclass(frozen=True)
class Thing:
    """Something that EC2 has for a sweep.

    Attributes:
        kind: "machine", "disk", "key pair" or "security group".
        name: its id.
        said: what else a person wants to know of it.
        state: of a machine, in EC2's words.
        role: of a machine: "head" or "worker"; "" before Ray has said so.
    """

    kind: str
    name: str
    said: str = ""
    state: str = ""
    role: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}{f': {self.said}' if self.said else ''}"


def standing(region: str, cluster: str) -> list[Thing]:
    """All that stands for a cluster of this name.

    Raises:
        UserError: EC2 cannot be asked.
    """
    with asking("find out what stands"):
        ec2 = client.client("ec2", region)
        return [*machines(ec2, cluster), *_disks(ec2, cluster), *_keys(ec2, cluster), *_groups(ec2, cluster)]


def machines(ec2: Any, cluster: str) -> list[Thing]:
    """Machines that are not terminated, the head first."""
    pages = ec2.get_paginator("describe_instances").paginate(
        Filters=[*_tag_filters(cluster), {"Name": "instance-state-name", "Values": list(STANDING)}]
    )
    found = [_machine(i) for page in pages for r in page["Reservations"] for i in r["Instances"]]
    return sorted(found, key=lambda machine: (machine.role != "head", machine.name))


def tear_down(region: str, cluster: str, say: Callable[[str], None]) -> list[str]:
    """Remove all that stands for a cluster of this name; returns what was removed, one line each.

    What may pass, such as a network that is down or too many calls, is waited out.

    Raises:
        UserError: EC2 refuses, or something is still there after ten minutes; again goes on.
    """
    removed: dict[str, Thing] = {}
    deadline = time.monotonic() + PATIENCE_SECONDS
    told = float("-inf")
    with asking("remove what stands"):
        ec2 = client.client("ec2", region)
        while True:
            late, waits = time.monotonic() > deadline, ""
            try:
                left = _remove(ec2, cluster, removed)
            except client.errors() as error:
                if late or not client.may_pass(error):
                    raise
                waits = f"EC2: {client.error_text(error)}; asked again"
            else:
                if not left:
                    return [str(thing) for thing in removed.values()]
                if late:
                    said = ", ".join(map(str, left))
                    raise UserError(f"still there after {PATIENCE_SECONDS / 60:.0f} min: {said}; run `down` again")
                if left[0].kind == "machine":
                    waits = f"waiting for {len(left)} machine{'s' if len(left) > 1 else ''} to end"
            if waits and time.monotonic() - told >= SAID_SECONDS:
                told = time.monotonic()
                say(waits)
            time.sleep(POLL_SECONDS)


def _remove(ec2: Any, cluster: str, removed: dict[str, Thing]) -> list[Thing]:
    """Ask once for everything to go, and note it in `removed`; what has to be waited for."""
    found = machines(ec2, cluster)
    removed |= {machine.name: machine for machine in found}
    _terminate(ec2, found)
    if found:
        return found  # disks and groups are in use before, and a disk goes with its machine
    rest = [*_disks(ec2, cluster), *_keys(ec2, cluster), *_groups(ec2, cluster)]
    removed |= {thing.name: thing for thing in rest}
    return [thing for thing in rest if not _delete(ec2, thing)]  # every one is tried


def settle(region: str, cluster: str) -> None:
    """Wait until machines that were just asked for can be seen; after an interrupted request."""
    deadline = time.monotonic() + SETTLE_SECONDS
    with suppress(*client.errors()):
        ec2 = client.client("ec2", region)
        while time.monotonic() < deadline and not machines(ec2, cluster):  # the key pair was there before
            time.sleep(1.0)


def from_head(region: str, cluster: str) -> None:
    """End the workers, then this machine.  Key pair and security group cost nothing, and stay for `down`.

    Whatever fails before, the machine goes: powered off it is terminated.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while not _workers_end(region, cluster) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    finally:
        _end_this_machine(region, cluster)


def _workers_end(region: str, cluster: str) -> bool:
    """Ask once for the workers to end; whether to ask no more: they are gone, or left to their own guards."""
    try:
        ec2 = client.client("ec2", region)
        workers = [m for m in machines(ec2, cluster) if m.role != "head" and m.state != "shutting-down"]
        if workers:
            print("ending", ", ".join(map(str, workers)), flush=True)
            _terminate(ec2, workers)
        return not workers
    except client.errors() as error:
        print(f"EC2: {client.error_text(error)}", flush=True)
        return not client.may_pass(error)


def _end_this_machine(region: str, cluster: str) -> None:
    print("powering off", flush=True)
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(["sudo", "-n", "shutdown", "-h", "now"], timeout=SHUTDOWN_SECONDS, check=False)
    time.sleep(SHUTDOWN_SECONDS)  # by then it is off; else as EC2 ends any machine
    with suppress(*client.errors()):
        ec2 = client.client("ec2", region)
        _terminate(ec2, [machine for machine in machines(ec2, cluster) if machine.role == "head"])


def _terminate(ec2: Any, found: Sequence[Thing]) -> None:
    names = [machine.name for machine in found if machine.state != "shutting-down"]
    if names:
        ec2.terminate_instances(InstanceIds=names)


def _delete(ec2: Any, thing: Thing) -> bool:
    """Whether EC2 let something go; a group is in use for moments after its machines have ended."""
    try:
        if thing.kind == "disk":
            ec2.delete_volume(VolumeId=thing.name)
        elif thing.kind == "key pair":
            ec2.delete_key_pair(KeyName=thing.name)
        else:
            ec2.delete_security_group(GroupId=thing.name)
    except client.errors() as error:
        if client.code(error) in ("DependencyViolation", "VolumeInUse", "InvalidGroup.InUse"):
            return False
        if "NotFound" not in client.code(error):
            raise
    return True


def _tag_filters(cluster: str) -> list[dict[str, Any]]:
    return [{"Name": f"tag:{CLUSTER_TAG}", "Values": [cluster]}]


def _machine(instance: dict[str, Any]) -> Thing:
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
    role, state = tags.get(RAY_ROLE_TAG, ""), instance["State"]["Name"]
    market = "spot" if instance.get("InstanceLifecycle") == "spot" else "on demand"
    zone = instance.get("Placement", {}).get("AvailabilityZone", "")
    said = f"{role or 'unknown role'}, {instance['InstanceType']} {market} in {zone}, {state}"
    return Thing("machine", instance["InstanceId"], said, state, role)


def _disks(ec2: Any, cluster: str) -> list[Thing]:
    pages = ec2.get_paginator("describe_volumes").paginate(Filters=_tag_filters(cluster))
    volumes = [volume for page in pages for volume in page["Volumes"]]
    return [Thing("disk", v["VolumeId"], f"{v['Size']} GB, {v['State']}") for v in volumes if v["State"] != "deleting"]


def _keys(ec2: Any, cluster: str) -> list[Thing]:
    found = ec2.describe_key_pairs(Filters=_tag_filters(cluster))["KeyPairs"]
    return [Thing("key pair", pair["KeyName"]) for pair in found]


def _groups(ec2: Any, cluster: str) -> list[Thing]:
    found = ec2.describe_security_groups(Filters=_tag_filters(cluster))["SecurityGroups"]
    return [Thing("security group", group["GroupId"], group["GroupName"]) for group in found]


@contextmanager
def asking(to: str) -> Iterator[None]:
    """What AWS refuses, or does not answer, becomes a problem of the user's."""
    try:
        yield
    except client.errors() as error:
        when = "later" if client.may_pass(error) else "once that is fixed"
        raise UserError(
            f"EC2 does not let us {to}: {client.error_text(error)}; {when} the same command goes on"
        ) from None


def main(words: Sequence[str]) -> None:
    """The end of a head."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("region")
    parser.add_argument("cluster")
    parser.add_argument("--from-head", action="store_true", required=True)
    options = parser.parse_args(words)
    from_head(options.region, options.cluster)


if __name__ == "__main__":
    main(sys.argv[1:])
