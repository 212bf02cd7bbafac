"""Base class of every launch: on this machine, on other machines, and on a head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from sweep.console import duration
from sweep.engine.loop import TrialLoop
from sweep.errors import UserError
from sweep.plan.datasets import put_into, unusable
from sweep.plan.expand import Work
from sweep.plan.platform import Platform
from sweep.spec.sweep import Sweep
from sweep.store.base import Store
from sweep.store.lease import Lease, LeaseHeld
from sweep.store.ledger import Ledger, Record


@dataclass(frozen=True)
class Prepared:
    """A sweep that is ready to be launched.

    Attributes:
        sweep, work, platform: sweep that is run, its trials, and their platform.
        store, ledger: store and ledger of the sweep.
        console: for progress.
    """

    sweep: Sweep
    work: Work
    platform: Platform
    store: Store
    ledger: Ledger
    console: Console

    def lease(self, owner: str) -> Lease:
        """Return the lease of the sweep; it is not acquired yet."""
        return Lease(self.store, f"sweeps/{self.sweep.name}/lease", owner)

    def loop(
        self,
        number: int,
        provenance: Record,
        *,
        log_command: Callable[[str], str],
        skip_failed: bool,
        exhausted: Callable[[], str | None],
        **hooks: Any,
    ) -> TrialLoop:
        """Return the loop over all trials of launch `number`; the arguments and `hooks` are fields of `TrialLoop`."""
        return TrialLoop(
            sweep=self.sweep,
            work=self.work,
            platform=self.platform,
            ledger=self.ledger,
            console=self.console,
            log_command=log_command,
            skip_failed=skip_failed,
            number=number,
            provenance=provenance,
            exhausted=exhausted,
            **hooks,
        )

    def refusal(self, held: LeaseHeld) -> UserError:
        """Return the error for a sweep that another launch is running."""
        return UserError(
            f"sweep {self.sweep.name} is being launched by {held.owner}, for {duration(held.age)}: "
            "wait until it ends, or give this one another name with --set sweep.name=NAME"
        )


def put_missing(sweep: Sweep, store: Store, console: Console) -> None:
    """Put every dataset of a sweep that its store does not have, or whose manifest is damaged.

    Raises:
        UserError: names every source that cannot be read here, with the fix.
    """
    problems: list[str] = []
    for name in unusable(store, sweep):
        try:
            put_into(store, sweep, name, console)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
