"""A try that ended without a result, as a record: what happened, where, and the last lines of it."""

from __future__ import annotations

import os
import platform
import re
import time
import traceback
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Literal


class Interrupted(Exception):
    """A trial was asked for its resume state, which stands; it goes on elsewhere, or later."""


Status = Literal["failed", "oom", "preempted", "hung"]
LOG_CHARACTERS = 20_000


def attempt(
    status: Status,
    *,
    job: Mapping[str, Any],
    error: BaseException | None = None,
    cause: str = "",
    frame: FrameType | None = None,
) -> dict[str, Any]:
    """Record of an attempt.

    Args:
        status: how it ended.
        job: what the process was given.
        error: what was raised, in the trial or about its process.
        cause: one line; may be left out where `error` says it.
        frame: where a hung trial stood.

    Returns:
        JSON-ready: status, cause (one line), log (traceback, or what Ray says of the death), host,
        pid, time (seconds since 1970), key, launch.
    """
    log = "".join(traceback.format_stack(frame)) if frame is not None else ""
    if error is not None:
        cause = cause or one_line(error)
        log = "".join(traceback.format_exception(error))
    return {
        "status": status,
        "cause": cause,
        "log": log[-LOG_CHARACTERS:],
        "key": job["key"],
        "launch": job["launch"],
        "host": platform.node(),
        "pid": os.getpid(),
        "time": time.time(),
    }


def has_failed(attempts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a trial without a result has failed; one that was preempted waits to go on."""
    return bool(attempts) and attempts[-1]["status"] != "preempted"


def failures(attempts: Sequence[Mapping[str, Any]], launch: int) -> int:
    """Tries of one launch that count against `trial.retries`; being preempted does not."""
    return sum(record["launch"] == launch and record["status"] != "preempted" for record in attempts)


def failed_before(attempts: Sequence[Mapping[str, Any]], launch: int) -> bool:
    """Whether a trial without a result was left failed by an earlier launch."""
    return has_failed(attempts) and attempts[-1]["launch"] != launch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was exhausted: Python's, the host's as torch reports it, or the GPU's."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def one_line(error: BaseException) -> str:
    """What happened, short enough for one line of a terminal."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    name = type(error).__name__
    if name in ("RayActorError", "ActorDiedError", "ActorUnavailableError"):
        found = re.search(r"(OutOfMemoryError|SIGKILL|SIGSEGV|exit(?:ed)? code[^.]*|exit detail: [^.]*)", text)
        if "OutOfMemory" in text:
            return "killed by Ray's memory monitor: the node ran out of memory"
        return f"the trial's process died ({found.group(1)})" if found else "the trial's process died"
    return f"{name}: {lines[0]}"[:300] if lines else name
