"""What a check found: one line each, ok or not, with the fix."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

State = Literal["ok", "not ok", "unknown"]
STYLES = {"ok": "green", "not ok": "red", "unknown": "yellow"}


@dataclass(frozen=True)
class Finding:
    """One line of a check.

    Attributes:
        name: what was looked at.
        state: "unknown" where it could not be looked at; that alone fails no check.
        said: what was found.
        fix: the command, key or page that fixes it; "" where nothing is to fix.
    """

    name: str
    state: State
    said: str
    fix: str = ""

    def sentence(self) -> str:
        """Outside a table."""
        return "; ".join(filter(None, [f"{self.name}: {self.said}", self.fix]))

    def to_json(self) -> dict[str, Any]:
        """What `check --json` prints for each."""
        return asdict(self)


def table(findings: Iterable[Finding]) -> Table:
    """Findings for a person."""
    shown = Table(box=None, pad_edge=False, show_header=False)
    shown.add_column(no_wrap=True)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for finding in findings:
        said = f"{finding.said}\n-> {finding.fix}" if finding.fix else finding.said
        shown.add_row(Text(finding.state, style=STYLES[finding.state]), finding.name, Text(said))
    return shown


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


def check_shared_folder(name: str, folder: Path, who: str) -> Finding:
    """Whether a folder can be seen by other machines, as far as it can be told from here."""
    system = kind(folder)
    if is_network(system):
        return Finding(name, "ok", f"{folder} is on {system}; {who} must have it at the same place")
    fix = f"make sure that {who} sees it at the same place"
    return Finding(name, "unknown", f"{folder} is on {system or 'a file system of unknown kind'} of this machine", fix)
