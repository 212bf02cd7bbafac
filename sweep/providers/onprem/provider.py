"""The user's own hosts: Ray's launcher starts Ray on them over SSH; hosts are never started or stopped."""

from __future__ import annotations

import re
import secrets
import shlex
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from sweep.console import duration, say
from sweep.errors import ALREADY_RUNS, AlreadyRuns, CommandFailed, UserError
from sweep.plan.platform import Host, Platform, fit
from sweep.plan.status import SweepStatus
from sweep.providers.base import Environment, Provider
from sweep.providers.finding import Finding
from sweep.providers.local_files import cluster_folder, cluster_name, explain_unwritable, private_text
from sweep.providers.onprem import checks, ray_config, ssh
from sweep.providers.ray_config import validate
from sweep.providers.ray_launcher import Launcher
from sweep.providers.shipping import this_tree
from sweep.spec.cluster import ClusterSection, OnPrem

GRACE_SECONDS = 120.0  # time for trials to write their resume state when a sweep is taken down
RAY_STATE = Path("/tmp/ray")  # noqa: S108  (Ray's launcher notes here which hosts it has started)


class OnPremProvider(Provider[OnPrem]):
    """The hosts of one sweep."""

    section: ClassVar[type[ClusterSection]] = OnPrem

    def platform(self) -> Platform:
        """Return the platform of the trials with all hosts that run trials."""
        cluster = self.cluster
        hosts = [Host(cluster.cpus, cluster.gpus)] * cluster.offering
        return fit(self.sweep, hosts, cluster.gpu, cluster.capability)

    def findings(self, *, fix: bool) -> Iterator[Finding]:
        """Check every host over SSH; `fix` has no effect."""
        yield from checks.findings(self.sweep)

    def environment(self) -> Environment:
        """Return the environment that the hosts have, or the one that each host makes."""
        ready = self.cluster.environment
        return Environment(ready is None, False, f"cluster.environment, {ready}," if ready else "the machines")

    def launcher_config(self, status: SweepStatus) -> str:
        """Return the YAML for Ray's launcher, after Ray's own checks."""
        return ray_config.yaml_text(self.sweep)

    def provision(self, status: SweepStatus, console: Console, deadline: float | None) -> float | None:
        """Start Ray on all hosts, or keep Ray that runs on the head.

        Raises:
            UserError: a host cannot be reached, or Ray cannot be started.
        """
        self._check_reachable()
        shipment = this_tree()
        folder = cluster_folder(self.sweep)
        if self._ours(self.cluster.hosts[0]):
            say(console, "Ray of an earlier launch runs on the head: it is kept as it is")
        else:
            self._stop_everywhere(self.cluster.hosts)
            self._forget_started()
        with explain_unwritable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
            token, end = folder / "auth_token", folder / "end.sh"
            if not token.exists():
                private_text(token, secrets.token_hex(32))
            end.write_text(ray_config.end_script(self.sweep))
            shipment.copy_to(folder / "code")
        launcher = Launcher(folder, autoscaler_v2=False)
        say(console, f"code: {len(shipment.files)} files, {shipment.size / 2**20:.1f} MB; log: {launcher.log}")
        config = ray_config.configuration(self.sweep, folder / "code", token, end)
        validate(config)
        launcher.up(config, partial(say, console))
        return deadline

    def submit(self, number: int) -> None:
        """Start the supervisor on the head over SSH."""
        try:
            self._run(self.cluster.hosts[0], ray_config.submission(self.sweep, number))
        except CommandFailed as error:
            if error.status == ALREADY_RUNS:
                raise AlreadyRuns(f"the head of sweep {self.sweep.name} runs another launch") from None
            raise

    def is_alive(self) -> bool | None:
        """Return True if Ray of this sweep runs on the head; None if the head is not reached."""
        try:
            return self._ours(self.cluster.hosts[0]) > 0
        except UserError:
            return None

    def resources(self) -> list[str]:
        """Return the hosts on which Ray of this sweep runs, and those that are not reached."""
        found = ssh.run_on_all(self.cluster.hosts, self._ours)
        return [_line(host, count) for host, count in found.items() if count]

    def teardown(self, console: Console) -> list[str]:
        """Stop the supervisor first, so that trials write their resume state, then Ray of this sweep on every host.

        Raises:
            UserError: names each host that was not reached; all other hosts are cleaned up.
        """
        removed = self._supervised_end(console)
        found = self._stop_everywhere(self.cluster.hosts)
        self._forget_started()
        folder = cluster_folder(self.sweep)
        shutil.rmtree(folder / "code", ignore_errors=True)
        for name in ("auth_token", "end.sh", "given.json", "made.json"):
            (folder / name).unlink(missing_ok=True)
        problems = [problem for each in found.values() if isinstance(each, UserError) for problem in each.problems]
        if problems:
            raise UserError(problems, heading="Ray may be left on hosts that were not reached")
        return [*removed, *(_line(host, count) for host, count in found.items() if count)]

    def commands(self) -> dict[str, list[str]]:
        """Return what the head and the workers run."""
        here = Path("HERE")
        config = ray_config.configuration(self.sweep, here / "code", here / "auth_token", here / "end.sh")
        return {
            "head": [*config["setup_commands"], *config["head_start_ray_commands"]],
            "worker": [*config["setup_commands"], *config["worker_start_ray_commands"]],
        }

    def _run(self, host: str, script: str) -> str:
        return ssh.run(self.cluster, host, script)

    def _check_reachable(self) -> None:
        found = ssh.run_on_all(self.cluster.hosts, lambda host: self._run(host, "true"))
        problems = [problem for each in found.values() if isinstance(each, UserError) for problem in each.problems]
        if problems:
            raise UserError(problems, heading="cluster.hosts: some hosts were not reached; nothing was started")

    def _ours(self, host: str) -> int:
        """Return the number of processes of this sweep's Ray on a host."""
        return int(self._run(host, ray_config.count_script(self.sweep)))

    def _stop_everywhere(self, hosts: tuple[str, ...]) -> dict[str, int | UserError]:
        """Stop Ray of this sweep on the head and then on the workers, which a running head would start again.

        Returns:
            For each host the number of processes that were ended, or the error.
        """
        script = ray_config.stop_script(self.sweep)

        def stop(host: str) -> int:
            return int(ssh.parse_facts(self._run(host, script))["ended"][0])

        head, *workers = hosts
        found = ssh.run_on_all([head], stop)
        return found | (ssh.run_on_all(workers, stop) if workers else {})

    def _supervised_end(self, console: Console) -> list[str]:
        """Ask the supervisor to stop in order, and wait for it.  Returns a line if there was one."""
        # With the storage: a sweep of the same name in another store is another sweep.
        launch = re.sub(r"[][.*+?(){}|$^\\]", r"\\\g<0>", f"{self.sweep.storage} {self.sweep.name}")
        pattern = shlex.quote(f"sweep[.](launch[.]head[.])?supervisor {launch} [0-9]+")
        look = f"pgrep -u $(id -u) -f {pattern} || true"
        head = self.cluster.hosts[0]
        try:
            if not self._run(head, look).strip():
                return []
            say(console, f"{head}: trials write their resume state, at most {duration(GRACE_SECONDS)}")
            self._run(head, f"pkill -TERM -u $(id -u) -f {pattern} || true")
            if self.waiting.until_none(lambda: self._run(head, look).strip(), GRACE_SECONDS):
                self._run(head, f"pkill -KILL -u $(id -u) -f {pattern} || true")
        except UserError:
            return []  # the caller reports the same host when it stops Ray there
        return [f"the supervisor on {head}"]

    def _forget_started(self) -> None:
        """Remove the notes of Ray's launcher; otherwise it believes that an earlier head still runs."""
        for suffix in ("state", "lock"):
            (RAY_STATE / f"cluster-{cluster_name(self.sweep)}.{suffix}").unlink(missing_ok=True)


def _line(host: str, found: int | UserError) -> str:
    if isinstance(found, UserError):
        return f"unknown: {'; '.join(found.problems)}"
    return f"Ray on {host}, {found} process{'es' if found != 1 else ''}"
