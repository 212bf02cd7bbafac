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
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from sweep.store.base import ObjectNotFound, Store
from sweep.store.lease import TTL_SECONDS, Lease, LeaseHeld

State = dict[str, Any]


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
        """Return the newest state; None if there is none, or if it is damaged.

        A trial whose state is damaged starts from the beginning.
        """
        try:
            latest = json.loads(self._store.get(f"{self._folder}/latest.json"))
            data = self._store.get(latest["path"])
        except ObjectNotFound:
            return None
        self._number = int(latest["number"])
        if hashlib.sha256(data).hexdigest() != latest["sha256"]:
            return None
        state: State = torch.load(io.BytesIO(data), weights_only=True)
        return state

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
