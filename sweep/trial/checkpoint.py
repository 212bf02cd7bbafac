"""Resume state of one trial: written beside the training loop, found again after a crash.

    trials/<key>/checkpoint/<n>.pt        a state, complete or absent
    trials/<key>/checkpoint/latest.json   points at the newest, with its hash; flipped after the write
    trials/<key>/lease                    whose holder alone writes the two above

Two runs of one trial compute the same, so a lost lease costs resume states, never a result.
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
from sweep.store.lease import TTL_SECONDS, Held, Lease

State = dict[str, Any]


class Checkpoints:
    """Writes the resume states of one trial, in a thread of its own, at most every `seconds`.

    Args:
        store: where they are kept.
        key: of the trial.
        owner: who writes, for the lease.
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
        """Whether enough time has passed since the last write, which has ended."""
        idle = self._writing is None or self._writing.done()
        return idle and self._clock() - self._last >= self._seconds

    def load(self) -> State | None:
        """The newest state, None where there is none.  A damaged one is none: the trial starts anew."""
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
        """Begin to write a state that nobody changes any more; `finish` waits for it."""
        self.finish()
        self._last = self._clock()
        self._thread = self._thread or ThreadPoolExecutor(1, "checkpoint")
        self._writing = self._thread.submit(self._write, state)

    def finish(self) -> None:
        """Wait for the write under way.

        Raises:
            StoreError: if it failed.
        """
        if self._writing is not None:
            self._writing.result()

    def remove(self) -> None:
        """Delete all states and the lease, once the trial has a result."""
        self.finish()
        wrote = self._held
        self.close()
        if wrote or self._number:
            self._store.delete_tree(self._folder)
            self._store.delete(self._lease.path)

    def close(self) -> None:
        """Give the lease back."""
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
        except Held:
            return False
        return self._held
