"""The driver: run one launch of a sweep on the head of a Ray cluster that exists.

    python -m sweep.launch.head STORAGE SWEEP NUMBER

It reads the launch from the store (`sweeps/SWEEP/specs/NUMBER.json`), and attaches to the cluster at RAY_ADDRESS, or on
this machine.  It runs until no trial is left, and puts the report into the store.  While it runs, it writes its
status to `sweeps/SWEEP/head.json`.

It ends with an exit code of `sweep.errors`.  Any other exit code means that it crashed: it can be started again, and
goes on where it was.  SIGTERM and Ctrl-C stop it in order: trials write their resume state.  For other signals see
`sweep.launch.head.supervisor`.
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

from sweep.errors import INTERRUPTED, USER_ERROR
from sweep.redaction import hide_secrets

if TYPE_CHECKING:
    from rich.console import Console

DIED = 70  # EX_SOFTWARE: no outcome of the launch, so the supervisor starts the driver again
WIDTH = 120  # columns of the log


def main(storage: str, sweep_id: str, number: int) -> int:
    """Run the launch, and return its exit code.

    After a crash the code is `DIED`, not Python's own 1, which would mean a problem of the user.
    """
    try:
        from sweep.console import SafeConsole, write_anything

        write_anything()
        console = SafeConsole(highlight=False, width=WIDTH, force_terminal=False)
        return _run(storage, sweep_id, number, console)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BaseException:  # noqa: BLE001  (such as a package that is missing)
        print(hide_secrets(traceback.format_exc()), end="", file=sys.stderr)
        return DIED


def _run(storage: str, sweep_id: str, number: int, console: Console) -> int:
    from data.errors import DataError
    from sweep.errors import UserError
    from sweep.launch.head.run import HeadLaunch
    from sweep.store.base import StoreError, StoreUnreachable

    try:
        return HeadLaunch.open(storage, sweep_id, number, console).run()
    except StoreUnreachable as error:  # it can go on when the store answers, so this is no outcome
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        return DIED
    except (UserError, StoreError, DataError) as error:
        console.print(f"error: {hide_secrets(str(error))}", markup=False, soft_wrap=True)
        return USER_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
