"""What a check found: one line each, ok or not, with the mend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
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
        mend: the command, key or page that mends it; "" where nothing is to mend.
    """

    name: str
    state: State
    said: str
    mend: str = ""

    def sentence(self) -> str:
        """Outside a table."""
        return "; ".join(filter(None, [f"{self.name}: {self.said}", self.mend]))

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
        said = f"{finding.said}\n-> {finding.mend}" if finding.mend else finding.said
        shown.add_row(Text(finding.state, style=STYLES[finding.state]), finding.name, Text(said))
    return shown
