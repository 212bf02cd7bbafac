"""Events in the lab, in order, for assertions and for the reader of a failure."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Event:
    """An event.

    Attributes:
        time: time in seconds since 1970.
        what: kind of event, e.g. "power on", "refused".
        subject: what it happened to, e.g. the id of an instance.
        detail: more text for people.
    """

    time: float
    what: str
    subject: str
    detail: str = ""


class Timeline:
    """Events as they happen; they are also in a file, which can be watched while a test runs."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.touch()
        self.events: list[Event] = []

    def add(self, what: str, subject: str, detail: str = "") -> None:
        self.events.append(Event(time.time(), what, subject, detail))
        with self.file.open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {what} {subject} {detail}\n")

    def of(self, what: str) -> list[Event]:
        return [event for event in self.events if event.what == what]
