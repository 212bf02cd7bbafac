"""One job of Slurm for a sweep: it starts Ray on its nodes, and requeues itself before its walltime ends."""

from __future__ import annotations

import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

from rich.console import Console

from sweep.console import duration, say
from sweep.errors import AlreadyRuns, UserError
from sweep.plan.platform import Host, Platform, fit
from sweep.plan.status import SweepStatus
from sweep.providers.base import Environment, Provider
from sweep.providers.finding import Finding
from sweep.providers.local_files import cluster_name, private_text
from sweep.providers.shipping import this_tree
from sweep.providers.slurm import checks, jobs, scripts
from sweep.spec.cluster import ClusterSection, Slurm

OURS = re.compile(r"code(\.new)?|auth_token|launch-[0-9]+")  # files and folders that launches make, without logs
SETTLE_SECONDS = 5.0  # time for a job to leave the queue after its sweep has ended
GRACE_SECONDS = 90.0  # time for trials to write their resume state when a job is taken down
GONE_SECONDS = 120.0  # time for Slurm to end a job


class SlurmProvider(Provider[Slurm]):
    """The job of one sweep, submitted on Slurm's login node."""

    section: ClassVar[type[ClusterSection]] = Slurm

    def platform(self) -> Platform:
        """Return the platform of the trials with all nodes of the job."""
        cluster = self.cluster
        hosts = [Host(cluster.cpus, cluster.gpus)] * cluster.nodes
        return fit(self.sweep, hosts, cluster.gpu, cluster.capability)

    def findings(self, *, fix: bool) -> Iterator[Finding]:
        """Check Slurm, partition, job, and folders that all nodes must share; `fix` has no effect."""
        yield from checks.findings(self.sweep)

    def environment(self) -> Environment:
        """Return the environment that all nodes share."""
        named = self.cluster.environment
        own = named == "auto" or Path(named).expanduser() == Path(sys.prefix)
        return Environment(False, own, f"cluster.environment, {sys.prefix if own else named},")

    def launcher_config(self, status: SweepStatus) -> str:
        """Return the scripts of the job and of its nodes."""
        return scripts.scripts_text(self.sweep)

    def provision(self, status: SweepStatus, console: Console, deadline: float | None) -> float | None:
        """Copy code and secret to a folder that all nodes share, and remove an earlier job from the queue."""
        folder = scripts.folder_of(self.sweep)
        shipment = this_tree()
        for job in self._jobs():
            say(console, f"{job}: removed, because its code is replaced")
        self._end(in_order=False)
        with _explain_shared_folder():
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.path.chmod(0o700)
            shipment.copy_to(folder.code)
            private_text(folder.token, secrets.token_hex(32))
        say(console, f"code: {len(shipment.files)} files, {shipment.size / 2**20:.1f} MB, in {folder.code}")
        return deadline

    def submit(self, number: int) -> None:
        """Put the job into Slurm's queue."""
        run = scripts.folder_of(self.sweep).run(number)
        if found := self._jobs():
            if not run.exists():
                raise AlreadyRuns(f"{found[0]} is another launch of sweep {self.sweep.name}")
            return
        with _explain_shared_folder():
            run.mkdir(parents=True, exist_ok=True)
            (run / "node.sh").write_text(scripts.node(self.sweep, number))
        jobs.submit(scripts.job(self.sweep, number))

    def is_alive(self) -> bool | None:
        """Return True if the job runs or waits, also after its walltime; None if Slurm does not answer."""
        try:
            return bool(self._jobs())
        except UserError:
            return None

    def resources(self) -> list[str]:
        """Return the job, and the folder if it holds more than logs."""
        folder = scripts.folder_of(self.sweep).path
        return [*map(str, self._jobs()), *([f"{folder}, except its logs"] if self._leftovers(folder) else [])]

    def teardown(self, console: Console) -> list[str]:
        """End the job in order, and remove its folder except the logs."""
        removed = self.resources()
        self.waiting.until_none(self._jobs, SETTLE_SECONDS)
        running = [job for job in self._jobs() if job.state == "RUNNING"]
        if running:
            say(console, f"{running[0]}: its trials write their resume state, at most {duration(GRACE_SECONDS)}")
            self._end(in_order=True)
        self._end(in_order=False)
        while left := self._leftovers(scripts.folder_of(self.sweep).path):
            # A launch that follows the job removes the same files when the job has ended, maybe at this moment.
            with suppress(FileNotFoundError):
                shutil.rmtree(left[0]) if left[0].is_dir() else left[0].unlink()
        return removed

    def commands(self) -> dict[str, list[str]]:
        """Return what every node runs."""
        return {"node": scripts.node(self.sweep, 1).splitlines()}

    def _jobs(self) -> list[jobs.Job]:
        return jobs.jobs(cluster_name(self.sweep))

    def _leftovers(self, folder: Path) -> list[Path]:
        """Return what launches have put into the folder, without logs, and without the user's own files."""
        return [path for path in sorted(folder.glob("*")) if OURS.fullmatch(path.name)]

    def _end(self, *, in_order: bool) -> None:
        """End every job of the sweep and wait until the queue has none; if in order, for as long as that may take."""
        for job in self._jobs():
            jobs.end(job, in_order=in_order)
        left = self.waiting.until_none(self._jobs, GRACE_SECONDS if in_order else GONE_SECONDS)
        if left and not in_order:
            raise UserError(f"Slurm does not end {', '.join(map(str, left))}; ask Slurm's administrators")


@contextmanager
def _explain_shared_folder() -> Iterator[None]:
    """Turn an error in the folder that all nodes share into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cluster.folder: {error}; give a folder that all nodes share and that you may write to"
        ) from None
