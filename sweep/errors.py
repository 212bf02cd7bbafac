"""Errors that the user can fix, exit codes of the command, and the outcome of a launch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

DONE, USER_ERROR, SOME_FAILED, BUDGET = 0, 1, 2, 3
ALREADY_RUNS = 75  # EX_TEMPFAIL; a supervisor exits with it when another launch's supervisor runs on the head
INTERRUPTED = 130  # the code that shells use: 128 + SIGINT


class UserError(Exception):
    """One or more problems with the user's input.  The command line prints them and exits with code 1.

    Attributes:
        problems: one line each: where, what is wrong, the legal values, the fix.
        heading: line above the problems; "" for none.
    """

    def __init__(self, problems: Sequence[str] | str, heading: str = "") -> None:
        self.problems = [problems] if isinstance(problems, str) else list(dict.fromkeys(problems))
        self.heading = heading
        super().__init__("\n".join(([heading] if heading else []) + self.problems))


class CommandFailed(UserError):
    """Failure of a command on another machine.

    Attributes:
        status: exit status of the command; None if the command did not end.
    """

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


class AlreadyRuns(UserError):
    """Refusal of a launch because another launch of the same sweep runs there, which must be left untouched."""


def unknown(kind: str, name: object, legal: Iterable[str]) -> str:
    """Return the message for a name that is not in `legal`: the most similar legal name, then all of them."""
    names = sorted(legal)
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {str(name)!r}{hint} (legal: {', '.join(names)})"


class Outcome(NamedTuple):
    """Exit code of a launch, and whether the launch finished.

    Attributes:
        code: exit code.
        finished: True if the launch ended by itself, so that its results are to be shown.
    """

    code: int
    finished: bool = True
