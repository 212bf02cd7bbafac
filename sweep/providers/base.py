"""The contract of every provider: the machines that run the trials of one sweep.

A provider makes machines, or connects to machines that exist.  It starts the sweep's supervisor on their head, and
removes what it made.  Only the store holds the state of a sweep; this machine and the head exchange nothing else.

A new provider needs a module with a subclass of `Provider`, a section in `sweep.spec.cluster`, and a line in
`sweep.providers.registry`.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from rich.console import Console

from sweep.errors import UserError
from sweep.plan.platform import Platform
from sweep.plan.status import SweepStatus
from sweep.providers.finding import Finding
from sweep.spec.cluster import ClusterSection
from sweep.spec.sweep import Sweep
from sweep.store.base import Store
from sweep.store.launch_status import Node

POLL_SECONDS = 1.0
SectionT = TypeVar("SectionT", bound=ClusterSection)
Left = TypeVar("Left")


@dataclass(frozen=True)
class Environment:
    """The Python environment of a provider's machines.

    Attributes:
        made: True if each machine makes it from pyproject.toml.
        shared: True if it is the environment of this process, on a file system that the machines share.
        name: name of the environment in messages.
    """

    made: bool
    shared: bool
    name: str


@dataclass(frozen=True)
class Waiting:
    """Polling with a clock that tests can replace.

    Attributes:
        clock: returns monotonic seconds.
        sleep: lets seconds pass.
    """

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def until_none(self, look: Callable[[], Left], seconds: float) -> Left:
        """Call `look` every second until its result is empty, for at most `seconds`.  Returns its last result."""
        until = self.clock() + seconds
        while (left := look()) and self.clock() < until:
            self.sleep(POLL_SECONDS)
        return left


REAL_CLOCK = Waiting()


class Provider(ABC, Generic[SectionT]):
    """The machines of one sweep.  Every method may raise UserError with the cause and the fix.

    Attributes:
        sweep: sweep of the machines.
        cluster: section `cluster` of its YAML.
        waiting: polls for the end of jobs and processes.
        section: class of that section.
        knows_prices: True if `list_machines` returns prices, so that `budget.max_usd` can be enforced.
        adds_workers: True if workers are requested while a launch runs, so that it may wait for one (`last_refusal`).
        capacity_advice: what a user can do when no worker has come for half an hour; "" for nothing.
    """

    section: ClassVar[type[ClusterSection]]
    knows_prices: ClassVar[bool] = False
    adds_workers: ClassVar[bool] = False
    capacity_advice: ClassVar[str] = ""

    def __init__(self, sweep: Sweep, waiting: Waiting = REAL_CLOCK) -> None:
        self.sweep, self.waiting = sweep, waiting
        self.cluster: SectionT = section_of(sweep, self.section)  # type: ignore[assignment]  # as the subclass binds it

    # Before a launch: what a plan and a check show.  Nothing is started.

    @abstractmethod
    def platform(self) -> Platform:
        """Return the platform of the trials when all machines are up."""

    @abstractmethod
    def findings(self, *, fix: bool) -> Iterator[Finding]:
        """Check that the machines can be reached or made, and have everything that trials need.

        Args:
            fix: make what is missing and may be made.
        """

    def store_findings(self, *, fix: bool) -> Iterator[Finding]:
        """Check what the store needs before it can be tried, such as credentials.

        Args:
            fix: make what is missing and may be made.
        """
        yield from ()

    def check_launch(self) -> None:
        """Raise UserError if a launch cannot start now, although its plan is possible."""

    def environment(self) -> Environment | None:
        """Return the Python environment of trials; None if it is this process's own."""
        return None

    def commands(self) -> dict[str, list[str]]:
        """Return the shell commands that machines will run, by kind of machine.  No service is asked."""
        return {}

    def launcher_config(self, status: SweepStatus) -> str:
        """Return what `plan --ray-yaml` prints: the input of Ray's launcher, or of Slurm.

        Args:
            status: status of the sweep, which decides the number of workers.

        Raises:
            UserError: this provider has no such input.
        """
        name = self.sweep.cluster.provider
        raise UserError(
            f"--ray-yaml: provider {name} does not use Ray's launcher; use it with provider aws or onprem, or with "
            "slurm, to print its scripts"
        )

    def plan_lines(self, status: SweepStatus, store: Store, unreached: str) -> list[str]:
        """Return lines on the machines of a launch, their time and price; [] if the machines exist already.

        Args:
            status: status of the sweep.
            store: store of the sweep.
            unreached: why the store did not answer; "" if it did.
        """
        return []

    def plan_json(self, status: SweepStatus) -> dict[str, Any]:
        """Return the facts of `plan_lines` for `plan --json`, as more keys of its object."""
        return {}

    def dollars(self, status: SweepStatus, platform: Platform) -> float | None:
        """Return the expected dollars of the trials to run, machines and their start included; None without a price.

        Args:
            status: status of the sweep.
            platform: platform of its trials.
        """
        price = self.cluster.machine_price
        return None if price is None else price * status.seconds_left(platform.slots) / 3600

    def budget_caution(self) -> str:
        """Return a warning if `budget.max_usd` cannot be enforced because no price is known; "" otherwise."""
        budget = self.sweep.budget
        if budget.max_usd is None or self.knows_prices or self.cluster.machine_price is not None:
            return ""
        hours = "give it" if budget.max_hours is None else f"it is {budget.max_hours:g}"
        fix = "; or give cluster.usd_per_hour" if self.cluster.runs_here else ""
        name = self.sweep.cluster.provider
        return (
            f"budget.max_usd={budget.max_usd:g} is not enforced on provider {name}, because no price is known: "
            f"budget.max_hours is enforced there ({hours}){fix}"
        )

    # A launch on machines.

    def pin(self) -> Sweep:
        """Return the sweep with a fixed value for each `auto` that may mean something else tomorrow, e.g. the image."""
        return self.sweep

    @abstractmethod
    def provision(self, status: SweepStatus, console: Console, deadline: float | None) -> float | None:
        """Bring up machines, code and Ray on the head.

        Idempotent: if the head is up, it stays as it was made, its code is updated, and Ray is not restarted.  What is
        left of a head that is gone is removed first.  If `submit` starts the head as a job, this ends the job of an
        earlier launch.  If this method raises, `teardown` removes what it had made by then.

        Args:
            status: status of the sweep, which decides the number of workers.
            console: for progress.
            deadline: time at which every machine has to be gone, in seconds since 1970; None for no limit.

        Returns:
            The time at which the launch has to stop in order, so that all machines are gone by the deadline.  It is
            earlier if machines of an earlier launch are kept.  None for no limit.
        """

    @abstractmethod
    def submit(self, number: int) -> None:
        """Start the supervisor of launch `number` on the head, independent of this machine.

        Idempotent: if a supervisor of this launch runs, it keeps running.  Returns when the supervisor is known to run.

        Raises:
            AlreadyRuns: the supervisor of another launch runs there.
        """

    @abstractmethod
    def is_alive(self) -> bool | None:
        """Return True if the head is up, False if not; None if that is unknown now."""

    @abstractmethod
    def resources(self) -> list[str]:
        """Return one line for each thing that `teardown` would remove; if that is unknown, a line that explains it."""

    @abstractmethod
    def teardown(self, console: Console) -> list[str]:
        """Remove everything that was made for this sweep; its state does not matter.

        Idempotent.  Needs neither the head nor the store.

        Args:
            console: for progress.

        Returns:
            One line for each thing that was removed.
        """

    # What follows runs on the head, while a launch runs.

    def list_machines(self) -> list[Node] | None:
        """Return all machines of the sweep with their prices; None if the provider does not answer.

        It is called only if `knows_prices` is True.
        """
        return None

    def last_refusal(self) -> str | None:
        """Return the provider's last answer when it gave no worker; None if it has given one since.

        It is called only if `adds_workers` is True.
        """
        return None


def section_of(sweep: Sweep, section: type[SectionT]) -> SectionT:
    """Return the section `cluster` of a sweep; the caller knows its provider."""
    assert isinstance(sweep.cluster, section), f"{sweep.cluster} is of another provider than {section.__name__}"
    return sweep.cluster
