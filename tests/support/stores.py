"""Helpers of the tests of stores and leases."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sweep.store.base import Store
from sweep.store.retry import OUTAGE_SECONDS, Outage, Retry

ROOT = Path(__file__).parents[2]


class MovedClock:
    """Monotonic clock that only waiting moves.

    Attributes:
        now: present time in seconds.
        waits: seconds of each wait.
        until: time at which `then` is called once.
    """

    def __init__(self, until: float = float("inf"), then: Callable[[], object] = lambda: None) -> None:
        self.now, self.waits = 1000.0, list[float]()
        self.until, self.then = until, then

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)
        if self.now >= self.until:
            self.until = float("inf")
            self.then()


def retry_on(clock: MovedClock, lines: list[str], seconds: float = OUTAGE_SECONDS, seed: int = 0) -> Retry:
    """Return a policy that waits on a moved clock, and adds its lines to `lines`."""
    outage = Outage(lines.append, clock, watched=False)
    return Retry(seconds, outage, clock.sleep, random.Random(seed).random)


def at_once(calls: Sequence[Callable[[], object]]) -> list[Any]:
    """Start all calls at the same moment, in threads, and return what each one returns."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def script(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a separate Python process that can import the application."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def assert_no_chain(error: BaseException) -> None:
    """Assert that a traceback of this error shows no other error above it."""
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None


def every_call(store: Store) -> list[Callable[[], object]]:
    """Return one call of each method of a store."""
    return [
        lambda: store.get("x"),
        lambda: store.exists("x"),
        lambda: store.put("x", b""),
        lambda: store.put_once("x", b""),
        lambda: store.put_if("x", b"", None),
        lambda: list(store.list("a")),
        lambda: store.names("a"),
        lambda: store.delete("x"),
        lambda: store.delete_tree("a"),
        lambda: list(store.get_many(["x", "y"])),
    ]
