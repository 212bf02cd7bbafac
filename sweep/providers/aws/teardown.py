"""Find everything in EC2 that belongs to one sweep by its tag, remove it, and check that it is gone.

    python -m sweep.providers.aws.teardown REGION CLUSTER --from-head

runs at the end of a launch on its head: it removes the workers first, then the head.  It needs neither Ray, nor the
store, nor the head itself.
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

RAY_ROLE_TAG = "ray-node-type"  # tag that Ray sets to "head" or "worker"
EXISTING = ("pending", "running", "stopping", "stopped", "shutting-down")
POLL_SECONDS = 3.0
PATIENCE_SECONDS = 600.0  # machines with GPUs take minutes to end, and security groups are in use until then
SETTLE_SECONDS = 5.0  # EC2 may list a machine only seconds after it was requested
SHUTDOWN_SECONDS = 60.0
SAY_SECONDS = 15.0


@dataclass(frozen=True)
class Resource:
    """A resource of a sweep in EC2.

    Attributes:
        kind: "machine", "disk", "key pair" or "security group".
        name: its id.
        details: details for the user.
        state: for a machine, its state in EC2's words.
        role: for a machine, "head" or "worker"; "" before Ray has set it.
    """

    kind: str
    name: str
    details: str = ""
    state: str = ""
    role: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}{f': {self.details}' if self.details else ''}"


def list_resources(region: str, cluster: str) -> list[Resource]:
    """Return all resources of a cluster with this name.

    Raises:
        UserError: EC2 does not answer.
    """
    with asking("list the resources of the sweep"):
        ec2 = client.client("ec2", region)
        return [*machines(ec2, cluster), *_disks(ec2, cluster), *_keys(ec2, cluster), *_groups(ec2, cluster)]


def machines(ec2: Any, cluster: str) -> list[Resource]:
    """Return the machines that are not terminated, the head first."""
    pages = ec2.get_paginator("describe_instances").paginate(
        Filters=[*_tag_filters(cluster), {"Name": "instance-state-name", "Values": list(EXISTING)}]
    )
    found = [_machine(i) for page in pages for r in page["Reservations"] for i in r["Instances"]]
    return sorted(found, key=lambda machine: (machine.role != "head", machine.name))


def remove_all(region: str, cluster: str, say: Callable[[str], None]) -> list[str]:
    """Remove all resources of a cluster with this name.  Returns one line for each that was removed.

    Problems that may pass, such as no network or too many calls, are waited for.

    Raises:
        UserError: EC2 refuses, or something still exists after ten minutes; a new call goes on.
    """
    removed: dict[str, Resource] = {}
    deadline = time.monotonic() + PATIENCE_SECONDS
    said_at = float("-inf")
    with asking("remove the resources of the sweep"):
        ec2 = client.client("ec2", region)
        while True:
            late, waits = time.monotonic() > deadline, ""
            try:
                left = _remove(ec2, cluster, removed)
            except client.errors() as error:
                if late or not client.may_pass(error):
                    raise
                waits = f"EC2: {client.error_text(error)}; trying again"
            else:
                if not left:
                    return [str(thing) for thing in removed.values()]
                if late:
                    names = ", ".join(map(str, left))
                    raise UserError(f"not removed after {PATIENCE_SECONDS / 60:.0f} min: {names}; run `down` again")
                if left[0].kind == "machine":
                    waits = f"waiting for {len(left)} machine{'s' if len(left) > 1 else ''} to end"
            if waits and time.monotonic() - said_at >= SAY_SECONDS:
                said_at = time.monotonic()
                say(waits)
            time.sleep(POLL_SECONDS)


def _remove(ec2: Any, cluster: str, removed: dict[str, Resource]) -> list[Resource]:
    """Request the removal of everything once, and add it to `removed`.  Returns the resources that still exist."""
    found = machines(ec2, cluster)
    removed |= {machine.name: machine for machine in found}
    _terminate(ec2, found)
    if found:
        return found  # disks and groups are in use until machines end; disks usually end with them
    rest = [*_disks(ec2, cluster), *_keys(ec2, cluster), *_groups(ec2, cluster)]
    removed |= {thing.name: thing for thing in rest}
    return [thing for thing in rest if not _delete(ec2, thing)]  # no early exit: each one is tried


def settle(region: str, cluster: str) -> None:
    """Wait until EC2 lists machines that were just requested; for use after an interrupted request."""
    deadline = time.monotonic() + SETTLE_SECONDS
    with suppress(*client.errors()):
        ec2 = client.client("ec2", region)
        while time.monotonic() < deadline and not machines(ec2, cluster):  # only machines: the key pair existed before
            time.sleep(1.0)


def from_head(region: str, cluster: str) -> None:
    """End the workers, then this machine.  Key pair and security group cost nothing; `down` removes them.

    If anything fails before, this machine powers off nevertheless, and so it is terminated.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        while not _workers_end(region, cluster) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    finally:
        _end_this_machine(region, cluster)


