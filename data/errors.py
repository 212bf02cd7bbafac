"""What can be wrong with stored or read data, said so that a person can fix it."""

from __future__ import annotations

from dataclasses import dataclass


class DataError(ValueError):
    """Images cannot be read or stored as asked; the message says what, where and the fix."""


@dataclass(frozen=True)
class Fault:
    """One shard that is not what its manifest says.

    Attributes:
        path: of the shard in the store.
        expected: sha256 in the manifest.
        found: sha256 of what stands there, None where nothing does.
        expected_bytes, found_bytes: lengths; a shorter one is a truncated shard.
    """

    path: str
    expected: str
    found: str | None
    expected_bytes: int
    found_bytes: int

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.path}: missing (expected {self.expected_bytes:,} bytes, sha256 {self.expected})"
        return (
            f"{self.path}: expected {self.expected_bytes:,} bytes, sha256 {self.expected}; "
            f"found {self.found_bytes:,} bytes, sha256 {self.found}"
        )


def fix(name: str) -> str:
    """The command that writes a dataset's missing or damaged shards again."""
    return f"fix: python -m sweep data put {name} CONFIG"
