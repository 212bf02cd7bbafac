"""Children that do not outlive their parent, and are not lost while they are being started; what ends processes."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

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


@contextmanager
def on_interrupt(by: Callable[[], None]) -> Iterator[None]:
    """What Ctrl-C, or SIGTERM, does meanwhile."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        by()

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def at_once() -> None:
    """Before trials run there is nothing to wait for.

    Not while a process is being started: an exception that falls into a fork's hooks is dropped by
    Python, and leaves logging's lock taken for ever.
    """
    raise KeyboardInterrupt


ENDINGS = (signal.SIGTERM, signal.SIGHUP)  # beside Ctrl-C: a service that stops, a terminal that is closed


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and a closed terminal are what Ctrl-C is, but for those that are ignored, as `nohup` has it."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGHUP:  # the shell and the kernel both send it, and that is no second interruption
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    heeded = [number for number in ENDINGS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _noticing(number: int) -> Iterator[threading.Event]:
    """Make a signal stop the launch in order, and notice that it came."""
    came = threading.Event()

    def notice(number: int, frame: FrameType | None) -> None:
        del number, frame
        came.set()
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(number, notice)
    try:
        yield came
    finally:
        signal.signal(number, before)
