"""Resume state of one trial: written while training continues, and read again after a crash.

    trials/<key>/checkpoint/<n>.pt        a resume state, either complete or absent
    trials/<key>/checkpoint/latest.json   path and hash of the newest state; replaced after that state is written
    trials/<key>/lease                    lease: only its holder writes the two above

Two runs of one trial compute the same result, so losing the lease costs resume states, never a result.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import torch

from sweep.errors import shown
from sweep.redaction import hide_secrets
from sweep.store.base import ObjectNotFound, Store, StoreError
from sweep.store.lease import TTL_SECONDS, Lease, LeaseHeld
from sweep.store.records import Shape, mismatch, parse_json

State = dict[str, Any]
_LATEST: Shape = {"path": str, "number": int, "sha256": str}
_STATE = re.compile(r"[0-9]{6,9}\.pt")


class Checkpoints:
    """Writer and reader of the resume states of one trial.  Writes run in a thread, at most every `seconds`.

    Args:
        store: store that holds them.
        key: key of the trial.
        owner: name of the writer, for the lease.
        seconds: least time between two writes.
        clock: monotonic seconds.
    """

    def __init__(
        self, store: Store, key: str, owner: str, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store, self._seconds, self._clock = store, seconds, clock
        self._folder = f"trials/{key}/checkpoint"
        self._lease = Lease(store, f"trials/{key}/lease", owner, ttl_seconds=TTL_SECONDS + 2 * seconds)
        self._held = False
        self._last = clock()
        self._number = 0
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    @property
    def due(self) -> bool:
        """True if the last write has ended, and enough time has passed since it began."""
        idle = self._writing is None or self._writing.done()
        return idle and self._clock() - self._last >= self._seconds

    def load(self) -> State | None:
        """Return the newest state; None if there is none, or if it is damaged, which is said.

        A trial whose state is damaged starts from the beginning: a state is only there to save time.
        """
        try:
            data = self._store.get(f"{self._folder}/latest.json")
        except ObjectNotFound:
            return None
        try:
            latest = parse_json(data)
            if (problem := mismatch(latest, _LATEST)) is not None:
                raise ValueError(problem)
            self._number = latest["number"]
            if not _STATE.fullmatch(latest["path"].removeprefix(f"{self._folder}/")):
                raise ValueError(f"{shown(latest['path'])} is the path of no state")
            data = self._store.get(latest["path"])
            if hashlib.sha256(data).hexdigest() != latest["sha256"]:
                raise ValueError("its SHA-256 differs")
            state = torch.load(io.BytesIO(data), weights_only=True)
            if not isinstance(state, dict):
                raise ValueError("it is no state")
            return state
        except ObjectNotFound:
            self.discard("it is missing")
        except StoreError:
            raise  # the store failed, not the state
        except Exception as error:  # noqa: BLE001  (torch raises anything for damaged bytes)
            self.discard(f"{type(error).__name__}: {error}")
        return None

    def discard(self, why: str) -> None:
        """Say that the newest state is of no use, so that the trial starts from the beginning.

        Args:
            why: what is wrong with it.
        """
        self._number = max(1, self._number)  # so that `remove` deletes it
        reason = hide_secrets(why.strip().split("\n")[0][:300])
        print(f"{self._folder}: the resume state cannot be used ({reason}); the trial starts again", file=sys.stderr)

    def write(self, state: State) -> None:
        """Start to write a state, which must not change any more.  `finish` waits for the end of the write."""
        self.finish()
        self._last = self._clock()
        self._thread = self._thread or ThreadPoolExecutor(1, "checkpoint")
        self._writing = self._thread.submit(self._write, state)

    def finish(self) -> None:
        """Wait for a write that has not ended yet.

        Raises:
            StoreError: the write failed.
        """
        if self._writing is not None:
            self._writing.result()

    def remove(self) -> None:
        """Delete all states and the lease; call it after the trial's result is stored."""
        self.finish()
        wrote = self._held
        self.close()
        if wrote or self._number:
            self._store.delete_tree(self._folder)
            self._store.delete(self._lease.path)

    def close(self) -> None:
        """Stop the writing thread and release the lease."""
        if self._thread is not None:
            self._thread.shutdown()
        if self._held:
            with suppress(StoreError):  # the lease expires by itself, and nothing of the trial depends on it any more
                self._lease.release()
            self._held = False

    def _write(self, state: State) -> None:
        if not self._may_write():
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        self._number += 1
        path = f"{self._folder}/{self._number:06d}.pt"
        self._store.put(path, data)
        latest = {"path": path, "number": self._number, "sha256": hashlib.sha256(data).hexdigest()}
        self._store.put(f"{self._folder}/latest.json", json.dumps(latest).encode())
        for name in self._store.names(self._folder):
            if name.endswith(".pt") and name < f"{self._number:06d}.pt":
                self._store.delete(f"{self._folder}/{name}")

    def _may_write(self) -> bool:
        try:
            self._held = self._lease.renew() if self._held else self._lease.acquire()
        except LeaseHeld:
            return False
        return self._held
