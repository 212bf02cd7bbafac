"""What EC2 last answered when it gave no worker: left by whoever asks for workers, for the driver on the same head.

Ray's autoscaler asks, in a process of its own, goes on asking, and tells nobody but its log.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

FILE = Path("/run/sweep/refused")
LONGEST = 300  # characters: EC2 appends an encoded message to a right that is missing
ENCODED = "Encoded authorization failure message"


def leave(said: str) -> None:
    """Put down a refusal; where that cannot be done, nothing more is known than before."""
    told = " ".join(said.partition(ENCODED)[0].split())[:LONGEST]
    with suppress(OSError):
        descriptor, path = tempfile.mkstemp(dir=FILE.parent, prefix=FILE.name)
        with os.fdopen(descriptor, "w") as file:
            file.write(told)
        os.replace(path, FILE)


def clear() -> None:
    """A worker was given."""
    with suppress(OSError):
        FILE.unlink(missing_ok=True)


def last() -> str | None:
    """The last refusal, "CODE: what EC2 says"; None where EC2 has given a worker since, or was not asked."""
    try:
        return FILE.read_text() or None
    except OSError:
        return None
