"""The contract of every store, and the errors that a store raises."""

from __future__ import annotations

import builtins
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress

_SEGMENT = r"(?!\.)[^/\x00-\x1f\x7f\ud800-\udfff]+"
_LEGAL_PATH = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")


class StoreError(Exception):
    """Failure of a store.  The message contains what failed, where, and the fix."""


class StoreUnreachable(StoreError):
    """Failure of a store that may pass: for the whole time of an outage it has not answered as it should."""


class ObjectNotFound(StoreError):
    """Failure to find an object: the path has none."""


class Store(ABC):
    """Objects (bytes) under relative paths such as `trials/3f2a/result.json`.

    A path is one or more segments joined by "/".  No segment is empty, starts with a dot, or contains
    control characters.  An illegal path raises ValueError.  Every method may raise StoreError.  A store
    may be used by many threads at the same time, and is pickled as its address alone.

    Attributes:
        url: address that `open_store` accepts, on every machine that can reach the store.
    """

    url: str

    @abstractmethod
    def put_once(self, path: str, data: bytes) -> bool:
        """Write an object if its path has none.

        Returns:
            True if this call wrote the whole object.  False if the path had an object already, which is
            left unchanged.  Of several simultaneous calls exactly one returns True.
        """

    @abstractmethod
    def put(self, path: str, data: bytes) -> None:
        """Write or replace an object.  Readers see the whole old object or the whole new one."""

    @abstractmethod
    def get(self, path: str) -> bytes:
        """Return the bytes of an object.

        Raises:
            ObjectNotFound: if there is none.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Return True if exactly this path has an object."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[str]:
        """Yield every path that starts with prefix + "/" (for prefix "": every path), sorted by code point."""

    @abstractmethod
    def names(self, prefix: str) -> builtins.list[str]:
        """Return the distinct next segments of the paths under prefix (for "": of all paths), sorted."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete one object.  An absent object is no error."""

    @abstractmethod
    def delete_tree(self, prefix: str) -> None:
        """Delete every object whose path starts with prefix + "/"."""

    @abstractmethod
    def get_tagged(self, path: str) -> tuple[bytes, str]:
        """Return the bytes of an object and its version tag.

        A tag identifies the content: it changes when other bytes are written, and may stay the same when equal
        bytes are written.

        Raises:
            ObjectNotFound: if there is none.
        """

    @abstractmethod
    def put_if(self, path: str, data: bytes, tag: str | None) -> str | None:
        """Compare and swap: write only over the version that the caller has read.

        Args:
            path: path of the object.
            data: its new bytes.
            tag: tag of the version to replace; None if the object must not exist yet.

        Returns:
            The tag of the new version.  None if the object does not match `tag`; then nothing was written.
            Of several calls with the same tag exactly one succeeds.
        """

    def put_new(self, path: str, data: bytes) -> bool:
        """Write an object as `put_once`, without the promise that it survives a power cut.

        It survives one from the next `put_once` into the same folder on.
        """
        return self.put_once(path, data)

    def get_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield (path, bytes) of each object that exists, in the order of `paths`; skip the others."""
        for path in paths:
            with suppress(ObjectNotFound):
                yield path, self.get(path)

    def within(self, seconds: float) -> Store:
        """Return the same store, whose calls are given up after `seconds`; a folder answers at once, or fails."""
        del seconds
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


def is_legal_path(path: str) -> bool:
    """Return True if a path is legal in every kind of store."""
    return _LEGAL_PATH.fullmatch(path) is not None


def check_path(path: str) -> str:
    """Return the path if it is legal in every kind of store.

    Raises:
        ValueError: if it is not.
    """
    if not is_legal_path(path):
        rules = "segments joined by '/', not empty, without a dot at the start, and without control characters"
        raise ValueError(f"illegal path {path!r} in a store; legal are {rules}")
    return path