def _workers_end(region: str, cluster: str) -> bool:
    """Request the end of the workers once.

    Returns:
        True if no more requests make sense: the workers are gone, or only their own guards can end them.
    """
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
    time.sleep(SHUTDOWN_SECONDS)  # it should be off by then; if not, ask EC2 to terminate it
    with suppress(*client.errors()):
        ec2 = client.client("ec2", region)
        _terminate(ec2, [machine for machine in machines(ec2, cluster) if machine.role == "head"])


def _terminate(ec2: Any, found: Sequence[Resource]) -> None:
    names = [machine.name for machine in found if machine.state != "shutting-down"]
    if names:
        ec2.terminate_instances(InstanceIds=names)


def _delete(ec2: Any, thing: Resource) -> bool:
    """Delete a resource.  Returns False if it is still in use, as a group is for some seconds after its machines."""
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


def _machine(instance: dict[str, Any]) -> Resource:
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
    role, state = tags.get(RAY_ROLE_TAG, ""), instance["State"]["Name"]
    market = "spot" if instance.get("InstanceLifecycle") == "spot" else "on demand"
    zone = instance.get("Placement", {}).get("AvailabilityZone", "")
    details = f"{role or 'unknown role'}, {instance['InstanceType']} {market} in {zone}, {state}"
    return Resource("machine", instance["InstanceId"], details, state, role)


def _disks(ec2: Any, cluster: str) -> list[Resource]:
    pages = ec2.get_paginator("describe_volumes").paginate(Filters=_tag_filters(cluster))
    volumes = [volume for page in pages for volume in page["Volumes"]]
    return [
        Resource("disk", v["VolumeId"], f"{v['Size']} GB, {v['State']}") for v in volumes if v["State"] != "deleting"
    ]


def _keys(ec2: Any, cluster: str) -> list[Resource]:
    found = ec2.describe_key_pairs(Filters=_tag_filters(cluster))["KeyPairs"]
    return [Resource("key pair", pair["KeyName"]) for pair in found]


def _groups(ec2: Any, cluster: str) -> list[Resource]:
    found = ec2.describe_security_groups(Filters=_tag_filters(cluster))["SecurityGroups"]
    return [Resource("security group", group["GroupId"], group["GroupName"]) for group in found]


@contextmanager
def asking(to: str) -> Iterator[None]:
    """Turn a refusal or a timeout of AWS into a UserError.

    Args:
        to: what was requested, as a verb phrase.
    """
    try:
        yield
    except client.errors() as error:
        when = "later" if client.may_pass(error) else "once that is fixed"
        raise UserError(f"EC2: cannot {to}: {client.error_text(error)}; {when} the same command goes on") from None


def main(words: Sequence[str]) -> None:
    """Run the command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("region")
    parser.add_argument("cluster")
    parser.add_argument("--from-head", action="store_true", required=True)
    options = parser.parse_args(words)
    from_head(options.region, options.cluster)


if __name__ == "__main__":
    main(sys.argv[1:])
