"""The contract of every store, and its errors."""

from __future__ import annotations

import builtins
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress

_SEGMENT = r"(?!\.)[^/\x00-\x1f\x7f\ud800-\udfff]+"


_LEGAL_PATH = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*")


class StoreError(Exception):
    """The store cannot do what was asked.  The message says what, where, and the fix."""


class ObjectNotFound(StoreError):
    """There is no object at that path."""


class Store(ABC):
    """Objects (bytes) under relative paths such as `trials/3f2a/result.json`.

    A path is one or more segments joined by "/"; no segment is empty or starts with a dot, and
    none holds control characters.  An illegal path is a ValueError.  Every method may raise
    StoreError.  A store may be used by many threads at once, and pickles as its address alone.

    Attributes:
        url: the address that `open_store` opens again, on every machine that can reach it.
    """

    url: str

    @abstractmethod
    def put_once(self, path: str, data: bytes) -> bool:
        """Write an object where none is.

        Returns:
            True when this call wrote it, whole.  False when something stood there already; it is
            untouched.  Of many calls at once exactly one gets True.
        """

    @abstractmethod
    def put(self, path: str, data: bytes) -> None:
        """Write or replace an object; a reader sees the old one or the new one, never half."""

    @abstractmethod
    def get(self, path: str) -> bytes:
        """The object's bytes.

        Raises:
            Missing: if there is none.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether an object stands at exactly this path."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[str]:
        """Every path that starts with prefix + "/" (prefix "": every path), sorted by code point."""

    @abstractmethod
    def names(self, prefix: str) -> builtins.list[str]:
        """The distinct next segments of the paths under prefix ("": of all paths), sorted."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove one object; an absent one is fine."""

    @abstractmethod
    def delete_tree(self, prefix: str) -> None:
        """Remove every object whose path starts with prefix + "/"."""

    @abstractmethod
    def get_tagged(self, path: str) -> tuple[bytes, str]:
        """The object's bytes and its version tag.

        A tag names a content: it changes when other bytes are put, and need not when equal ones are.

        Raises:
            Missing: if there is none.
        """

    @abstractmethod
    def put_if(self, path: str, data: bytes, tag: str | None) -> str | None:
        """Compare and swap: write only over the version that the caller has seen.

        Args:
            path: of the object.
            data: its new bytes.
            tag: of the version to replace; None when the object must be absent.

        Returns:
            The new version's tag, or None when the object is not what the tag says; then nothing
            was written.  Of many calls with one tag exactly one succeeds.
        """

    def get_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """(path, bytes) of each object that exists, in the order asked for; absent ones are left out."""
        for path in paths:
            with suppress(ObjectNotFound):
                yield path, self.get(path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


def check_path(path: str) -> str:
    """The path itself, if it is legal in every kind of store.

    Raises:
        ValueError: if it is not.
    """
    if not _LEGAL_PATH.fullmatch(path):
        rules = "segments joined by '/', none empty, starting with a dot or holding control characters"
        raise ValueError(f"illegal path {path!r} in a store; legal are {rules}")
    return path
