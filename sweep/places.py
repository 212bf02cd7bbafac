"""The contract of every place that a sweep runs on elsewhere than in this process's machine.

A place makes machines, or reaches those that are there, starts the sweep's supervisor on the head, and
takes down what it made.  The sweep's truth is the store: nothing else passes between here and the head.
"""

from __future__ import annotations

from typing import Protocol

from rich.console import Console

from sweep.providers import Aws, Existing, Local, OnPrem, Slurm
from sweep.spec import Sweep
from sweep.status import Survey


class Place(Protocol):
    """Machines of one sweep.  Every method may raise UserError, saying what is wrong and the mend."""

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


def pinned(sweep: Sweep) -> Sweep:
    """The sweep with the machine image that `auto` stands for now, so that the record of a launch names it.

    Raises:
        UserError: nobody says which that is.
    """
    if not isinstance(sweep.cluster, Aws):
        return sweep
    from sweep.aws import resolve

    return sweep.model_copy(
        update={"cluster": sweep.cluster.model_copy(update={"image": resolve.image(sweep.cluster)})}
    )


def place_of(sweep: Sweep, survey: Survey | None = None) -> Place | None:
    """The place of a sweep; None for this machine, where a launch runs in its own process.

    Args:
        sweep: whose `cluster` says where.
        survey: what is left to run, for the number of machines; only `make` needs it.
    """
    match sweep.cluster:
        case Local():
            return None
        case Aws():
            from sweep.aws.place import AwsPlace  # boto3 costs half a second

            return AwsPlace(sweep, survey)
        case OnPrem():
            from sweep.onprem.place import OnPremPlace

            return OnPremPlace(sweep)
        case Slurm():
            from sweep.slurm.place import SlurmPlace

            return SlurmPlace(sweep)
        case Existing():
            from sweep.existing.place import ExistingPlace

            return ExistingPlace(sweep)
