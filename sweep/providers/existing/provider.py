"""A Ray cluster that runs already as a place: the sweep is one of its jobs, and that job alone is ended."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sweep.console import duration, say
from sweep.errors import AlreadyRuns, UserError
from sweep.providers.base import BY_THE_CLOCK, Waiting
from sweep.providers.existing import checks, dashboard
from sweep.providers.local_files import cluster_name
from sweep.providers.ray_config import SETTINGS
from sweep.providers.shipping import this_tree
from sweep.spec.cluster import Existing
from sweep.spec.sweep import Sweep

GRACE_SECONDS = 120  # that Ray gives a job to end, for trials to write their resume state
GONE_SECONDS = GRACE_SECONDS + 60.0


@dataclass(frozen=True)
class ExistingProvider:
    """The job of one sweep.

    Attributes:
        sweep: whose it is.
        waiting: for what is ended.
    """

    sweep: Sweep
    waiting: Waiting = BY_THE_CLOCK

    @property
    def _cluster(self) -> Existing:
        assert isinstance(self.sweep.cluster, Existing)
        return self.sweep.cluster

    def make(self, console: Console, deadline: float | None) -> float | None:
        """See Place.  Nothing is made; a job of an earlier launch that hangs on is ended."""
        wrong = checks.version(self._cluster)
        if wrong.state != "ok":
            raise UserError(f"cluster.address: {wrong.said}; {wrong.fix}")
        this_tree()
        for job in self._end():
            say(console, f"{job}: ended")
        return deadline

    def submit(self, number: int) -> None:
        """See Place.  The job's name is the launch's, so that it is submitted once."""
        name, known = self._job(number), self._names()
        if name in known:
            return
        if _running(known):
            raise AlreadyRuns(f"the cluster runs another launch of sweep {self.sweep.name}")
        with tempfile.TemporaryDirectory(prefix="sweep-code-") as scratch:
            folder = Path(scratch) / "code"
            this_tree().copy_to(folder)
            environment = {**SETTINGS, **self._cluster.environment_variables}
            del environment["RAY_AUTH_MODE"]  # the cluster's own affair
            environment["RAY_JOB_STOP_WAIT_TIME_S"] = str(GRACE_SECONDS)
            with self._asking("take the job"):
                self._client().submit_job(
                    entrypoint=self.entrypoint(number),
                    submission_id=name,
                    runtime_env={"working_dir": str(folder), "env_vars": environment},
                    metadata={"sweep": self.sweep.name, "launch": str(number)},
                )

    def entrypoint(self, number: int) -> str:
        """The command line of the job, whose folder on the cluster's head is its own."""
        words = [
            self._cluster.python,
            "-m",
            "sweep.launch.head.supervisor",
            self.sweep.storage,
            self.sweep.name,
            str(number),
        ]
        return shlex.join([*words, "--supervised", "supervised"])

    def alive(self) -> bool | None:
        """See Place."""
        try:
            return bool(self._running())
        except UserError:
            return None

    def standing(self) -> list[str]:
        """See Place."""
        return [f"job {name} of {self._cluster.address}, {state}" for name, state in self._running().items()]

    def tear_down(self, console: Console) -> list[str]:
        """See Place.  The cluster stays."""
        found = self.standing()
        if found:
            say(console, f"{found[0]}: its trials write their resume state, at most {duration(GRACE_SECONDS)}")
        self._end()
        return found

    def commands(self) -> dict[str, list[str]]:
        """See Place."""
        return {"head": [self.entrypoint(1)]}

    def _job(self, number: int) -> str:
        return f"{cluster_name(self.sweep)}-{number}"

    def _end(self) -> list[str]:
        """Stop jobs of the sweep and wait for their end; their names."""
        found = self._running()
        if not found:
            return []
        with self._asking("stop the job"):
            client = self._client()
            for name in found:
                client.stop_job(name)
        if left := self.waiting.until_none(self._running, GONE_SECONDS):
            raise UserError(f"Ray does not end {', '.join(left)}; try: ray job stop {next(iter(left))}")
        return list(found)

    def _running(self) -> dict[str, str]:
        """Jobs of this sweep that have not ended, with their state."""
        return _running(self._names())

    def _names(self) -> dict[str, str]:
        ours = f"{cluster_name(self.sweep)}-"
        jobs = dashboard.jobs(self._cluster)
        return {name: state for name, state in jobs.items() if name.startswith(ours)}

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Ray's client says by these that the cluster refuses, or is not reached."""
        try:
            yield
        except (RuntimeError, OSError, ValueError) as error:
            raise UserError(f"cluster.address: {self._cluster.address} does not {what}: {error}") from None

    def _client(self) -> Any:
        from ray.job_submission import JobSubmissionClient  # a second and more

        return JobSubmissionClient(self._cluster.address, headers=dashboard.headers())


def _running(jobs: Mapping[str, str]) -> dict[str, str]:
    return {name: state for name, state in jobs.items() if state in ("PENDING", "RUNNING")}
