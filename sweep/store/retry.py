"""Retries of calls to a store over a network: for how long, how often, and what is said meanwhile.

A call is tried again until it succeeds, fails for a reason that waiting cannot fix, or has used up its seconds.  The
waits grow from some 50 ms to 10 s, and each is random, so that the processes of a sweep do not come back all at once.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

OUTAGE_SECONDS = 300.0  # seconds after which a call is given up; `budget.outage_seconds` sets it for a sweep
FIRST_WAIT, LONGEST_WAIT = 0.1, 10.0  # most seconds of the first wait, and of any
SILENT_SECONDS = 10.0  # a call that fails for so long is reported
REPEAT_SECONDS = 30.0  # least time between two such lines of a process
RECENT_SECONDS = 120.0  # an outage without a failed try for so long is no longer known to last
SLOWEST_BYTES = 1e6  # bytes per second of an upload; a slower one is reported like a store that does not answer
LOOK_SECONDS = 1.0  # time between two looks at the requests that wait for an answer


def _say(line: str) -> None:
    """Print to standard error; ignore a closed one, because a line must never end a launch."""
    with suppress(OSError, ValueError, AttributeError):
        print(line, file=sys.stderr, flush=True)


class Transient(Exception):
    """Failure of one try that a later try may not have.  The message is one line."""


class Outage:
    """Memory of one process about a store that does not answer, and the lines that say so.

    One line is printed after `SILENT_SECONDS`, then one every `REPEAT_SECONDS`, and one when the store answers again.

    Args:
        say: prints a line.
        clock: monotonic seconds.
        watched: True to report a request without an answer even before it has failed, from a thread.
    """

    def __init__(
        self,
        say: Callable[[str], None] = _say,
        clock: Callable[[], float] = time.monotonic,
        *,
        watched: bool = True,
    ) -> None:
        self.clock = clock
        self._say, self._watched = say, watched
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked child must: its parent's lock may be held, and its parent's thread does not exist."""
        self._lock = threading.Lock()
        self._since: float | None = None  # start of the first call that failed since the last answer
        self._failed_at = self._said_at = float("-inf")
        self._said = False
        self._requests: dict[object, tuple[str, float, float]] = {}  # where, sent at, overdue at
        self._watch: threading.Thread | None = None

    @property
    def lasts(self) -> bool:
        """True if the store did not answer the last try of this process."""
        return self._since is not None and self.clock() - self._failed_at < RECENT_SECONDS

    def failed(self, where: str, since: float, why: str) -> None:
        """Take note that a call fails.

        Args:
            where: address of the store.
            since: time at which the call began.
            why: what is wrong, as one line.
        """
        now = self.clock()
        with self._lock:
            self._failed_at = now
            self._since = since if self._since is None else min(since, self._since)
            lasts = now - self._since
            if lasts < SILENT_SECONDS or now - self._said_at < REPEAT_SECONDS:
                return
            self._said_at, self._said = now, True
        self._say(f"{where} has not answered as it should for {lasts:.0f} s, trying again: {why}")

    def answered(self, where: str) -> None:
        """Take note that the store answers."""
        if self._since is None:
            return
        with self._lock:
            since, self._since = self._since, None
            said, self._said = self._said, False
        if said and since is not None:
            self._say(f"{where} answers again, after {self.clock() - since:.0f} s")

    @contextmanager
    def waiting(self, where: str, size: int = 0) -> Iterator[None]:
        """Report the request of this block if its answer does not come; `size` bytes are sent with it."""
        entry, now = object(), self.clock()
        self._requests[entry] = (where, now, now + SILENT_SECONDS + size / SLOWEST_BYTES)
        if self._watched and (self._watch is None or not self._watch.is_alive()):
            self._watch = threading.Thread(target=self._look_again, name="store outage", daemon=True)
            self._watch.start()
        try:
            yield
        finally:
            del self._requests[entry]

    def look(self) -> None:
        """Report the requests whose answer is overdue."""
        now = self.clock()
        for where, sent, overdue in list(self._requests.values()):
            if now >= overdue:
                self.failed(where, sent, "no answer yet")

    def _look_again(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            self.look()


OUTAGE = Outage()  # of this process: many threads and stores must not all say the same
os.register_at_fork(after_in_child=OUTAGE.forget)


@dataclass(frozen=True)
class Retry:
    """Policy by which a call is tried again.

    Attributes:
        seconds: no try begins later than so many seconds after the first one.
        outage: is told how the tries end; has the clock.
        sleep: lets seconds pass; returns True if the call is to be given up.
        jitter: returns a random number from 0 to 1.
    """

    seconds: float = OUTAGE_SECONDS
    outage: Outage = OUTAGE
    sleep: Callable[[float], object] = time.sleep
    jitter: Callable[[], float] = random.random

    def call(self, where: str, attempt: Callable[[], T]) -> T:
        """Call `attempt` until it raises no `Transient`.

        Args:
            where: address of the store.
            attempt: one try; another exception than `Transient` is an answer, and ends the call.

        Raises:
            Transient: the last try failed, and the seconds are used up.
        """
        began = self.outage.clock()
        for number in itertools.count():
            try:
                value = attempt()
            except Transient as error:
                self.outage.failed(where, began, str(error))
                left = began + self.seconds - self.outage.clock()
                if left <= 0 or self._wait(min(left, self._pause(number)), where, began, str(error)):
                    raise
            except Exception:
                self.outage.answered(where)
                raise
            else:
                self.outage.answered(where)
                return value
        raise AssertionError("the tries have no end of their own")

    def _pause(self, number: int) -> float:
        return self.jitter() * min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(number, 30))

    def _wait(self, seconds: float, where: str, began: float, why: str) -> bool:
        """Wait, in steps that keep the lines on time.  Returns True if the call is to be given up."""
        until = self.outage.clock() + seconds
        while (left := until - self.outage.clock()) > 0:
            if self.sleep(min(left, LOOK_SECONDS)):
                return True
            self.outage.failed(where, began, why)
        return False
