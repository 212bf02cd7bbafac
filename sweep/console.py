"""Lines and live views of a running launch, on a terminal and elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

PLAIN_SECONDS = 30.0  # between two lines where there is no terminal


class Display:
    """One quiet live view where there is a terminal, a plain line now and then where there is none.

    Args:
        console: where to show it.
        clock: monotonic seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console, clock
        self._said = clock()
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            with _heard_or_not(self.console):
                self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            with _heard_or_not(self.console):
                self._live.stop()

    def show(self, view: Callable[[], RenderableType], line: str) -> None:
        """What is so now, as a view and as a line."""
        if self._live is not None:
            with _heard_or_not(self.console):
                self._live.update(view(), refresh=True)
        else:
            self.now_and_then(line)

    def now_and_then(self, line: str) -> None:
        """A line that stays, unless there was one a moment ago."""
        if self.clock() - self._said >= PLAIN_SECONDS:
            self._said = self.clock()
            self.say(line)

    def say(self, text: str, style: str = "") -> None:
        """A line that stays."""
        say(self.console, text, style)


def say(console: Console, text: str, style: str = "") -> None:
    """A line of a launch, as it is: no markup, no wrapping.  Where nobody can read it, nothing is said."""
    with _heard_or_not(console):
        console.print(Text(text, style=style), highlight=False, soft_wrap=True)


@contextmanager
def _heard_or_not(console: Console) -> Iterator[None]:
    """What is said must not keep anybody from what is to be done, such as removing machines.

    A terminal that was closed is an OSError; at a pipe that was closed Rich raises SystemExit.
    """
    try:
        yield
    except (OSError, SystemExit):
        console.quiet = True  # else Rich keeps all of it, and tries it again with every line


def duration(seconds: float) -> str:
    """E.g. "45 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
