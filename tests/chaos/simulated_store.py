"""A store as simulated processes see it: slow, silent, with answers that get lost; and what may never change in it."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from random import Random
from typing import Any, TypeVar

from sweep.store.base import Store, StoreUnreachable
from tests.support.memory_store import MemoryStore
from tests.support.simulated_time import Process, Simulation

T = TypeVar("T")
OUTAGE_SECONDS = 60.0  # time after which a call is given up
LOST, DONE, LATE = "the write is lost", "its answer is lost", "it comes late"
_ONCE = re.compile(r"trials/[^/]+/(result\.json|attempts/.*)|sweeps/[^/]+/(specs|studies/.*)/[0-9]+\.json")
_COUNTED = re.compile(r"(.*/(?:attempts|specs|asks))/([0-9]+)\.json")


class Violation(AssertionError):
    """Something that must always hold does not hold."""


@lru_cache(maxsize=1000)
def parsed(data: bytes) -> dict[str, Any]:
    """Return the record of a lease."""
    record: dict[str, Any] = json.loads(data)
    return record


class GuardedStore(MemoryStore):
    """Store in memory that refuses what no interleaving of correct processes can do.

    Attributes:
        observer: is told the path of every object that was written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.observer: Callable[[str], object] = lambda _: None

    def write(self, path: str, data: bytes) -> None:
        before = self.objects.get(path)
        if _ONCE.fullmatch(path) and before is not None:
            raise Violation(f"{path} was replaced")
        if counted := _COUNTED.fullmatch(path):
            first = 0 if counted[1].endswith("asks") else 1
            if int(counted[2]) != len(self.names(counted[1])) + first:
                raise Violation(f"{path} leaves a hole")
        if path.endswith("/lease") and before is not None:
            old, new = parsed(before), parsed(data)
            same = [old[name] == new[name] for name in ("epoch", "owner", "machine", "since")]
            if new["epoch"] < old["epoch"] or (new["epoch"] == old["epoch"] and not all(same)):
                raise Violation(f"{path} of epoch {old['epoch']} was changed by another one than its holder")
        super().write(path, data)
        self.observer(path)

    def remove(self, path: str) -> None:
        if _ONCE.fullmatch(path):
            raise Violation(f"{path} was deleted")
        super().remove(path)


class Network:
    """Way between all processes and the store.

    Attributes:
        silent_until: no call of a process is answered before; None stands for all processes.
        armed: faults of the next writes, each with a text that is in the path.
        slow: seconds by which the next calls are slower.
        on_lease: is told the path of a lease whenever a process gets the answer to a change of it.
    """

    def __init__(self, simulation: Simulation, store: GuardedStore, rng: Random) -> None:
        self.simulation, self.store, self.rng = simulation, store, rng
        self.silent_until: dict[Process | None, float] = {}
        self.armed: list[tuple[str, str, float]] = []
        self.slow: list[float] = []
        self.on_lease: Callable[[str], object] = lambda _: None

    def call(self, path: str, operation: Callable[[], T], limit: float, *, write: bool) -> T:
        """Carry one call to the store and its answer back."""
        simulation, rng, limit = self.simulation, self.rng, min(limit, OUTAGE_SECONDS)
        began, process = simulation.now, simulation.process
        simulation.sleep(rng.random() * 0.1 + (min(self.slow.pop(), limit / 2) if self.slow else 0.0))
        silent = max(self.silent_until.get(process, 0.0), self.silent_until.get(None, 0.0)) - simulation.now
        if silent > 0.0:
            simulation.sleep(max(0.0, min(silent, began + limit - simulation.now)))
            if simulation.now - began >= limit - 1e-9:
                raise StoreUnreachable(f"no answer about {path}")
        armed = next((fault for fault in self.armed if write and fault[1] in path), None)
        if armed is not None:
            self.armed.remove(armed)
            if armed[0] == DONE:
                operation()
            elif armed[0] == LATE:
                simulation.at(simulation.now + armed[2], operation)
            simulation.sleep(max(0.0, began + limit - simulation.now))
            raise StoreUnreachable(f"no answer about {path}")
        value = operation()
        if rng.random() < 0.5:
            simulation.sleep(rng.random() * 0.1)
        if write and path.endswith("/lease"):
            self.on_lease(path)
        return value


class RemoteStore(Store):
    """The store, as one process sees it."""

    url = "memory"

    def __init__(self, network: Network, limit: float = OUTAGE_SECONDS) -> None:
        self._network, self._limit, self._store = network, limit, network.store

    def within(self, seconds: float) -> Store:
        return RemoteStore(self._network, seconds)

    def put_once(self, path: str, data: bytes) -> bool:
        return self._write(path, lambda: self._store.put_once(path, data))

    def put(self, path: str, data: bytes) -> None:
        self._write(path, lambda: self._store.put(path, data))

    def put_if(self, path: str, data: bytes, tag: str | None) -> str | None:
        return self._write(path, lambda: self._store.put_if(path, data, tag))

    def delete(self, path: str) -> None:
        self._write(path, lambda: self._store.delete(path))

    def delete_tree(self, prefix: str) -> None:
        self._write(prefix, lambda: self._store.delete_tree(prefix))

    def get(self, path: str) -> bytes:
        return self._read(path, lambda: self._store.get(path))

    def exists(self, path: str) -> bool:
        return self._read(path, lambda: self._store.exists(path))

    def get_tagged(self, path: str) -> tuple[bytes, str]:
        return self._read(path, lambda: self._store.get_tagged(path))

    def list(self, prefix: str) -> Iterator[str]:
        yield from self._read(prefix, lambda: list(self._store.list(prefix)))

    def names(self, prefix: str) -> builtins.list[str]:
        return self._read(prefix, lambda: self._store.names(prefix))

    def get_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        if asked := list(paths):
            yield from self._read(asked[0], lambda: list(self._store.get_many(asked)))

    def _read(self, path: str, operation: Callable[[], T]) -> T:
        return self._network.call(path, operation, self._limit, write=False)

    def _write(self, path: str, operation: Callable[[], T]) -> T:
        return self._network.call(path, operation, self._limit, write=True)
