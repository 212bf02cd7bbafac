"""What was launched, read back from its record in the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sweep.faults import UserError
from sweep.ledger import Ledger, Record
from sweep.plan import Platform
from sweep.spec import Sweep, recorded


def read_back(
    record: Record, ledger: Ledger, number: int, storage: str, beside: Sequence[str] = ()
) -> tuple[Sweep, Platform]:
    """A launch and what it runs on.

    Args:
        record: of the launch.
        ledger: that it is from.
        number: of the launch.
        storage: address of its store as it is reached from here.
        beside: what else of the record will be made use of.

    Raises:
        UserError: naming everything in it that this version of sweep, or this machine, cannot make use of.
    """
    faults = [f"{name}: must be given" for name in ("sweep", "platform", *beside) if name not in record]
    sweep = platform = None
    if "sweep" in record:
        try:
            sweep = recorded(record["sweep"], storage)
        except UserError as error:
            faults += error.faults
    if "platform" in record:
        try:
            platform = Platform.from_dict(record["platform"])
        except (AttributeError, KeyError, TypeError) as error:
            faults.append(f"platform: {type(error).__name__}: {error}")
    if faults or sweep is None or platform is None:
        commit = record.get("commit")
        heading = (
            f"launch {number} of sweep {ledger.sweep} in {ledger.store.url} cannot be read by this version of sweep; "
            f"the launch was of {f'commit {commit}' if commit else 'another'}: launch it again, or use that one"
        )
        raise UserError(faults, heading=heading)
    return sweep, platform


def launches(ledger: Ledger, storage: str) -> Iterator[tuple[Sweep, Platform]]:
    """Every launch of the ledger's sweep, oldest first.

    Raises:
        UserError: as `read_back`.
    """
    for number, record in enumerate(ledger.specs(), 1):
        yield read_back(record, ledger, number, storage)


def last_launch(ledger: Ledger, storage: str) -> tuple[Sweep, Platform] | None:
    """The last one, whatever the others are; None where there is none.

    Raises:
        UserError: as `read_back`.
    """
    records = ledger.specs()
    return read_back(records[-1], ledger, len(records), storage) if records else None
