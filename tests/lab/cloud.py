"""A fake of AWS: moto answers the API, instances are machines of the lab, objects are in SeaweedFS; and a laptop."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

from moto.ec2.models import elastic_network_interfaces
from moto.moto_api._internal.models import moto_api_backend

from tests.lab.api import Api, ApiServer
from tests.lab.capacity import Capacity
from tests.lab.ec2 import Ec2, Instance, public_addresses
from tests.lab.identities import LAPTOP, Identities
from tests.lab.laptop import Laptop
from tests.lab.machine import Image
from tests.lab.network import LAPTOP as LAPTOP_ADDRESS
from tests.lab.network import OPERATOR, Network, listening, remove_leftovers
from tests.lab.rights import Rights
from tests.lab.timeline import Timeline
from tests.support.s3_servers import seaweed_server

REGION = "us-east-1"  # as in the shipped YAML
PORT = 5566
ENDPOINT = f"http://{OPERATOR}:{PORT}"
TICK_SECONDS = 0.2
SMALL_RAY = {  # several machines share one memory and two cores, and Ray must notice a power cut within seconds
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_gcs_server_port_wait_time_s": "120",
    "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "150000000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_health_check_failure_threshold": "3",
}


class Cloud:
    """The cloud as tests use it; made by `cloud`.

    Attributes:
        laptop: the user's machine.
        timeline: events so far.
        region, endpoint: region and address of AWS.
        image: id of a machine image, for `cluster.image`.
        environment: folder of the image's Python environment, for `cluster.environment`.
        ssh_from: network of the laptop, for `cluster.ssh_from`.
    """

    def __init__(
        self,
        folder: Path,
        ec2: Ec2,
        laptop: Laptop,
        capacity: Capacity,
        identities: Identities,
        timeline: Timeline,
    ) -> None:
        self._folder = folder
        self.laptop = laptop
        self.timeline = timeline
        self.region, self.endpoint = REGION, ENDPOINT
        self.image = ec2.image_id()
        self.environment = str(Image().python)
        self.ssh_from = f"{LAPTOP_ADDRESS}/32"
        self._ec2 = ec2
        self._capacity = capacity
        self._identities = identities

    def state(self) -> list[dict[str, Any]]:
        """Return every instance that was ever launched, in order of launch."""
        return [
            {
                "id": i.id, "type": i.type, "market": i.market, "zone": i.zone, "state": self._ec2.state(i.id),
                "role": i.tags.get("ray-node-type", ""), "public": i.public, "address": i.address, "tags": i.tags,
            }
            for i in list(self._ec2.instances.values())
        ]  # fmt: skip

    def running(self, role: str | None = None) -> list[str]:
        """Return the ids of running instances, of one role ("head", "worker") if it is given."""
        return [i["id"] for i in self.state() if i["state"] == "running" and role in (None, i["role"])]

    def run(self, instance: str, *argv: object, user: str | None = None, timeout: float = 120) -> str:
        """Run a command on a machine without its network.  Returns the output."""
        machine = self._instance(instance).machine
        assert machine is not None, f"{instance} is off"
        done = machine.run(argv, timeout, user=user)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def tmp(self, instance: str) -> Path:
        """Return the real folder of an instance's /tmp, which has Ray's logs and outlives the instance."""
        return self._folder / f"{self._instance(instance).name}.tmp"

    def shut_down(self, instance: str) -> None:
        """Let a machine switch itself off, as its guard does."""
        machine = self._instance(instance).machine
        assert machine is not None, f"{instance} is off"
        machine.run(["shutdown", "-h", "now"], user="root")  # it ends all processes there, also this command

    def notice(self, instance: str, seconds: float = 120) -> None:
        """Announce that a spot instance will be reclaimed, and reclaim it then."""
        now = time.time()
        self._instance(instance).notice = (now, now + seconds)
        self.timeline.add("spot notice", instance, f"{seconds:g} s")

    def cut_power(self, instance: str) -> None:
        """End a machine and its instance at once, without any message."""
        machine = self._instance(instance).machine
        assert machine is not None, f"{instance} is off"
        self._ec2.terminate(instance, "power cut")  # first; otherwise the machine would seem to have shut itself down
        machine.cut_power()

    def cut_network(self, instance: str) -> None:
        """Disconnect a machine, which keeps running."""
        machine = self._instance(instance).machine
        assert machine is not None, f"{instance} is off"
        machine.cut_network()
        self.timeline.add("network cut", instance)

    def join_network(self, instance: str) -> None:
        machine = self._instance(instance).machine
        assert machine is not None, f"{instance} is off"
        machine.join_network()
        self.timeline.add("network back", instance)

    def capacity(self, zone: str, instance_type: str, market: str, count: int | None) -> None:
        """Set how many more instances there are; zone, type and market may be "any"."""
        self._capacity.set(zone, instance_type, market, count)

    def enough(self) -> None:
        """Remove all limits of capacity."""
        self._capacity.clear()

    def deny_bucket(self, role: str) -> None:
        """Let S3 refuse an identity, a role or "laptop", regardless of its policies."""
        self._identities.deny_bucket(role)

    def allow_bucket(self, role: str) -> None:
        self._identities.allow_bucket(role)

    def expire_credentials(self, identity: str = LAPTOP) -> None:
        """Let all access keys of an identity be expired until they are renewed."""
        self._identities.expire(identity)

    def renew_credentials(self, identity: str = LAPTOP) -> None:
        self._identities.renew(identity)

    def left(self) -> dict[str, list[str]]:
        """Return everything that is left: instances, machines, volumes, key pairs, security groups."""
        return self._ec2.left()

    def wait(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Wait until a condition is true.

        Raises:
            AssertionError: it did not become true; the message has the latest events.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            happened = "\n".join(map(str, self.timeline.events[-40:]))
            assert not self.timeline.of("error"), happened
            assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s\n{happened}\n{self.left()}"
            time.sleep(0.1)

    def _instance(self, id_: str) -> Instance:
        return self._ec2.instances[id_]


@contextmanager
def cloud(
    folder: Path,
    edit: Callable[[str], str] = lambda text: text,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Cloud]:
    """Yield a cloud with an empty account, and remove everything at the end.

    Args:
        folder: empty folder for logs and objects.
        edit: changes the user data of instances before their first boot.
        environment: more variables for SSH connections to a machine.

    Raises:
        ServerStartError: SeaweedFS is not installed.
    """
    remove_leftovers()
    moto_api_backend.reset()
    timeline, identities, capacity = Timeline(folder / "events.log"), Identities(), Capacity()
    credentials = identities.issue(LAPTOP, life=float("inf"))
    image = Image(environment={"AWS_ENDPOINT_URL": ENDPOINT, **SMALL_RAY, **environment})
    own = {
        "AWS_ENDPOINT_URL": ENDPOINT,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": credentials.access_key,
        "AWS_SECRET_ACCESS_KEY": credentials.secret,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    network = Network()
    try:
        with (
            seaweed_server(folder, checks_secrets=False) as s3,
            patch.object(elastic_network_interfaces, "random_public_ip", public_addresses()),
        ):
            ec2 = Ec2(network, REGION, image, folder, identities, timeline, LAPTOP_ADDRESS, edit)
            rights = Rights(ec2.tags_of)
            api = Api(
                s3.endpoint,
                identities,
                capacity,
                ec2.default_subnet,
                ec2.zone_of,
                rights.problem,
                ec2.launched,
                timeline,
            )
            server = ApiServer(listening(network.operator, OPERATOR, PORT), api)
            network.add_laptop("laptop")
            laptop = Laptop(network, "laptop", folder / "laptop", own)
            ticking = _Ticking(ec2.tick, timeline)
            try:
                laptop.switch_on()
                yield Cloud(folder, ec2, laptop, capacity, identities, timeline)
            finally:
                ticking.stop()
                laptop.cut_power()
                ec2.close()
                server.close()
    finally:
        network.close()


class _Ticking:
    """Calls a function again and again in a thread; machines that the function starts live as long as the thread."""

    def __init__(self, tick: Callable[[], None], timeline: Timeline) -> None:
        self._ended = threading.Event()
        self._tick = tick
        self._timeline = timeline
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            try:
                self._tick()
            except Exception:  # noqa: BLE001  (`wait` reports it)
                problem = traceback.format_exc()
                if problem not in [event.detail for event in self._timeline.of("error")]:
                    self._timeline.add("error", "lab", problem)
