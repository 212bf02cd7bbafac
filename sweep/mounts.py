"""Which kind of file system a folder lies on: whether other machines can see it, too."""

from __future__ import annotations

import re
from pathlib import Path

from sweep.findings import Finding

NETWORK = frozenset({
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "panfs", "wekafs", "afs", "orangefs", "9p",
    "virtiofs",
})  # fmt: skip
MOUNTS = Path("/proc/self/mounts")


def kind(folder: Path, mounts: Path = MOUNTS) -> str:
    """Type of the file system that holds a folder, or would; "" where it cannot be told."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    path = folder.expanduser().resolve()
    deepest, found = -1, ""
    for line in lines:
        _, where, system, *_ = line.split()
        mounted = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code.group(1), 8)), where))
        if path.is_relative_to(mounted) and len(mounted.parts) >= deepest:  # of two on one place the later is seen
            deepest, found = len(mounted.parts), system
    return found


def is_network(system: str) -> bool:
    """Whether such a file system comes over a network."""
    return system in NETWORK or system.startswith("fuse.")


def shared(name: str, folder: Path, who: str) -> Finding:
    """Whether a folder can be seen by other machines, as far as it can be told from here."""
    system = kind(folder)
    if is_network(system):
        return Finding(name, "ok", f"{folder} is on {system}; {who} must have it at the same place")
    mend = f"make sure that {who} sees it at the same place"
    return Finding(name, "unknown", f"{folder} is on {system or 'a file system of unknown kind'} of this machine", mend)
