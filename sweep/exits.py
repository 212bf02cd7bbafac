"""Exit codes: how a launch ends, for whoever called it and for whoever would start it again."""

from __future__ import annotations

DONE, USER_ERROR, SOME_FAILED, BUDGET = 0, 1, 2, 3
INTERRUPTED = 130  # as shells have it: 128 + SIGINT
