"""EC2 as a place: Ray's launcher brings the head up, everything else is asked of EC2 itself."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console

from sweep.console import duration, say
from sweep.errors import ALREADY_RUNS, AlreadyRuns, CommandFailed, UserError
from sweep.plan.datasets import describe_dataset, missing
from sweep.plan.status import SweepStatus
from sweep.providers import ray_config as ray_launcher
from sweep.providers.aws import checks, client, defaults, ray_config, teardown
from sweep.providers.aws.estimate import Estimate, estimate, lines, orderly_seconds
from sweep.providers.aws.instances import worker
from sweep.providers.aws.key_files import Folder
from sweep.providers.aws.ray_config import CLUSTER_TAG, CODE, TAG
from sweep.providers.local_files import cluster_name, kept_in, private_text
from sweep.providers.ray_launcher import Launcher
from sweep.providers.shipping import this_tree
from sweep.spec.cluster import Aws
from sweep.spec.sweep import Sweep
from sweep.store.base import Store, StoreError

STARTED_SECONDS = 90  # for the supervisor to show that it runs
SUPERVISED = "/run/sweep/supervised"  # touched by the supervisor, watched by the head's guard


@dataclass(frozen=True)
class AwsProvider:
    """The machines of one sweep on EC2.

    Attributes:
        sweep: whose they are.
        survey: what is left to run, for the number of workers; only `make` needs it.
    """

    sweep: Sweep
    status: SweepStatus | None = None

    @property
    def _cluster(self) -> Aws:
        assert isinstance(self.sweep.cluster, Aws)
        return self.sweep.cluster

    @property
    def _name(self) -> str:
        return cluster_name(self.sweep)

    @property
    def _launcher(self) -> Launcher:
        return Launcher(Folder(self.sweep).path)

    def make(self, console: Console, deadline: float | None) -> float | None:
        """See Place."""
        assert deadline is not None and self.status is not None
        folder, tell = Folder(self.sweep), partial(say, console)
        shipment = this_tree()
        with teardown.asking("find out what stands"):
            kept = self._kept_head(folder)
        if kept is not None:
            limit = float(kept["deadline"])
            left = duration(max(0.0, limit - time.time()))
            tell(f"the head of an earlier launch is up: it is kept as it was made, with {left} left")
            config = kept["config"]
        else:
            limit = deadline
            if teardown.standing(self._cluster.region, self._name):
                tell("removing what an earlier launch has left")
                self.tear_down(console)
            folder.make()
            config = self._configuration(folder, deadline)
            self._import_key(folder)
        with kept_in(folder.path):
            shipment.copy_to(folder.code)
        tell(f"code: {len(shipment.files)} files, {shipment.size / 2**20:.1f} MB; log: {self._launcher.log}")
        try:
            self._launcher.up(config, tell)
        except BaseException:
            teardown.settle(self._cluster.region, self._name)  # whoever takes down must see what was asked for
            raise
        with teardown.asking("look at the head"):
            head = self._head()
        if head is None:
            raise UserError("the head ended while it was being set up; launch again")
        with kept_in(folder.path):
            private_text(folder.config, json.dumps({"head": head.name, "deadline": limit, "config": config}))
        return limit - orderly_seconds(limit - time.time())

    def submit(self, number: int) -> None:
        """See Place."""
        try:
            self._launcher.run(self.submission(number))
        except CommandFailed as error:
            if error.status == ALREADY_RUNS:
                raise AlreadyRuns(f"the head of sweep {self.sweep.name} runs another launch") from None
            raise

    def submission(self, number: int) -> str:
        """The command that starts the supervisor on the head, and waits until it says that it runs."""
        python = f"{ray_config.python_environment(self._cluster)}/bin/python"
        end = shlex.join(
            [python, "-m", "sweep.providers.aws.teardown", self._cluster.region, self._name, "--from-head"]
        )
        words = [
            python,
            "-m",
            "sweep.launch.head.supervisor",
            self.sweep.storage,
            self.sweep.name,
            str(number),
            "--then",
            end,
        ]
        return (
            f"{ray_config.exports(self._cluster)}cd {CODE} && touch ~/.submitted && "
            f"{shlex.join(words)} --log ~/supervisor.log --detach || exit $?; "
            f"for second in $(seq {STARTED_SECONDS}); do test {SUPERVISED} -nt ~/.submitted && exit 0; sleep 1; done; "
            "tail -n 20 ~/supervisor.log; exit 1"
        )

    def alive(self) -> bool | None:
        """See Place."""
        try:
            return self._head() is not None
        except client.errors():
            return None

    def standing(self) -> list[str]:
        """See Place."""
        return [str(thing) for thing in teardown.standing(self._cluster.region, self._name)]

    def tear_down(self, console: Console) -> list[str]:
        """See Place."""
        removed = teardown.tear_down(self._cluster.region, self._name, partial(say, console))
        Folder(self.sweep).forget()
        return removed

    def commands(self) -> dict[str, list[str]]:
        """See Place."""
        return checks.commands(self.sweep)

    def _head(self) -> teardown.Thing | None:
        found = teardown.machines(client.client("ec2", self._cluster.region), self._name)
        return next((m for m in found if m.role == "head" and m.state in ("pending", "running")), None)

    def _kept_head(self, folder: Folder) -> dict[str, Any] | None:
        """What is known here of a head that is up and was set up by this machine to the end."""
        head = self._head()
        if head is None or not folder.key.exists():
            return None
        try:
            made: dict[str, Any] = json.loads(folder.config.read_text())
            return made if made["head"] == head.name else None
        except (OSError, ValueError, TypeError, KeyError):  # it is not there, or a disk has cut it
            return None

    def _configuration(self, folder: Folder, deadline: float) -> dict[str, Any]:
        assert self.status is not None
        resolved = ray_config.Resolved(
            image=defaults.image(self._cluster),
            ssh_from=defaults.ssh_from(self._cluster),
            deadline=int(deadline),
            workers=max(1, estimate(self.sweep, self.status).workers),
            code=folder.code,
            token=folder.token,
            key=folder.key,
        )
        return ray_config.configuration(self.sweep, worker(self.sweep), resolved)

    def _import_key(self, folder: Folder) -> None:
        """The public key under the cluster's name, in place of one of an earlier launch."""
        tags = {**self._cluster.tags, TAG: self.sweep.name, CLUSTER_TAG: self._name}
        pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
        try:
            ec2 = client.client("ec2", self._cluster.region)
            ec2.delete_key_pair(KeyName=self._name)
            ec2.import_key_pair(
                KeyName=self._name,
                PublicKeyMaterial=folder.public_key.encode(),
                TagSpecifications=[{"ResourceType": "key-pair", "Tags": pairs}],
            )
        except client.errors() as error:
            raise UserError(f"EC2 does not take the key for SSH: {client.error_text(error)}") from None


