"""Print free ports of this machine on one line: `python -m sweep.providers.slurm.ports COUNT`."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack


def free(count: int) -> list[int]:
    """Return this number of different free ports, chosen by the system.  They are not reserved."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    print(*free(int(sys.argv[1])))
