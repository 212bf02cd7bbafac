"""A Ray cluster that exists: the sweep is one of its jobs, and only this job is ever stopped."""

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
from sweep.providers.base import Environment, Provider
from sweep.providers.existing import checks, dashboard
from sweep.providers.finding import Finding
from sweep.providers.local_files import cluster_name
from sweep.providers.shipping import this_tree
from sweep.spec.cluster import ClusterSection, Existing
from sweep.spec.ray_settings import RAY_SETTINGS

GRACE_SECONDS = 120  # time that Ray gives a job to end, so that trials can write their resume state
GONE_SECONDS = GRACE_SECONDS + 60.0  # time to wait until a job has ended


class ExistingProvider(Provider[Existing]):
    """The job of one sweep on a Ray cluster."""

    section: ClassVar[type[ClusterSection]] = Existing

    def platform(self) -> Platform:
        """Return the platform of the trials: as in the YAML, or on the nodes that the cluster has now."""
        return dashboard.platform(self.sweep)

    def findings(self, *, fix: bool) -> Iterator[Finding]:
        """Check that the cluster answers, its version of Ray and its nodes; `fix` has no effect."""
        yield from checks.findings(self.sweep)

    def environment(self) -> Environment:
        """Return the environment of the cluster's image."""
        return Environment(False, False, f"cluster.python, {self.cluster.python},")

    def provision(self, status: SweepStatus, console: Console, deadline: float | None) -> float | None:
        """Check the version of Ray, and stop a job of an earlier launch; nothing is made."""
        wrong = checks.version(self.cluster)
        if wrong.state != "ok":
            raise UserError(f"cluster.address: {wrong.found}; {wrong.fix}")
        this_tree()
        for job in self._end():
            say(console, f"{job}: ended")
        return deadline

    def submit(self, number: int) -> None:
        """Submit the job.  Its name contains the number of the launch, so it cannot be submitted twice."""
        name, known = self._job(number), self._names()
        if name in known:
            return
        if _running(known):
            raise AlreadyRuns(f"the cluster runs another launch of sweep {self.sweep.name}")
        with tempfile.TemporaryDirectory(prefix="sweep-code-") as scratch:
            folder = Path(scratch) / "code"
            this_tree().copy_to(folder)
            environment = {**RAY_SETTINGS, **self.cluster.environment_variables}
            del environment["RAY_AUTH_MODE"]  # the cluster has its own setting
            environment["RAY_JOB_STOP_WAIT_TIME_S"] = str(GRACE_SECONDS)
            with self._asking("accept the job"):
                self._client().submit_job(
                    entrypoint=self.entrypoint(number),
                    submission_id=name,
                    runtime_env={"working_dir": str(folder), "env_vars": environment},
                    metadata={"sweep": self.sweep.name, "launch": str(number)},
                )

    def entrypoint(self, number: int) -> str:
        """Return the command line of the job; it runs in the job's own folder on the cluster's head."""
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
        """Return True if a job of this sweep waits or runs; None if the cluster does not answer."""
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
        """Stop the jobs of the sweep, and wait for their end.  Returns their names."""
        found = self._running()
        if not found:
            return []
        with self._asking("stop the job"):
            client = self._client()
            for name in found:
                client.stop_job(name)
        if left := self.waiting.until_none(self._running, GONE_SECONDS):
            raise UserError(f"Ray does not stop {', '.join(left)}; try: ray job stop {next(iter(left))}")
        return list(found)

    def _running(self) -> dict[str, str]:
        """Return the jobs of this sweep that have not ended, with their state."""
        return _running(self._names())

    def _names(self) -> dict[str, str]:
        ours = f"{cluster_name(self.sweep)}-"
        jobs = dashboard.jobs(self.cluster)
        return {name: state for name, state in jobs.items() if name.startswith(ours)}

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Turn the errors that Ray's client raises if the cluster refuses or is not reached into a UserError."""
        try:
            yield
        except (RuntimeError, OSError, ValueError) as error:
            raise UserError(f"cluster.address: {self.cluster.address} does not {what}: {error}") from None

    def _client(self) -> Any:
        from ray.job_submission import JobSubmissionClient  # importing it takes more than a second

        return JobSubmissionClient(self.cluster.address, headers=dashboard.headers())


def _running(jobs: Mapping[str, str]) -> dict[str, str]:
    return {name: state for name, state in jobs.items() if state in ("PENDING", "RUNNING")}
