"""Runs one launch of a sweep on the head of a Ray cluster that runs already.

    python -m sweep.launch.head STORAGE SWEEP NUMBER

Reads the launch from the store (`sweeps/SWEEP/specs/NUMBER.json`), attaches to the cluster at RAY_ADDRESS, else on
this machine, runs until nothing is left, and puts the report into the store.  Says where it is in
`sweeps/SWEEP/head.json`.  Ends with the exit codes of `sweep.errors`; with any other it has died, may be
started again, and goes on where it was.  SIGTERM, or Ctrl-C, ends it in order: trials write their resume state;
`sweep.launch.head.supervisor` says which other signals do.
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

from sweep.errors import INTERRUPTED, USER_ERROR

if TYPE_CHECKING:
    from rich.console import Console

DIED = 70  # EX_SOFTWARE: no outcome of the launch, so worth another start
WIDTH = 120  # of a log


def main(storage: str, sweep_id: str, number: int) -> int:
    """Run the launch; returns the exit code, never Python's own, which would read as an outcome."""
    try:
        from rich.console import Console

        console = Console(highlight=False, width=WIDTH, force_terminal=False)
        return _run(storage, sweep_id, number, console)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseException:  # noqa: BLE001  (such as a package that is missing)
        traceback.print_exc()
        return DIED


def _run(storage: str, sweep_id: str, number: int, console: Console) -> int:
    from data.errors import DataError
    from sweep.errors import UserError
    from sweep.launch.head.run import HeadLaunch
    from sweep.store.base import StoreError

    try:
        return HeadLaunch.open(storage, sweep_id, number, console).run()
    except (UserError, StoreError, DataError) as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return USER_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
