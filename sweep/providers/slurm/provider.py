"""Slurm as a place: one job for a sweep, which makes Ray on its nodes and requeues itself at its walltime."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sweep.console import duration, say
from sweep.errors import AlreadyRuns, UserError
from sweep.providers.base import BY_THE_CLOCK, Waiting
from sweep.providers.local_files import cluster_name, private_text
from sweep.providers.shipping import this_tree
from sweep.providers.slurm import jobs, scripts
from sweep.spec.sweep import Sweep

SETTLE_SECONDS = 5.0  # for a job that has ended its sweep to leave the queue
GRACE_SECONDS = 90.0  # for trials to write their resume state, when a job is taken down
GONE_SECONDS = 120.0  # for Slurm to end a job


@dataclass(frozen=True)
class SlurmProvider:
    """The job of one sweep.

    Attributes:
        sweep: whose it is.
        waiting: for what is ended.
    """

    sweep: Sweep
    waiting: Waiting = BY_THE_CLOCK

    def make(self, console: Console, deadline: float | None) -> float | None:
        """See Place.  The code and a secret, where all nodes see them; a job that still waits is taken out."""
        folder = scripts.folder_of(self.sweep)
        shipment = this_tree()
        for job in self._jobs():
            say(console, f"{job}: removed, for the code that goes with it is replaced")
        self._end(in_order=False)
        with _explain_shared_folder():
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.path.chmod(0o700)
            shipment.copy_to(folder.code)
            private_text(folder.token, secrets.token_hex(32))
        say(console, f"code: {len(shipment.files)} files, {shipment.size / 2**20:.1f} MB, in {folder.code}")
        return deadline

    def submit(self, number: int) -> None:
        """See Place.  The job waits in Slurm's queue, or runs."""
        run = scripts.folder_of(self.sweep).run(number)
        if found := self._jobs():
            if not run.exists():
                raise AlreadyRuns(f"{found[0]} is another launch of sweep {self.sweep.name}")
            return
        with _explain_shared_folder():
            run.mkdir(parents=True, exist_ok=True)
            (run / "node.sh").write_text(scripts.node(self.sweep, number))
        jobs.submit(scripts.job(self.sweep, number))

    def alive(self) -> bool | None:
        """See Place.  Also while the job waits, for the first time or at its walltime."""
        try:
            return bool(self._jobs())
        except UserError:
            return None

    def standing(self) -> list[str]:
        """See Place."""
        folder = scripts.folder_of(self.sweep).path
        return [*map(str, self._jobs()), *([f"{folder}, but for its logs"] if self._leftovers(folder) else [])]

    def tear_down(self, console: Console) -> list[str]:
        """See Place.  Logs stay."""
        removed = self.standing()
        self.waiting.until_none(self._jobs, SETTLE_SECONDS)
        running = [job for job in self._jobs() if job.state == "RUNNING"]
        if running:
            say(console, f"{running[0]}: its trials write their resume state, at most {duration(GRACE_SECONDS)}")
            self._end(in_order=True)
        self._end(in_order=False)
        for path in self._leftovers(scripts.folder_of(self.sweep).path):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return removed

    def commands(self) -> dict[str, list[str]]:
        """See Place."""
        return {"node": scripts.node(self.sweep, 1).splitlines()}

    def _jobs(self) -> list[jobs.Job]:
        return jobs.jobs(cluster_name(self.sweep))

    def _leftovers(self, folder: Path) -> list[Path]:
        return [path for path in sorted(folder.glob("*")) if path.suffix != ".log"]

    def _end(self, *, in_order: bool) -> None:
        """End every job of the sweep and wait until the queue knows none; in order, for as long as that may take."""
        for job in self._jobs():
            jobs.end(job, in_order=in_order)
        left = self.waiting.until_none(self._jobs, GRACE_SECONDS if in_order else GONE_SECONDS)
        if left and not in_order:
            raise UserError(f"Slurm does not end {', '.join(map(str, left))}; ask who runs it")


@contextmanager
def _explain_shared_folder() -> Iterator[None]:
    """What cannot be written where all nodes see it is a problem of the user's."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cluster.folder: {error}; name one that all nodes see and you may write to") from None
