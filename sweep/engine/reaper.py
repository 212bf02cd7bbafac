"""Run a command, and end every process that it has started when it ends, or when the launch ends.

    python -m sweep.engine.reaper COMMAND [ARGUMENT ...]

The tuner process runs under a reaper.  Ray's processes, and children of trials, may live in sessions of their own,
where neither a terminal nor a process group reaches them.  On Linux this process is their "subreaper": the kernel
makes every orphan below it its child, so all that the command has started stays below it and can be found.

If the launch is killed, the kernel sends `END_SIGNAL` to this process.  All other signals that end a process are
ignored here, because job systems send them to every process of a job, and only the launch decides what they mean.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sweep.signals import DIES_WITH_PARENT, INTERRUPTIONS, die_with_parent

END_SIGNAL = signal.SIGRTMIN + 5 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2  # no job system sends it
PR_SET_CHILD_SUBREAPER = 36
KILL_SECONDS = 10.0  # then a process that the kernel cannot end now, e.g. in a hanging file system, is left
PROCESSES = Path("/proc")


class _EndRequested(BaseException):
    """Request to end the command and everything that it has started."""


def become_subreaper() -> None:
    """Make every orphan below this process its child; does nothing except on Linux."""
    if DIES_WITH_PARENT:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def list_descendants(ancestor: int, processes: Path = PROCESSES) -> list[int]:
    """Return the ids of all processes below a process, in no order; [] without /proc."""
    children: dict[int, list[int]] = {}
    for file in processes.glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):  # the process has ended
            # The name in brackets may contain anything; the state and the parent's id follow it.
            parent = int(file.read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(file.parent.name))
    found, waiting = [], [ancestor]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def kill_descendants(seconds: float = KILL_SECONDS) -> None:
    """Kill all processes below this one, also those that they start meanwhile, and wait for their end."""
    until = time.monotonic() + seconds
    while (found := list_descendants(os.getpid())) and time.monotonic() < until:
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.005)


def main(command: Sequence[str]) -> None:
    """Run the command to its end, and end this process in the same way after everything below it."""
    become_subreaper()
    signal.signal(END_SIGNAL, _request_end)
    child = os.fork()
    if child == 0:
        signal.signal(END_SIGNAL, signal.SIG_DFL)
        die_with_parent()
        os.execvp(command[0], list(command))  # noqa: S606  (no shell is wanted)
    for number in (*INTERRUPTIONS, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
        if number != END_SIGNAL:
            signal.signal(number, signal.SIG_IGN)
    os.closerange(3, 65_536)  # the command's pipes end with the command
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    status = None
    try:
        while status is None:
            pid, code = os.wait()
            status = code if pid == child else None
    except _EndRequested:
        pass
    signal.signal(END_SIGNAL, signal.SIG_IGN)
    kill_descendants()
    _end_like(signal.SIGKILL if status is None else status)


def _request_end(number: int, frame: object) -> None:
    del number, frame
    raise _EndRequested


def _end_like(status: int) -> None:
    """End this process with the exit status, or by the signal, that another process ended with."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # this process has not crashed
        with suppress(OSError):  # SIGKILL has no handler to reset
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main(sys.argv[1:])
