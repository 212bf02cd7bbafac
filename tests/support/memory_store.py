"""A store in memory: the contract of every store, without a disk or a server."""

from __future__ import annotations

import builtins
import hashlib
import threading
from collections.abc import Iterator

from sweep.store.base import ObjectNotFound, Store, check_path


class MemoryStore(Store):
    """Store whose objects are in a dictionary of this process.

    A tag is the hash of the content, as in a folder and in S3: equal bytes have equal tags.
    """

    url = "memory"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._lock = threading.RLock()

    def put_once(self, path: str, data: bytes) -> bool:
        return self.put_if(path, data, None) is not None

    def put(self, path: str, data: bytes) -> None:
        with self._lock:
            self.write(check_path(path), data)

    def get(self, path: str) -> bytes:
        try:
            return self.objects[check_path(path)]
        except KeyError:
            raise ObjectNotFound(f"no object {path} in {self.url}") from None

    def exists(self, path: str) -> bool:
        return check_path(path) in self.objects

    def list(self, prefix: str) -> Iterator[str]:
        start = f"{check_path(prefix)}/" if prefix else ""
        with self._lock:
            yield from sorted(path for path in self.objects if path.startswith(start))

    def names(self, prefix: str) -> builtins.list[str]:
        start = len(prefix) + 1 if prefix else 0
        return sorted({path[start:].split("/", 1)[0] for path in self.list(prefix)})

    def delete(self, path: str) -> None:
        with self._lock:
            if check_path(path) in self.objects:
                self.remove(path)

    def delete_tree(self, prefix: str) -> None:
        with self._lock:
            for path in list(self.list(check_path(prefix))):
                self.remove(path)

    def get_tagged(self, path: str) -> tuple[bytes, str]:
        data = self.get(path)
        return data, _tag(data)

    def put_if(self, path: str, data: bytes, tag: str | None) -> str | None:
        with self._lock:
            present = self.objects.get(check_path(path))
            if (None if present is None else _tag(present)) != tag:
                return None
            self.write(path, data)
            return _tag(data)

    def write(self, path: str, data: bytes) -> None:
        """Write an object; every change of one passes here, so that a subclass can look at it."""
        self.objects[path] = data

    def remove(self, path: str) -> None:
        """Remove an object that exists; every deletion passes here."""
        del self.objects[path]


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
