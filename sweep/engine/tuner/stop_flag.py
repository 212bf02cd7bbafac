"""How a generation's trials hear that they are to write their resume state and end.

Two causes.  All are asked to stop: a file says so where the generation runs, and Ray's key-value store on
every other node.  Or a node is about to be taken away: the machine's watcher leaves a notice on it.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache

from ray.exceptions import RayError
from ray.experimental.internal_kv import internal_kv_get_gcs_client

NAMESPACE = b"anomaly-sweep"
POLL_SECONDS = 1.0  # between two looks of one process at Ray's key-value store
ANSWER_SECONDS = 2.0  # a head that is gone must not hold trials up
NOTICE_FILE = "/run/sweep/interrupted"


class StopFlag:
    """Whether this process's trials are asked to stop.

    Args:
        file: says so by being there, on the machine where the generation runs.
        key: of Ray's key-value store.
        clock: monotonic seconds.
    """

    def __init__(self, file: str, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._file, self._key, self._clock = file, key.encode(), clock
        self._asked = False
        self._look_at = -math.inf

    @property
    def is_set(self) -> bool:
        """Ray is asked at most once a second; a head that does not answer has not asked for anything."""
        self._asked = self._asked or os.path.exists(self._file)
        if not self._asked and self._clock() >= self._look_at:
            self._asked = self._is_set()
            self._look_at = self._clock() + POLL_SECONDS
        return self._asked

    def _is_set(self) -> bool:
        client = internal_kv_get_gcs_client()
        try:
            return (
                client is not None and client.internal_kv_get(self._key, NAMESPACE, timeout=ANSWER_SECONDS) is not None
            )
        except RayError:
            return False


@lru_cache(maxsize=1)
def flag(file: str, key: str) -> StopFlag:
    """One for all trials of a generation in this process."""
    return StopFlag(file, key)


def leaving() -> bool:
    """Whether the machine that this process runs on is about to be taken away."""
    return os.path.exists(os.environ.get("SWEEP_NOTICE_FILE", NOTICE_FILE))


@contextmanager
def announce(file: str, key: str) -> Iterator[None]:
    """While the block runs, say on every node what the file says here, as soon as it is there."""
    client = internal_kv_get_gcs_client()
    ended = threading.Event()

    def announce() -> None:
        while not ended.wait(POLL_SECONDS / 4):
            if os.path.exists(file):
                with suppress(RayError):  # again, then
                    client.internal_kv_put(key.encode(), b"stop", True, NAMESPACE)
                    return

    thread = threading.Thread(target=announce, name="stop flag", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(RayError):
            client.internal_kv_del(key.encode(), False, NAMESPACE)
