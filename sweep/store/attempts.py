"""Attempts: records of how a trial ended without a result, with the cause, the host and the end of the log."""

from __future__ import annotations

import os
import platform
import re
import time
import traceback
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Literal

from sweep.redaction import hide_secrets


class Interrupted(Exception):
    """Stop of a trial on request: its resume state is stored, and it goes on later or on another machine."""


Status = Literal["failed", "oom", "preempted", "hung"]
LOG_CHARACTERS = 20_000


def attempt_record(
    status: Status,
    *,
    job: Mapping[str, Any],
    error: BaseException | None = None,
    cause: str = "",
    frame: FrameType | None = None,
) -> dict[str, Any]:
    """Return the record of an attempt.

    Args:
        status: how the attempt ended.
        job: what the trial's process was given; `key`, `sweep` and `launch` are read from it.
        error: the exception that the trial raised, or that Ray raised about the trial's process.
        cause: one line; may be left out if `error` contains it.
        frame: stack frame in which a hung trial was.

    Returns:
        JSON-ready: status, cause (one line), log (traceback, or Ray's message about the lost process; its
        last `LOG_CHARACTERS` characters), host, pid, time (seconds since 1970), key, sweep, launch.
    """
    log = "".join(traceback.format_stack(frame)) if frame is not None else ""
    if error is not None:
        cause = cause or one_line(error)
        log = "".join(traceback.format_exception(error))
    return {
        "status": status,
        "cause": hide_secrets(cause),
        "log": hide_secrets(log)[-LOG_CHARACTERS:],
        "key": job["key"],
        "sweep": job["sweep"],
        "launch": job["launch"],
        "host": platform.node(),
        "pid": os.getpid(),
        "time": time.time(),
    }


def has_failed(attempts: Sequence[Mapping[str, Any]]) -> bool:
    """Return True if a trial without a result has failed.  A preempted trial has not: it waits to go on.

    Args:
        attempts: attempts of the trial, oldest first.
    """
    return bool(attempts) and attempts[-1]["status"] != "preempted"


def is_of(attempt: Mapping[str, Any], sweep: str, launch: int) -> bool:
    """Return True if an attempt belongs to a launch of a sweep.

    Sweeps share trials, and each numbers its launches from 1.  Records before 2026-12 do not name their sweep.
    """
    return bool(attempt["launch"] == launch and attempt.get("sweep", sweep) == sweep)


def failures(attempts: Sequence[Mapping[str, Any]], sweep: str, launch: int) -> int:
    """Count the attempts of one launch that count against `trial.retries`; preemptions do not count."""
    return sum(is_of(record, sweep, launch) and record["status"] != "preempted" for record in attempts)


def failed_before(attempts: Sequence[Mapping[str, Any]], sweep: str, launch: int) -> bool:
    """Return True if another launch left this trial, which has no result, as failed."""
    return has_failed(attempts) and not is_of(attempts[-1], sweep, launch)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error means that memory ran out.

    Covers Python's MemoryError, the host's memory as torch reports it, and the GPU's memory.
    """
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def one_line(error: BaseException) -> str:
    """Describe an error in one line that is short enough for a terminal."""
    text = hide_secrets(re.sub(r"\x1b\[[0-9;]*m", "", str(error)))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    name = type(error).__name__
    if name in ("RayActorError", "ActorDiedError", "ActorUnavailableError"):
        match = re.search(r"(OutOfMemoryError|SIGKILL|SIGSEGV|exit(?:ed)? code[^.]*|exit detail: [^.]*)", text)
        if "OutOfMemory" in text:
            return "killed by Ray's memory monitor: the node ran out of memory"
        return f"the trial's process died ({match.group(1)})" if match else "the trial's process died"
    return f"{name}: {lines[0]}"[:300] if lines else name
