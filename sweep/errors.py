"""Errors that the user can fix, exit codes of the command, and the outcome of a launch."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

DONE, USER_ERROR, SOME_FAILED, BUDGET = 0, 1, 2, 3
ALREADY_RUNS = 75  # EX_TEMPFAIL; a supervisor exits with it when another launch's supervisor runs on the head
INTERRUPTED = 130  # the code that shells use: 128 + SIGINT
PROBLEM_CHARACTERS = 800  # most characters of one problem that is printed
PRINTED_CHARACTERS = 3200  # most characters of all problems that are printed at once
LONG_INTEGER = 40  # digits from which an integer is described, because its text could be endless


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
    text = shown(name if isinstance(name, str) else shown(name))
    near = difflib.get_close_matches(text[1:-1], names, n=1, cutoff=0.5)
    hint = f", did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {text}{hint} (legal: {', '.join(names)})"


class _Short(reprlib.Repr):
    """Short text of any value: a value of a few lines of YAML may be endless when it is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxset, self.maxdict = 3, 8, 8, 8, 8
        self.maxstring = self.maxother = 100

    def repr_int(self, value: int, level: int) -> str:
        """Return an integer; without its digits if it is long: Python refuses to write integers of 4,300 digits."""
        digits = int(value.bit_length() * 0.30103) + 1
        return repr(value) if digits < LONG_INTEGER else f"an integer of {digits:,} digits"


_SHORT = _Short()


def shown(value: object) -> str:
    """Return a value as text for a message, in at most about 400 characters."""
    text = _SHORT.repr(value)
    return text if len(text) <= 400 else f"{text[:397]}..."


def printed(problems: Sequence[str]) -> list[str]:
    """Return the lines to print for a list of problems: long ones are cut, and the last ones are only counted."""
    lines: list[str] = []
    for number, problem in enumerate(problems):
        cut = problem if len(problem) <= PROBLEM_CHARACTERS else f"{problem[:PROBLEM_CHARACTERS]} ..."
        if lines and sum(map(len, lines)) + len(cut) > PRINTED_CHARACTERS:
            return [*lines, f"and {len(problems) - number:,} more problems; fix these first"]
        lines.append(cut)
    return lines


class Outcome(NamedTuple):
    """Exit code of a launch, and whether the launch finished.

    Attributes:
        code: exit code.
        finished: True if the launch ended by itself, so that its results are to be shown.
    """

    code: int
    finished: bool = True
