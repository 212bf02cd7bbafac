"""A Ray cluster that runs already: the sweep is one of its jobs, and only that job is ended."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from sweep.console import duration, say
from sweep.errors import AlreadyRuns, UserError
from sweep.plan.platform import Platform
from sweep.plan.status import SweepStatus
from sweep.providers.base import BY_THE_CLOCK, Environment, Provider, Waiting
from sweep.providers.existing import checks, dashboard
from sweep.providers.finding import Finding
from sweep.providers.local_files import cluster_name
from sweep.providers.ray_config import SETTINGS
from sweep.providers.shipping import this_tree
from sweep.spec.cluster import ClusterSection, Existing
from sweep.spec.sweep import Sweep

GRACE_SECONDS = 120  # that Ray gives a job to end, for trials to write their resume state
GONE_SECONDS = GRACE_SECONDS + 60.0


class ExistingProvider(Provider[Existing]):
    """The job of one sweep on a Ray cluster.

    Args:
        sweep: whose job it is.
        waiting: polls for the end of a job.
    """

    section: ClassVar[type[ClusterSection]] = Existing

    def __init__(self, sweep: Sweep, waiting: Waiting = BY_THE_CLOCK) -> None:
        super().__init__(sweep)
        self.waiting = waiting

    def platform(self) -> Platform:
        """Return what trials run on: as the YAML says, else on the nodes that the cluster has now."""
        return dashboard.platform(self.sweep)

    def findings(self, *, fix: bool) -> Iterator[Finding]:
        """Check that the cluster answers, its version of Ray and its nodes; nothing can be made here."""
        yield from checks.findings(self.sweep)

    def environment(self) -> Environment:
        """Return the environment of the cluster's image."""
        return Environment(False, False, f"cluster.python, {self.cluster.python},")

    def provision(self, status: SweepStatus, console: Console, deadline: float | None) -> float | None:
        """Check the version of Ray, and end a job of an earlier launch; nothing is made."""
        wrong = checks.version(self.cluster)
        if wrong.state != "ok":
            raise UserError(f"cluster.address: {wrong.said}; {wrong.fix}")
        this_tree()
        for job in self._end():
            say(console, f"{job}: ended")
        return deadline

    def submit(self, number: int) -> None:
        """Submit the job under the name of the launch, so that it is submitted once."""
        name, known = self._job(number), self._names()
        if name in known:
            return
        if _running(known):
            raise AlreadyRuns(f"the cluster runs another launch of sweep {self.sweep.name}")
        with tempfile.TemporaryDirectory(prefix="sweep-code-") as scratch:
            folder = Path(scratch) / "code"
            this_tree().copy_to(folder)
            environment = {**SETTINGS, **self.cluster.environment_variables}
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
            self.cluster.python,
            "-m",
            "sweep.launch.head.supervisor",
            self.sweep.storage,
            self.sweep.name,
            str(number),
        ]
        return shlex.join([*words, "--supervised", "supervised"])

    def is_alive(self) -> bool | None:
        """Return whether a job of this sweep waits or runs."""
        try:
            return bool(self._running())
        except UserError:
            return None

    def resources(self) -> list[str]:
        """Return the jobs of this sweep that wait or run."""
        return [f"job {name} of {self.cluster.address}, {state}" for name, state in self._running().items()]

    def teardown(self, console: Console) -> list[str]:
        """Stop the jobs of this sweep; the cluster stays."""
        found = self.resources()
        if found:
            say(console, f"{found[0]}: its trials write their resume state, at most {duration(GRACE_SECONDS)}")
        self._end()
        return found

    def commands(self) -> dict[str, list[str]]:
        """Return the command line of the job."""
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
        jobs = dashboard.jobs(self.cluster)
        return {name: state for name, state in jobs.items() if name.startswith(ours)}

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Ray's client says by these that the cluster refuses, or is not reached."""
        try:
            yield
        except (RuntimeError, OSError, ValueError) as error:
            raise UserError(f"cluster.address: {self.cluster.address} does not {what}: {error}") from None

    def _client(self) -> Any:
        from ray.job_submission import JobSubmissionClient  # a second and more

        return JobSubmissionClient(self.cluster.address, headers=dashboard.headers())


def _running(jobs: Mapping[str, str]) -> dict[str, str]:
    return {name: state for name, state in jobs.items() if state in ("PENDING", "RUNNING")}