def plan_lines(sweep: Sweep, store: Store, found: Estimate, unreached: str) -> list[str]:
    """Lines of a plan: machines, time, dollars, and what would be uploaded first."""
    return [*lines(sweep, found, worker(sweep)), _uploads(sweep, store, unreached)]


def ray_yaml(sweep: Sweep, status: SweepStatus) -> str:
    """The configuration that Ray's launcher would be given, after Ray's own checks.

    Raises:
        UserError: Ray refuses what `cluster.ray` makes of it, or the image or the network cannot be found out.
    """
    cluster, hours = sweep.cluster, sweep.budget.max_hours
    assert isinstance(cluster, Aws) and hours is not None
    folder = Folder(sweep)
    resolved = ray_config.Resolved(
        image=defaults.image(cluster),
        ssh_from=defaults.ssh_from(cluster),
        deadline=int(time.time() + hours * 3600),
        workers=max(1, estimate(sweep, status).workers),
        code=folder.code,
        token=folder.token,
        key=folder.key,
    )
    config = ray_config.configuration(sweep, worker(sweep), resolved)
    ray_launcher.validate(config)
    return ray_launcher.text(config)


def _uploads(sweep: Sweep, store: Store, unreached: str) -> str:
    if unreached:
        return "to upload: unknown"
    try:
        names = missing(store, sweep)
    except StoreError as error:
        return f"to upload: unknown ({error})"
    if not names:
        return "to upload: nothing, the datasets are in the store"
    return f"to upload: {', '.join(describe_dataset(sweep, name) for name in names)}"
