"""The contract of every place that a sweep runs on elsewhere than in this process's machine.

A place makes machines, or reaches those that are there, starts the sweep's supervisor on the head, and
takes down what it made.  The sweep's truth is the store: nothing else passes between here and the head.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from rich.console import Console

from sweep.store.launch_status import Node


class Provider(Protocol):
    """Machines of one sweep.  Every method may raise UserError, saying what is wrong and the fix."""

    def make(self, console: Console, deadline: float | None) -> float | None:
        """Machines, code and Ray up on the head.

        Again: a head that is up is kept as it was made, its code is brought up to date and Ray is not
        restarted; what is left of one that is gone is removed first.  Where the head is a job that `submit`
        makes, nothing is up before, and the job of an earlier launch is ended.  Whatever this raises, `tear_down`
        removes what it had made by then.

        Args:
            console: told what is being done.
            deadline: when every machine shall be gone, in seconds since 1970; None: no limit.

        Returns:
            When the driver has to stop in order, so that all is gone by the deadline; earlier where
            machines of an earlier launch are kept.  None: no limit.
        """

    def submit(self, number: int) -> None:
        """Start the supervisor of launch `number` on the head, detached from here.

        Again: one that runs is left alone.  Returns when it is known to run.

        Raises:
            AlreadyRuns: the supervisor of another launch runs there.
        """

    def alive(self) -> bool | None:
        """Whether the head's machine is up; None where that cannot be found out now."""

    def standing(self) -> list[str]:
        """What `tear_down` would remove, one line each; never none where that cannot be found out."""

    def tear_down(self, console: Console) -> list[str]:
        """Remove everything that was made for this sweep, whatever state it is in; again: nothing is left.

        Needs neither the head nor the store.

        Args:
            console: told what is being waited for.

        Returns:
            what was found and removed, one line each.
        """

    def commands(self) -> dict[str, list[str]]:
        """What is run on machines, in the shell's words by kind of machine; asks nobody."""


Bill = Callable[[], list[Node] | None]  # machines of the sweep as its place lists them, None when it does not answer


Refused = Callable[[], str | None]  # what a place last answered when it gave no machine, None once it gives one


POLL_SECONDS = 1.0


Left = TypeVar("Left")


@dataclass(frozen=True)
class Waiting:
    """For what takes seconds.

    Attributes:
        clock, sleep: monotonic seconds, and letting some pass.
    """

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def until_none(self, look: Callable[[], Left], seconds: float) -> Left:
        """Look every second until nothing is there any more, or for so long; what was there at last."""
        until = self.clock() + seconds
        while (left := look()) and self.clock() < until:
            self.sleep(POLL_SECONDS)
        return left


BY_THE_CLOCK = Waiting()
