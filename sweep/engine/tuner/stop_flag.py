"""Signals that ask trials to write their resume state and end.

There are two causes.  A launch stops all trials: the stop file appears on the machine of the tuner process, and a key
in Ray's key-value store informs every other node.  Or a machine will be taken away: `spot_notice.py`
there writes a notice file.
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
POLL_SECONDS = 1.0  # time between two reads of Ray's key-value store by one process
ANSWER_SECONDS = 2.0  # timeout of a read, so that a lost head does not delay trials
NOTICE_FILE = "/run/sweep/interrupted"


class StopFlag:
    """Request to stop, as seen by the trials of one process.

    Args:
        file: path of the stop file, which exists on the machine of the tuner process once a stop is requested.
        key: key in Ray's key-value store, which is then set for all nodes.
        clock: returns monotonic seconds.
    """

    def __init__(self, file: str, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._file, self._key, self._clock = file, key.encode(), clock
        self._asked = False
        self._look_at = -math.inf

    @property
    def is_set(self) -> bool:
        """True once a stop is requested.

        Ray's store is read at most once per second.  If the head does not answer, nothing was requested.
        """
        self._asked = self._asked or os.path.exists(self._file)
        if not self._asked and self._clock() >= self._look_at:
            self._asked = self._read_key()
            self._look_at = self._clock() + POLL_SECONDS
        return self._asked

    def _read_key(self) -> bool:
        client = internal_kv_get_gcs_client()
        try:
            return (
                client is not None and client.internal_kv_get(self._key, NAMESPACE, timeout=ANSWER_SECONDS) is not None
            )
        except RayError:
            return False


@lru_cache(maxsize=1)
def flag(file: str, key: str) -> StopFlag:
    """Return the flag that all trials of a generation share in this process."""
    return StopFlag(file, key)


def is_machine_leaving() -> bool:
    """Return True if the machine of this process will be taken away soon."""
    return os.path.exists(os.environ.get("SWEEP_NOTICE_FILE", NOTICE_FILE))


@contextmanager
def announce(file: str, key: str) -> Iterator[None]:
    """Set the key in Ray's key-value store as soon as the stop file exists, while the block runs.

    Args:
        file: path of the stop file.
        key: key to set; it is deleted at the end.
    """
    client = internal_kv_get_gcs_client()
    ended = threading.Event()

    def watch_file() -> None:
        while not ended.wait(POLL_SECONDS / 4):
            if os.path.exists(file):
                with suppress(RayError):  # the next round tries again
                    client.internal_kv_put(key.encode(), b"stop", True, NAMESPACE)
                    return

    thread = threading.Thread(target=watch_file, name="stop flag", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(RayError):
            client.internal_kv_del(key.encode(), False, NAMESPACE)
