"""State and first steps that launches on this machine, elsewhere and on a head share."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console

from sweep.console import duration
from sweep.errors import UserError
from sweep.plan.datasets import put_into, unusable
from sweep.plan.expand import Work
from sweep.plan.platform import Platform
from sweep.spec.sweep import Sweep
from sweep.store.base import Store
from sweep.store.lease import Held
from sweep.store.ledger import Ledger


@dataclass(frozen=True)
class Prepared:
    """What every launch has, wherever it runs.

    Attributes:
        sweep, work, platform: what is run, on what.
        store, ledger: open, of the sweep.
        console: for progress.
    """

    sweep: Sweep
    work: Work
    platform: Platform
    store: Store
    ledger: Ledger
    console: Console


def refusal(sweep: Sweep, held: Held) -> UserError:
    """Somebody else runs this sweep."""
    return UserError(
        f"sweep {sweep.name} is being launched by {held.owner}, for {duration(held.age)}: "
        "wait for it, or give this one a name of its own with --set sweep.name=NAME"
    )


def put_missing(sweep: Sweep, store: Store, console: Console) -> None:
    """Put every dataset of the sweep that the store has not, or of which it has a damaged manifest.

    Raises:
        UserError: naming every source that cannot be read here, with the fix.
    """
    problems: list[str] = []
    for name in unusable(store, sweep):
        try:
            put_into(store, sweep, name, console)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
