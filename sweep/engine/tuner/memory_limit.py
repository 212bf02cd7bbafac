"""The kernel's memory limit for this process and its children, as containers and job systems set it.

If the limit is reached, the kernel kills a process without a word: Ray sees only that its connection ends.  The kernel
counts what it kills, so the count tells why a process died.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")
NO_LIMIT = 2**60  # bytes; version 1 writes a number of about 2 ** 63 for "none"


def count_kills(cgroups: Path = CGROUPS, own: Path = OWN) -> int:
    """Return how many processes of this process's control group the kernel has killed for lack of memory."""
    for folder in _folders(cgroups, own):
        for name in ("memory.events", "memory.oom_control"):
            for line in _lines(folder / name):
                word, _, number = line.partition(" ")
                if word == "oom_kill":
                    return int(number)
    return 0


def find_limit(cgroups: Path = CGROUPS, own: Path = OWN) -> int | None:
    """Return the limit in bytes: the smallest of this process's control group and its parents; None for none."""
    found = [
        int(text)
        for folder in _folders(cgroups, own)
        for name in ("memory.max", "memory.limit_in_bytes")
        for text in _lines(folder / name)
        if text.isdigit()
    ]
    return min((limit for limit in found if limit < NO_LIMIT), default=None)


def _folders(cgroups: Path, own: Path) -> Iterator[Path]:
    """Yield the folders of the control group for memory, from this process's own to the root; version 2 or 1."""
    for line in _lines(own):
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if path and controllers in ("", "memory"):
            root = cgroups / controllers
            folder = root / path.strip("/")
            while folder != root:
                yield folder
                folder = folder.parent
            yield root  # in a container, the path may be the host's, and the root the container's own group


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().split("\n")
    except OSError:
        return []
