"""Machines of EC2: Ray's launcher brings up the head; for everything else EC2 is asked directly."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

from rich.console import Console

from sweep.console import duration, say
from sweep.errors import ALREADY_RUNS, AlreadyRuns, CommandFailed, UserError
from sweep.plan.datasets import describe_dataset, missing
from sweep.plan.platform import Platform
from sweep.plan.status import SweepStatus
from sweep.providers import ray_config as ray_launcher_config
from sweep.providers.aws import billing, capacity, checks, client, defaults, instances, ray_config, teardown
from sweep.providers.aws.estimate import Estimate, estimate, grace_seconds, lines
from sweep.providers.aws.key_files import Folder
from sweep.providers.aws.ray_config import CLUSTER_TAG, CODE, TAG
from sweep.providers.aws.teardown import Resource
from sweep.providers.base import Environment, Provider
from sweep.providers.finding import Finding
from sweep.providers.local_files import cluster_name, explain_unwritable, private_text
from sweep.providers.ray_launcher import Launcher
from sweep.providers.shipping import this_tree
from sweep.spec.cluster import Aws, ClusterSection
from sweep.spec.sweep import Sweep
from sweep.store.base import Store, StoreError
from sweep.store.launch_status import Node

STARTED_SECONDS = 90  # time for the supervisor to show that it runs
SUPERVISED = "/run/sweep/supervised"  # the supervisor touches it, and the head's guard watches it


class AwsProvider(Provider[Aws]):
    """The machines of one sweep on EC2: a head, and workers that Ray's autoscaler adds and removes."""

    section: ClassVar[type[ClusterSection]] = Aws
    knows_prices: ClassVar[bool] = True
    adds_workers: ClassVar[bool] = True
    capacity_advice: ClassVar[str] = (
        "`check` shows which quota or right is missing.  Other types in cluster.worker, or cluster.zones: auto, may "
        "have capacity.  cluster.image and cluster.ray decide whether a worker can be set up."
    )

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        self._name = cluster_name(sweep)
        self._folder = Folder(sweep)
        self._prices: billing.Prices = {}
        self._estimated: tuple[SweepStatus, Estimate] | None = None

    def platform(self) -> Platform:
        """Return the platform of the trials with all of `cluster.max_workers`."""
        return instances.platform(self.sweep)

    def store_findings(self, *, fix: bool) -> Iterator[Finding]:
        """Check credentials, region and bucket."""
        yield from checks.bucket(self.sweep, fix=fix)

    def findings(self, *, fix: bool) -> Iterator[Finding]:
        """Check roles, quotas, image and the network that may connect by SSH."""
        yield from checks.machines(self.sweep, fix=fix)

    def environment(self) -> Environment:
        """Return the environment of the image, or the one that each machine makes."""
        ready = self.cluster.environment
        return Environment(ready is None, False, f"cluster.environment, {ready}," if ready else "the machines")

    def commands(self) -> dict[str, list[str]]:
        """Return the commands of each kind of machine; {} if no worker fits the sweep."""
        return checks.commands(self.sweep)

    def launcher_config(self, status: SweepStatus) -> str:
        """Return the YAML for Ray's launcher, after Ray's own checks.

        Raises:
            UserError: Ray refuses the configuration because of `cluster.ray`, or image or network are unknown.
        """
        hours = self.sweep.budget.max_hours
        assert hours is not None, "the YAML was validated"
        config = self._configuration(status, time.time() + hours * 3600)
        ray_launcher_config.validate(config)
        return ray_launcher_config.text(config)

    def plan_lines(self, status: SweepStatus, store: Store, unreached: str) -> list[str]:
        """Return lines on the machines, time and dollars of a launch, and on the datasets that it uploads first."""
        found = self._estimate(status)
        return [*lines(self.sweep, found, instances.worker(self.sweep).platform), self._uploads(store, unreached)]

    def plan_json(self, status: SweepStatus) -> dict[str, Any]:
        """Return the estimate under the key "aws"."""
        return {"aws": self._estimate(status).to_json()}

    def dollars(self, status: SweepStatus, platform: Platform) -> float | None:
        """Return the expected dollars of all instances: as spot if workers are spot, else on demand."""
        found = self._estimate(status)
        return found.on_demand_usd if found.spot_usd is None else found.spot_usd

    def _estimate(self, status: SweepStatus) -> Estimate:
        """Return the estimate of a status; it is made once, because it takes seconds for 100,000 trials."""
        if self._estimated is None or self._estimated[0] is not status:
            self._estimated = (status, estimate(self.sweep, status))
        return self._estimated[1]

    def pin(self) -> Sweep:
        """Return the sweep with the id of the machine image in place of `auto`.

        Raises:
            UserError: AWS does not report the id.
        """
        image = defaults.image(self.cluster)
        return self.sweep.model_copy(update={"cluster": self.cluster.model_copy(update={"image": image})})

    def provision(self, status: SweepStatus, console: Console, deadline: float | None) -> float | None:
        """Bring up the head with Ray's launcher, or keep a head that is up.

        Raises:
            UserError: EC2 gives no machine, or an older version of this project made the head that is up.
        """
        assert deadline is not None, "the YAML was validated"
        tell, launcher = partial(say, console), Launcher(self._folder.path)
        shipment = this_tree()
        with teardown.asking("list the machines"):
            kept = self._kept_head()
        if kept is not None:
            limit = float(kept["deadline"])
            left = duration(max(0.0, limit - time.time()))
            tell(f"the head of an earlier launch is up: it is kept as it was made, with {left} left")
            config = kept["config"]
        else:
            limit = deadline
            if self.resources():
                tell("removing what an earlier launch has left")
                self.teardown(console)
            self._folder.make()
            config = self._configuration(status, deadline)
            self._import_key()
        with explain_unwritable(self._folder.path):
            shipment.copy_to(self._folder.code)
        tell(f"code: {len(shipment.files)} files, {shipment.size / 2**20:.1f} MB; log: {launcher.log}")
        try:
            launcher.up(config, tell)
        except BaseException:
            # The caller's teardown must see the machines that were requested.
            teardown.settle(self.cluster.region, self._name)
            raise
        with teardown.asking("look at the head"):
            head = self._head()
        if head is None:
            raise UserError("the head ended while it was being set up; launch again")
        with explain_unwritable(self._folder.path):
            made = {"head": head.name, "deadline": limit, "config": config}
            private_text(self._folder.config, json.dumps(made))
        return limit - grace_seconds(limit - time.time())

    def submit(self, number: int) -> None:
        """Start the supervisor on the head over SSH."""
        try:
            Launcher(self._folder.path).run(self.submission(number))
        except CommandFailed as error:
            if error.status == ALREADY_RUNS:
                raise AlreadyRuns(f"the head of sweep {self.sweep.name} runs another launch") from None
            raise

    def submission(self, number: int) -> str:
        """Return the command that starts the supervisor on the head, and waits until it shows that it runs."""
        python = f"{ray_config.python_environment(self.cluster)}/bin/python"
        module = "sweep.providers.aws.teardown"
        end = shlex.join([python, "-m", module, self.cluster.region, self._name, "--from-head"])
        supervisor = "sweep.launch.head.supervisor"
        words = [python, "-m", supervisor, self.sweep.storage, self.sweep.name, str(number), "--then", end]
        return (
            f"{ray_config.exports(self.cluster)}cd {CODE} && touch ~/.submitted && "
            f"{shlex.join(words)} --log ~/supervisor.log --detach || exit $?; "
            f"for second in $(seq {STARTED_SECONDS}); do test {SUPERVISED} -nt ~/.submitted && exit 0; sleep 1; done; "
            "tail -n 20 ~/supervisor.log; exit 1"
        )

    def is_alive(self) -> bool | None:
        """Return True if EC2 lists a head of this sweep that runs or starts; None if EC2 does not answer."""
        try:
            return self._head() is not None
        except client.errors():
            return None

    def resources(self) -> list[str]:
        """Return machines, disks, key pair and security group of this sweep."""
        return [str(thing) for thing in teardown.list_resources(self.cluster.region, self._name)]

    def teardown(self, console: Console) -> list[str]:
        """Remove machines, disks, key pair and security group, and the secrets on this machine."""
        removed = teardown.remove_all(self.cluster.region, self._name, partial(say, console))
        self._folder.forget()
        return removed

    def list_machines(self) -> list[Node] | None:
        """Return all machines with the sweep's tags, and their prices; None if EC2 does not answer."""
        return billing.list_machines(self.sweep, self._prices)

    def last_refusal(self) -> str | None:
        """Return EC2's last answer when it gave no worker; None if it has given one since."""
        return capacity.read_refusal()

    def _head(self) -> Resource | None:
        found = teardown.machines(client.client("ec2", self.cluster.region), self._name)
        return next((m for m in found if m.role == "head" and m.state in ("pending", "running")), None)

    def _kept_head(self) -> dict[str, Any] | None:
        """Return the configuration of a head that is up and that this machine has set up completely; None without one.

        Raises:
            AlreadyRuns: an older version made that head, and its Ray imports modules that do not exist any more.  It
                is left alone: its launch may still run.
        """
        head = self._head()
        if head is None or not self._folder.key.exists():
            return None
        try:
            made: dict[str, Any] = json.loads(self._folder.config.read_text())
            if made["head"] != head.name:
                return None
            module = made["config"]["provider"]["module"]
        except (OSError, ValueError, TypeError, KeyError):  # the file is missing, or incomplete after a full disk
            return None
        if module != ray_config.PROVIDER:
            raise AlreadyRuns(
                f"the head of sweep {self.sweep.name} ({head.name}) was made by an older version of this project and "
                "needs its code: end it, then launch again; every finished trial is kept"
            )
        return made

    def _configuration(self, status: SweepStatus, deadline: float) -> dict[str, Any]:
        """Return the configuration for Ray's launcher of a head that has to be gone by `deadline`."""
        resolved = ray_config.Resolved(
            image=defaults.image(self.cluster),
            ssh_from=defaults.ssh_from(self.cluster),
            deadline=int(deadline),
            workers=max(1, estimate(self.sweep, status).workers),
            code=self._folder.code,
            token=self._folder.token,
            key=self._folder.key,
        )
        return ray_config.configuration(self.sweep, instances.worker(self.sweep), resolved)

    def _import_key(self) -> None:
        """Give the public key to EC2 under the cluster's name; it replaces the key of an earlier launch."""
        tags = {**self.cluster.tags, TAG: self.sweep.name, CLUSTER_TAG: self._name}
        pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
        try:
            ec2 = client.client("ec2", self.cluster.region)
            ec2.delete_key_pair(KeyName=self._name)
            ec2.import_key_pair(
                KeyName=self._name,
                PublicKeyMaterial=self._folder.public_key.encode(),
                TagSpecifications=[{"ResourceType": "key-pair", "Tags": pairs}],
            )
        except client.errors() as error:
            raise UserError(f"EC2 does not accept the key for SSH: {client.error_text(error)}") from None

    def _uploads(self, store: Store, unreached: str) -> str:
        """Return a line on the datasets that a launch uploads first."""
        if unreached:
            return "to upload: unknown"
        try:
            names = missing(store, self.sweep)
        except StoreError as error:
            return f"to upload: unknown ({error})"
        if not names:
            return "to upload: nothing, the datasets are in the store"
        return f"to upload: {', '.join(describe_dataset(self.sweep, name) for name in names)}"
