"""EC2's last refusal of a worker, in a file on the head.

Ray's autoscaler requests workers in its own process, tries again after a refusal, and reports it only in its log.  So
our node provider, which runs in that process, writes each refusal to a file, and the driver reads it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from sweep.files import write_atomically

FILE = Path("/run/sweep/refused")
LONGEST = 300  # characters; EC2 may append a long encoded message about a missing right
ENCODED = "Encoded authorization failure message"


def write_refusal(refusal: str) -> None:
    """Write a refusal to the file; if that fails, the last one that was written stays."""
    text = " ".join(refusal.partition(ENCODED)[0].split())[:LONGEST]
    with suppress(OSError):
        write_atomically(FILE, text.encode())


def clear_refusal() -> None:
    """Remove the file, because EC2 has given a worker."""
    with suppress(OSError):
        FILE.unlink(missing_ok=True)


def read_refusal() -> str | None:
    """Return the last refusal as "CODE: EC2's message"; None if EC2 has given a worker since, or was not asked."""
    try:
        return FILE.read_text() or None
    except OSError:
        return None
