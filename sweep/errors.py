"""What a user did that cannot work, said so that they can fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class UserError(Exception):
    """One or more problems of the user's input; the command line prints them and exits with 1.

    Attributes:
        problems: one line each: where, what is wrong, the legal values, the fix.
    """

    def __init__(self, problems: Sequence[str] | str, heading: str = "") -> None:
        self.problems = [problems] if isinstance(problems, str) else list(dict.fromkeys(problems))
        self.heading = heading
        super().__init__("\n".join(([heading] if heading else []) + self.problems))


class CommandFailed(UserError):
    """A command on another machine failed.

    Attributes:
        status: its exit status; None where it did not end.
    """

    def __init__(self, said: str, status: int | None) -> None:
        super().__init__(said)
        self.status = status


class AlreadyRuns(UserError):
    """Another launch of the same sweep runs where this one would; nothing of it is to be touched."""


def unknown(kind: str, name: object, legal: Iterable[str]) -> str:
    """Message for a name that is not one of `legal`, nearest name first."""
    names = sorted(legal)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {str(name)!r}{hint} (legal: {', '.join(names)})"


DONE, USER_ERROR, SOME_FAILED, BUDGET = 0, 1, 2, 3


ALREADY_RUNS = 75  # of a supervisor alone, beside that of another launch: no outcome of its own (EX_TEMPFAIL)


INTERRUPTED = 130  # as shells have it: 128 + SIGINT


class Outcome(NamedTuple):
    """How a launch ended for whoever waited for it.

    Attributes:
        code: exit code.
        finished: whether it came to an end of its own, so that its results are to be shown.
    """

    code: int
    finished: bool = True
