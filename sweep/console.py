"""Lines and live views of a running launch, on a terminal or in a pipe or file.

Names and errors come from strangers' files and programs.  `SafeConsole` is the one place where text reaches a terminal,
so no escape sequence in it can move the cursor, change colours or write to the clipboard.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

PLAIN_SECONDS = 20.0  # least time between two lines when the output is not a terminal; nobody waits 30 s for one
FIRST_SECONDS = 5.0  # least time until the first of them, because what came before took time as well


class SafeConsole(Console):
    """Console that prints control characters of texts as spaces; only its own styles become escape sequences."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable() or segment.text == "\n":
                yield segment
            else:
                yield Segment("\n".join(map(printable, segment.text.split("\n"))), segment.style)


def write_anything() -> None:
    """Let output show characters that its encoding lacks as escapes, e.g. in an ASCII locale, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Display:
    """A live view on a terminal; elsewhere, a plain line from time to time.

    Args:
        console: where to show it.
        clock: monotonic seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self._printed_at = clock() - PLAIN_SECONDS + FIRST_SECONDS
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            with _ignoring_closed_output(self.console):
                self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            with _ignoring_closed_output(self.console):
                self._live.stop()

    def show(self, view: Callable[[], RenderableType], line: str) -> None:
        """Show the present state: the view on a terminal, the line elsewhere."""
        if self._live is not None:
            with _ignoring_closed_output(self.console):
                self._live.update(view(), refresh=True)
        else:
            self.now_and_then(line)

    def now_and_then(self, line: str) -> None:
        """Print a line that stays, unless the last one is less than `PLAIN_SECONDS` old."""
        if self.clock() - self._printed_at >= PLAIN_SECONDS:
            self._printed_at = self.clock()
            self.say(line)

    def say(self, text: str, style: str = "") -> None:
        """Print a line that stays."""
        say(self.console, text, style)


def say(console: Console, text: str, style: str = "") -> None:
    """Print a line of a launch without markup or wrapping.  If the output is closed, print nothing."""
    with _ignoring_closed_output(console):
        console.print(Text(text, style=style), highlight=False, soft_wrap=True)


@contextmanager
def _ignoring_closed_output(console: Console) -> Iterator[None]:
    """Ignore a closed terminal or pipe: printing must never stop clean-up, such as removing machines.

    A closed terminal raises OSError; for a closed pipe Rich raises SystemExit.
    """
    try:
        yield
    except (OSError, SystemExit):
        console.quiet = True  # otherwise Rich keeps the unwritten text and tries to write it again with every line


def printable(text: str) -> str:
    """Replace line breaks, escape sequences and writing-direction marks by spaces."""
    return "".join(character if character.isprintable() else " " for character in text)


def duration(seconds: float) -> str:
    """Return a duration as text, such as "45 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
