"""The contract of every provider: the machines that run the trials of one sweep.

A provider provisions machines, or reaches machines that exist, starts the sweep's supervisor on their head, and removes
what it made.  The store alone holds the state of a sweep; nothing else passes between this machine and the head.

A new provider is a folder with a subclass of `Provider`, a section in `sweep.spec.cluster` and a line in
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
        made: machines make it from pyproject.toml.
        shared: it is the environment of this process, on a file system that the machines see.
        name: how a user knows it.
    """

    made: bool
    shared: bool
    name: str


class Provider(ABC, Generic[SectionT]):
    """The machines of one sweep.  Every method may raise UserError with the cause and the fix.

    Attributes:
        sweep: whose machines they are.
        cluster: the section `cluster` of its YAML.
        knows_prices: `list_machines` returns their prices, so that `budget.max_usd` can be enforced.
        adds_workers: workers are requested while a launch runs, so that it may wait for one (`last_refusal`).
    """

    section: ClassVar[type[ClusterSection]]
    knows_prices: ClassVar[bool] = False
    adds_workers: ClassVar[bool] = False

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.cluster: SectionT = section_of(sweep, self.section)  # type: ignore[assignment]  # as the subclass binds it

    # Before a launch: what a plan and a check show.  Nothing is started.

    @abstractmethod
    def platform(self) -> Platform:
        """Return what trials run on, at full scale."""

    @abstractmethod
    def findings(self, *, fix: bool) -> Iterator[Finding]:
        """Check the machines: can they be reached or made, and have they all that trials need?

        Args:
            fix: make what is missing and may be made.
        """

    def store_findings(self, *, fix: bool) -> Iterator[Finding]:
        """Check what must be ok before the store can be tried, such as credentials; arguments as for `findings`."""
        yield from ()

    def check_launch(self) -> None:
        """Raise UserError if a launch cannot start now, although its plan is possible."""

    def environment(self) -> Environment | None:
        """Return the Python environment of trials; None if it is this process's own."""
        return None

    def commands(self) -> dict[str, list[str]]:
        """Return the shell commands that machines will run, by kind of machine; asks no service."""
        return {}

    def launcher_config(self, status: SweepStatus) -> str:
        """Return what `plan --ray-yaml` prints: the input of Ray's launcher, or of Slurm.

        Raises:
            UserError: this provider has no such input.
        """
        name = self.sweep.cluster.provider
        raise UserError(
            f"--ray-yaml: provider {name} needs no launcher of Ray's; use it with provider aws or onprem, or with "
            "slurm, whose scripts it prints"
        )

    def plan_lines(self, status: SweepStatus, store: Store, unreached: str) -> list[str]:
        """Return lines on the machines of a launch, their time and price; [] if machines exist already.

        Args:
            status: what is left to run.
            store: of the sweep.
            unreached: why the store could not be reached; "" if it was.
        """
        return []

    def plan_json(self, status: SweepStatus) -> dict[str, Any]:
        """Return the same for `plan --json`, as further keys of its object."""
        return {}

    def budget_caution(self) -> str:
        """Return a warning that nothing enforces `budget.max_usd`, since no price is known; "" if it is enforced."""
        budget = self.sweep.budget
        if budget.max_usd is None or self.knows_prices or self.cluster.machine_price is not None:
            return ""
        hours = "give it" if budget.max_hours is None else f"it is {budget.max_hours:g}"
        fix = "; or give cluster.usd_per_hour" if self.cluster.runs_here else ""
        where = f"provider {self.sweep.cluster.provider}, where no price is known"
        return (
            f"budget.max_usd={budget.max_usd:g} is not enforced on {where}: budget.max_hours is enforced there "
            f"({hours}){fix}"
        )

    # A launch on machines.

    def pin(self) -> Sweep:
        """Return the sweep with `auto` values resolved that may mean another thing tomorrow, such as the image."""
        return self.sweep

    @abstractmethod
    def provision(self, status: SweepStatus, console: Console, deadline: float | None) -> float | None:
        """Bring up machines, code and Ray on the head.

        Idempotent: a head that is up is kept as it was made, its code is updated, and Ray is not restarted; what is
        left of a head that is gone is removed first.  If the head is a job that `submit` starts, this ends the job of
        an earlier launch.  If this raises, `teardown` removes what it had made by then.

        Args:
            status: what is left to run, for the number of workers.
            console: for progress.
            deadline: time at which every machine has to be gone, in seconds since 1970; None for no limit.

        Returns:
            The time at which the launch has to stop in order, so that all machines are gone by the deadline; it is
            earlier if machines of an earlier launch are kept.  None for no limit.
        """

    @abstractmethod
    def submit(self, number: int) -> None:
        """Start the supervisor of launch `number` on the head, detached from this machine.

        Idempotent: a supervisor of this launch that runs is left alone.  Returns when it is known to run.

        Raises:
            AlreadyRuns: the supervisor of another launch runs there.
        """

    @abstractmethod
    def is_alive(self) -> bool | None:
        """Return whether the head is up; None if that is unknown now."""

    @abstractmethod
    def resources(self) -> list[str]:
        """Return one line for each thing that `teardown` would remove; not empty if that is unknown."""

    @abstractmethod
    def teardown(self, console: Console) -> list[str]:
        """Remove everything that was made for this sweep, in whatever state it is.

        Idempotent.  Needs neither the head nor the store.

        Args:
            console: for progress.

        Returns:
            One line for each thing that was removed.
        """

    # On the head, while a launch runs.

    def list_machines(self) -> list[Node] | None:
        """Return all machines of the sweep with their prices; None if the provider does not answer.

        Called only where `knows_prices`.
        """
        return None

    def last_refusal(self) -> str | None:
        """Return the last answer of the provider when it gave no worker; None if it has given one since.

        Called only where `adds_workers`.
        """
        return None


def section_of(sweep: Sweep, section: type[SectionT]) -> SectionT:
    """Return the section `cluster` of a sweep of the caller's own provider."""
    assert isinstance(sweep.cluster, section), f"{sweep.cluster} is of another provider than {section.__name__}"
    return sweep.cluster


@dataclass(frozen=True)
class Waiting:
    """Polling, on a clock that tests can replace.

    Attributes:
        clock: returns monotonic seconds.
        sleep: lets seconds pass.
    """

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def until_none(self, look: Callable[[], Left], seconds: float) -> Left:
        """Call `look` every second until it returns something empty, at most for `seconds`; return its last result."""
        until = self.clock() + seconds
        while (left := look()) and self.clock() < until:
            self.sleep(POLL_SECONDS)
        return left


BY_THE_CLOCK = Waiting()
