"""Children that do not outlive their parent, and are not lost while they are being started; what ends processes."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PR_SET_PDEATHSIG = 1
TERM_SUSPENDS = (
    "SWEEP_TERM_SUSPENDS"  # environment variable of a place that ends processes by SIGTERM to run them again
)
DIES_WITH_PARENT = sys.platform == "linux"  # even when the parent is killed; elsewhere nobody promises that


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills this process when its parent ends."""
    if DIES_WITH_PARENT:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def term_suspends() -> bool:
    """Whether SIGTERM comes from a place that takes a machine back and goes on later, not from who ends a launch."""
    return os.environ.get(TERM_SUSPENDS) == "1"


@contextmanager
def not_interrupted() -> Iterator[None]:
    """A signal that would end this process comes after the block: in the midst of a fork it would lose the child."""
    if threading.current_thread() is not threading.main_thread():  # signals come to the main thread alone
        yield
        return
    came: list[int] = []
    endings = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in endings}
    try:
        yield
    finally:
        for number, action in before.items():
            signal.signal(number, action)
    if came:
        signal.raise_signal(came[0])
