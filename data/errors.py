"""Problems of data that is read or stored; each message names the fix."""

from __future__ import annotations

from dataclasses import dataclass


class DataError(ValueError):
    """Images cannot be read or stored as requested; the message names the problem, its location and the fix."""


@dataclass(frozen=True)
class ShardProblem:
    """One shard that is missing, or whose content differs from its manifest.

    Attributes:
        path: path of the shard in the store.
        expected: sha256 in the manifest.
        found: sha256 of the stored content; None if the shard is missing.
        expected_bytes, found_bytes: lengths in bytes; a shard with fewer bytes than expected is truncated.
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


def put_command(name: str) -> str:
    """Return the fix for a dataset's missing or damaged shards: the command that writes them again."""
    return f"fix: python -m sweep data put {name} CONFIG"
