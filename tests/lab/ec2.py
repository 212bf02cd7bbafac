"""Machines for the instances of moto: an instance that runs gets a machine; a machine that is off ends its instance."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moto.backends import get_backend

from tests.lab.calls import Call
from tests.lab.identities import ACCOUNT, Identities
from tests.lab.machine import Image, Machine
from tests.lab.metadata import ADDRESS, PORT, Metadata
from tests.lab.network import INSIDE, Network, ip, listening
from tests.lab.timeline import Timeline

ZONES = "abc"
IMAGE_NAME = "this machine"
SPOT_ROLE = "AWSServiceRoleForEC2Spot"
SHUT_DOWN_SECONDS = 10.0
ISO = "%Y-%m-%dT%H:%M:%SZ"


@dataclass
class Instance:
    """An instance of EC2, with facts that moto does not keep.

    Attributes:
        id, type, zone, address, public: as in EC2; `address` is private.
        market: "spot" or "on-demand".
        tags: tags at the launch.
        profile: name of its instance profile; "" for none.
        user_data: script for the first boot.
        needs_token: True if metadata are given only with a token.
        off: effect of a shutdown from inside: "terminate" or "stop".
        key: name of its key pair.
        notice: when its reclaim was announced, and when it will happen, in seconds since 1970.
        told: when the machine was asked to shut down, on the monotonic clock.
    """

    id: str
    type: str
    market: str
    zone: str
    address: str
    public: str
    tags: dict[str, str]
    profile: str
    user_data: str
    needs_token: bool
    off: str
    key: str
    notice: tuple[float, float] | None = None
    told: float | None = None
    machine: Machine | None = field(default=None, repr=False)
    metadata: Metadata | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.id[-8:]


class Ec2:
    """EC2 of the account in one region.

    Attributes:
        instances: instances by id, in order of launch.
        default_subnet: subnet of instances that name none.

    Args:
        network: network of the machines.
        region: region of AWS.
        image: image of the machines.
        folder: folder for their logs.
        identities: issues the credentials of roles.
        timeline: records events.
        laptop: address of laptops, for security groups.
        edit: changes the user data of instances before their first boot, so that tests need not wait for hours.
    """

    def __init__(
        self,
        network: Network,
        region: str,
        image: Image,
        folder: Path,
        identities: Identities,
        timeline: Timeline,
        laptop: str,
        edit: Callable[[str], str],
    ) -> None:
        self.region = region
        self.instances: dict[str, Instance] = {}
        self._network = network
        self._image = image
        self._folder = folder
        self._identities = identities
        self._timeline = timeline
        self._laptop = laptop
        self._edit = edit
        self._moto: Any = get_backend("ec2")[ACCOUNT][region]
        for subnet in [subnet for zone in self._moto.subnets.values() for subnet in zone.values()]:
            self._moto.delete_subnet(subnet.id)
        vpc = self._moto.create_vpc(f"{INSIDE}.0.0/16", is_default=True)
        for number, zone in enumerate(ZONES, start=1):
            subnet = self._moto.create_subnet(vpc.id, f"{INSIDE}.{number}.0/24", availability_zone=f"{region}{zone}")
            subnet.map_public_ip_on_launch = True
            self.default_subnet = str(subnet.id)
        self._moto.register_image(IMAGE_NAME)
        # Every account that has had a spot machine has this role; moto would make one with another name.
        get_backend("iam")[ACCOUNT]["aws"].create_role(
            role_name=SPOT_ROLE, assume_role_policy_document="{}", path="/", permissions_boundary=None,
            description="", tags=[], max_session_duration="3600",
        )  # fmt: skip
        self._groups = set(self._moto.describe_security_groups())

    def zone_of(self, subnet: str) -> str:
        return str(self._moto.get_subnet(subnet).availability_zone)

    def image_id(self) -> str:
        """Return the id of the only image that machines are started from."""
        return next(str(image.id) for image in self._moto.describe_images() if image.name == IMAGE_NAME)

    def launched(self, call: Call, ids: Sequence[str]) -> None:
        """Note new instances; the next `tick` switches on their machines."""
        form = call.form
        profile = form.get("IamInstanceProfile.Name") or form.get("IamInstanceProfile.Arn", "").rpartition("/")[2]
        for id_ in ids:
            made = self._moto.get_instance(id_)
            self.instances[id_] = Instance(
                id=id_,
                type=form["InstanceType"],
                market="spot" if form.get("InstanceMarketOptions.MarketType") == "spot" else "on-demand",
                zone=made.placement.zone,
                address=made.private_ip,
                public=made.public_ip or "",
                tags=call.tags("instance"),
                profile=profile,
                user_data=base64.b64decode(form.get("UserData", "")).decode(),
                needs_token=form.get("MetadataOptions.HttpTokens") == "required",
                off=form.get("InstanceInitiatedShutdownBehavior", "stop"),
                key=form.get("KeyName", ""),
            )

    def state(self, id_: str) -> str:
        """Return the state of an instance as in EC2: "running", "stopped", "terminated", ..."""
        return str(self._moto.get_instance(id_).state)

    def tags_of(self, id_: str) -> dict[str, str]:
        """Return the present tags of a resource."""
        return {tag["key"]: tag["value"] for tag in self._moto.describe_tags(filters={"resource-id": [id_]})}

    def terminate(self, id_: str, why: str) -> None:
        """Terminate an instance, as AWS does without a request."""
        self._timeline.add("terminate", id_, why)
        self._moto.terminate_instances([id_])

    def tick(self) -> None:
        """Make machines match their instances, and instances their machines."""
        now = time.time()
        for instance in list(self.instances.values()):
            state, machine = self.state(instance.id), instance.machine
            if state == "running" and machine is None:
                self._switch_on(instance)
            elif state == "running" and machine is not None and not machine.is_on:
                self._went_off(instance)
            elif state != "running" and machine is not None:
                self._switch_off(instance, machine, state)
            if state == "running" and instance.notice is not None and now >= instance.notice[1]:
                self.terminate(instance.id, "reclaimed")
        running = [i for i in self.instances.values() if i.machine is not None and i.public]
        self._network.admit({(i.public, port) for i in running for port in self._open_ports(i)})

    def close(self) -> None:
        """Switch off all machines."""
        for instance in self.instances.values():
            if instance.machine is not None:
                instance.machine.cut_power()
                self._clear(instance)

    def left(self) -> dict[str, list[str]]:
        """Return everything that is left, by kind."""
        return {
            "instances": [i for i in self.instances if self.state(i) not in ("terminated", "shutting-down")],
            "machines": [i.id for i in self.instances.values() if i.machine is not None],
            "volumes": sorted(self._moto.volumes),
            "key pairs": sorted(self._moto.key_pairs),
            "security groups": sorted(
                group.name for group in self._moto.describe_security_groups() if group not in self._groups
            ),
        }

    def _switch_on(self, instance: Instance) -> None:
        key = self._moto.key_pairs[instance.key].public_key if instance.key in self._moto.key_pairs else ""
        seed = {"address": instance.address, "authorized_keys": f"{key.strip()}\n"}
        if instance.user_data:
            seed["user-data"] = self._edit(instance.user_data)
        netns = self._network.add_machine(instance.name, instance.address)
        if instance.public:
            self._network.give_public(instance.name, instance.public)
        ip("addr", "add", f"{ADDRESS}/32", "dev", "lo", netns=netns)
        instance.metadata = Metadata(
            listening(netns, ADDRESS, PORT),
            lambda path: self._metadata(instance, path),
            needs_token=instance.needs_token,
        )
        hostname = f"ip-{instance.address.replace('.', '-')}"
        logs = self._folder / f"{instance.name}.tmp"  # for Ray's logs, which must outlive the machine
        logs.mkdir()
        logs.chmod(0o1777)
        instance.machine = Machine(
            self._network, instance.name, self._image, self._folder,
            hostname=hostname, writable={logs: "/tmp"}, seed=seed,
        )  # fmt: skip
        instance.machine.boot()
        role = instance.tags.get("ray-node-type", "")
        self._timeline.add("power on", instance.id, f"{role} {instance.type} {instance.market} {instance.zone}")

    def _switch_off(self, instance: Instance, machine: Machine, state: str) -> None:
        """Ask a machine to shut down; a later tick removes it, by force if necessary."""
        if instance.told is None:
            self._timeline.add("power off", instance.id, state)
            instance.told = time.monotonic()
            machine.shut_down()
        elif not machine.is_on or time.monotonic() - instance.told > SHUT_DOWN_SECONDS:
            machine.cut_power()
            self._clear(instance)

    def _went_off(self, instance: Instance) -> None:
        """End the instance of a machine that was shut down from inside, or died."""
        if instance.off == "terminate":
            self._timeline.add("shut itself down", instance.id, "terminated")
            self._moto.terminate_instances([instance.id])
        else:
            self._timeline.add("shut itself down", instance.id, "stopped, its disk still costs money")
            self._moto.stop_instances([instance.id])
        self._clear(instance)

    def _clear(self, instance: Instance) -> None:
        if instance.metadata is not None:
            instance.metadata.close()
        self._network.take_public(instance.public)
        self._network.remove(instance.name)
        instance.machine = instance.metadata = None

    def _open_ports(self, instance: Instance) -> set[int]:
        """Return the TCP ports that the instance's security groups open to laptops."""
        found: set[int] = set()
        for group in self._moto.get_instance(instance.id).security_groups:
            for rule in group.ingress_rules:
                network = (rule.ip_range or {}).get("CidrIp")
                if rule.ip_protocol == "tcp" and network in ("0.0.0.0/0", f"{self._laptop}/32"):
                    assert rule.from_port == rule.to_port, "the lab opens single ports"
                    found.add(int(rule.from_port))
        return found

    def _metadata(self, instance: Instance, path: str) -> str | dict[str, Any] | None:
        notice = instance.notice
        when = [time.strftime(ISO, time.gmtime(moment)) for moment in notice] if notice is not None else []
        if path == "dynamic/instance-identity/document":
            return {
                "region": self.region, "instanceId": instance.id, "instanceType": instance.type,
                "privateIp": instance.address, "accountId": ACCOUNT, "availabilityZone": instance.zone,
            }  # fmt: skip
        if path == "user-data":
            return instance.user_data or None
        role = self._role(instance.profile)
        answers: dict[str, str | dict[str, Any] | None] = {
            "instance-id": instance.id,
            "instance-type": instance.type,
            "instance-life-cycle": instance.market,
            "local-ipv4": instance.address,
            "public-ipv4": instance.public or None,
            "placement/region": self.region,
            "placement/availability-zone": instance.zone,
            "iam/security-credentials": role,
            "spot/instance-action": {"action": "terminate", "time": when[1]} if when else None,
            "spot/termination-time": when[1] if when else None,
            "events/recommendations/rebalance": {"noticeTime": when[0]} if when else None,
        }
        asked = path.removeprefix("meta-data/")
        if role is not None and asked == f"iam/security-credentials/{role}":
            made = self._identities.issue(role)
            return {
                "Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": made.access_key,
                "SecretAccessKey": made.secret, "Token": made.token,
                "LastUpdated": time.strftime(ISO, time.gmtime()),
                "Expiration": time.strftime(ISO, time.gmtime(made.expires)),
            }  # fmt: skip
        return answers.get(asked)

    def _role(self, profile: str) -> str | None:
        profiles = get_backend("iam")[ACCOUNT]["aws"].instance_profiles.values()
        return next((str(p.roles[0].name) for p in profiles if p.name == profile and p.roles), None)


def public_addresses() -> Callable[[], str]:
    """Return a function that makes addresses from the range that is reserved for documentation."""
    numbers = iter(range(10, 250))
    return lambda: f"203.0.113.{next(numbers)}"
