"""Exit codes: how a launch ends, for whoever called it and for whoever would start it again."""

from __future__ import annotations

from typing import NamedTuple

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
