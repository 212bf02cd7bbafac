"""Findings of a check: one line each, with its state and its fix."""

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
NETWORK = frozenset({
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "panfs", "wekafs", "afs", "orangefs", "9p",
    "virtiofs",
})  # fmt: skip
CHECK_SECONDS = 20.0  # a check reports a store that fails for so long; a launch waits longer
MOUNTS = Path("/proc/self/mounts")


@dataclass(frozen=True)
class Finding:
    """One line of a check.

    Attributes:
        name: what was checked.
        state: "ok", "not ok", or "unknown" if it could not be checked.  Only "not ok" makes a check fail.
        found: what was found.
        fix: the command, key or page that fixes it; "" if nothing needs a fix.
    """

    name: str
    state: State
    found: str
    fix: str = ""

    def sentence(self) -> str:
        """Return the finding as one line of text, without the state."""
        return "; ".join(filter(None, [f"{self.name}: {self.found}", self.fix]))

    def to_json(self) -> dict[str, Any]:
        """Return what `check --json` prints for this finding."""
        return asdict(self)


def table(findings: Iterable[Finding]) -> Table:
    """Return findings as a table for the terminal."""
    shown = Table(box=None, pad_edge=False, show_header=False)
    shown.add_column(no_wrap=True)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for finding in findings:
        text = f"{finding.found}\n-> {finding.fix}" if finding.fix else finding.found
        shown.add_row(Text(finding.state, style=STYLES[finding.state]), finding.name, Text(text))
    return shown


def kind(folder: Path, mounts: Path = MOUNTS) -> str:
    """Return the type of the file system of a folder, which may not exist yet; "" if it is unknown."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    path = folder.expanduser().resolve()
    deepest, found = -1, ""
    for line in lines:
        _, folder_mounted, system, *_ = line.split()
        mounted = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code.group(1), 8)), folder_mounted))
        # Of two mounts on one folder, the later hides the other.
        if path.is_relative_to(mounted) and len(mounted.parts) >= deepest:
            deepest, found = len(mounted.parts), system
    return found


def is_network(system: str) -> bool:
    """Return True if a file system of this type is reached over a network."""
    return system in NETWORK or system.startswith("fuse.")


def check_shared_folder(name: str, folder: Path, who: str) -> Finding:
    """Check that other machines can see a folder, as far as this machine can know.

    Args:
        name: name of the finding.
        folder: path of the folder.
        who: the other machines, as the subject of a sentence.
    """
    system = kind(folder)
    if is_network(system):
        return Finding(name, "ok", f"{folder} is on {system}; {who} must have it under the same path")
    fix = f"make sure that {who} has it under the same path"
    return Finding(name, "unknown", f"{folder} is on {system or 'a file system of unknown kind'} of this machine", fix)
