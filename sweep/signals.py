"""Signals and child processes: children end with their parent, and interruptions stop a launch in order."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

PR_SET_PDEATHSIG = 1
TERM_SUSPENDS = "SWEEP_TERM_SUSPENDS"  # environment variable; "1" if the provider sends SIGTERM and later runs us again
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], Any]
DIES_WITH_PARENT = sys.platform == "linux"  # even if the parent is killed; other systems do not offer this


def die_with_parent(by: int = signal.SIGKILL) -> None:
    """Ask the kernel to send a signal to this process when its parent ends; for `preexec_fn`."""
    if DIES_WITH_PARENT:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)


def term_suspends() -> bool:
    """Return True if SIGTERM means that the provider takes the machine back, and the launch goes on later.

    Otherwise SIGTERM is a request to end the launch.
    """
    return os.environ.get(TERM_SUSPENDS) == "1"


@contextmanager
def handling(handlers: Mapping[int, Handler]) -> Iterator[None]:
    """Install signal handlers while the block runs, and restore the former ones at its end."""
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def not_interrupted() -> Iterator[None]:
    """Delay signals that would end this process until the block has ended.

    An interruption in the middle of a fork would lose track of the child.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield
        return
    came: list[int] = []
    with handling(dict.fromkeys(INTERRUPTIONS, lambda number, _: came.append(number))):
        yield
    if came:
        signal.raise_signal(came[0])


@contextmanager
def on_interrupt(by: Callable[[], None]) -> Iterator[None]:
    """Call `by` on Ctrl-C or SIGTERM while the block runs."""
    with handling(dict.fromkeys((signal.SIGINT, signal.SIGTERM), lambda *_: by())):
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Treat SIGTERM and a closed terminal like Ctrl-C.  Signals that are ignored, as under `nohup`, stay ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGHUP:  # the shell and the kernel both send it; the second one must not interrupt again
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    ours = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) != signal.SIG_IGN]
    with handling(dict.fromkeys(ours, interrupt)):
        yield


@contextmanager
def stop_on(number: int) -> Iterator[threading.Event]:
    """Stop the launch in order when this signal comes; yields an event that is set then."""
    came = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        came.set()
        signal.raise_signal(signal.SIGTERM)

    with handling({number: stop}):
        yield came


def raise_interrupt() -> None:
    """Raise KeyboardInterrupt: before any trial runs there is nothing to wait for.

    Do not use it while a process is being started.  Python drops an exception that is raised inside a
    fork's hooks, and the lock of `logging` then stays taken forever.
    """
    raise KeyboardInterrupt
