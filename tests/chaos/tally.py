"""Counts of what happened to launches under faults, and the table of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

HARM = ("lost", "doubled", "left", "tracebacks", "silent")
HEADINGS = (
    "fault", "tries", "lost", "doubled", "left behind", "tracebacks", "silent for more than 30 s",
    "recovered in seconds (median, most)",
)  # fmt: skip


@dataclass
class Tally:
    """Counts of one story, or of several.

    Attributes:
        tries: faults that were made.
        lost: results, candidates and prunes that are missing or differ from those of an undisturbed run, trials that
            were blamed for the fault, and resume states that were not used.
        doubled: finished trials that were trained again, and records that an undisturbed run does not have.
        left: processes, files and foreign things harmed after the end.
        tracebacks: tracebacks, and messages about a defect of the program.
        silent: waits of more than 30 s for a line of a launch that worked.
        recovered: seconds from the same command, or from the end of the fault, to the next trained step.
        notes: details of what counts as harm, for people.
    """

    tries: int = 0
    lost: int = 0
    doubled: int = 0
    left: int = 0
    tracebacks: int = 0
    silent: int = 0
    recovered: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __iadd__(self, other: Tally) -> Tally:
        for name in (part.name for part in fields(self)):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def add(self, count: str, number: int, note: str) -> None:
        """Add to a count of harm, with a note that says what it was; do nothing if the number is 0."""
        if number:
            setattr(self, count, getattr(self, count) + number)
            self.notes.append(f"{count}: {note}")

    @property
    def harm(self) -> int:
        """Sum of all counts that must be 0."""
        return sum(getattr(self, count) for count in HARM)

    @property
    def is_good(self) -> bool:
        """True if at least one fault was made, and none did harm."""
        return self.tries > 0 and not self.harm


def table_of(rows: Mapping[str, Tally]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [HEADINGS, ("---", *["---:"] * (len(HEADINGS) - 1))]
    for name, tally in rows.items():
        times = tally.recovered
        recovered = f"{statistics.median(times):.1f}, {max(times):.1f}" if times else ""
        lines.append((name, f"{tally.tries:,}", *(f"{getattr(tally, count):,}" for count in HARM), recovered))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
