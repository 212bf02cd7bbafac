"""Power this machine off at the time limit, a worker also without its head, a head also without its supervisor.

    python3 guard.py head --deadline 1767225600
    python3 guard.py worker --deadline 1767225600

It needs only the standard library, because it is part of the machine's first boot, before anything is installed.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HEAD_FILE = "/run/sweep/head"  # the worker's set-up writes "ADDRESS:PORT" of the head's Ray into it
SUPERVISED_FILE = "/run/sweep/supervised"  # the head's supervisor touches it every few seconds
POLL_SECONDS = 15.0
HEAD_GONE_SECONDS = 600.0  # a worker goes after this time without an answer of its head
SUPERVISOR_GONE_SECONDS = 600.0  # a head goes after this time without a touch of its supervisor
REACHED_SECONDS = 600.0  # a worker goes if its head has not begun the set-up, with HEAD_FILE, by then
SET_UP_SECONDS = 1800.0  # a head goes if no sweep was started by then: boot, packages, Ray
POWER_OFF = (["shutdown", "-h", "now"], ["systemctl", "poweroff", "--force"], ["poweroff", "-f"])


@dataclass
class Guard:
    """Decides when this machine must power off.

    Attributes:
        deadline: time limit of the sweep, in seconds since 1970.
        watched: returns what this machine depends on; None before it is known.  On a worker it is the address of the
            head's Ray, on a head the time at which the supervisor last touched its file.
        answers: returns True if that shows a sign of life.
        missing: messages: it never came, and it is gone.
        set_up: seconds until it must be known.
        patience: seconds without a sign of life after that.
        started: monotonic time of the start.
    """

    deadline: float
    watched: Callable[[], str | None]
    answers: Callable[[str], bool]
    missing: tuple[str, str]
    set_up: float
    patience: float
    started: float

    def __post_init__(self) -> None:
        self._last_seen = self.started
        self._known = False

    def reason(self, wall: float, monotonic: float) -> str | None:
        """Return why to power off now; None to stay up.

        Args:
            wall: time in seconds since 1970.
            monotonic: monotonic seconds.
        """
        if wall >= self.deadline:
            return "the time limit of the sweep is reached"
        watched = self.watched()
        if watched is None and not self._known:
            waited = monotonic - self.started
            return None if waited < self.set_up else f"{self.missing[0]} in {waited:.0f} s"
        if watched is not None and (not self._known or self.answers(watched)):
            self._known, self._last_seen = True, monotonic
        silent = monotonic - self._last_seen
        return None if silent < self.patience else f"{self.missing[1]} for {silent:.0f} s"


def worker(deadline: float, head: Callable[[], str | None], answers: Callable[[str], bool], started: float) -> Guard:
    """Return the guard of a worker, which depends on its head."""
    missing = ("no head has reached this worker", "the head has not answered")
    return Guard(deadline, head, answers, missing, REACHED_SECONDS, HEAD_GONE_SECONDS, started)


def head(deadline: float, touched: Callable[[], str | None], started: float) -> Guard:
    """Return the guard of a head, which depends on its supervisor.

    Any other time of a touch is a sign of life, even an earlier one, because clocks may jump.
    """
    seen: list[str] = []

    def is_new(touch: str) -> bool:
        new = seen != [touch]
        seen[:] = [touch]
        return new

    missing = ("no sweep was started on this head", "the sweep's supervisor has shown no sign of life")
    return Guard(deadline, touched, is_new, missing, SET_UP_SECONDS, SUPERVISOR_GONE_SECONDS, started)


def head_in(file: Path) -> str | None:
    """Return the address that the worker's set-up wrote into a file; None before that."""
    try:
        return file.read_text().strip() or None
    except OSError:
        return None


def last_touched(file: Path) -> str | None:
    """Return when a file was last touched; None if it does not exist."""
    try:
        return str(file.stat().st_mtime_ns)
    except OSError:
        return None


def answers(address: str) -> bool:
    """Return True if a program accepts connections at an address."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except (OSError, ValueError):
        return False


def power_off(commands: tuple[list[str], ...] = POWER_OFF) -> None:
    """Power off with the first command that works; the caller tries again."""
    for command in commands:
        try:
            if subprocess.run(command, timeout=60, check=False).returncode == 0:
                return
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{command[0]}: {error}", flush=True)


def main() -> None:
    """Check every few seconds, until the machine is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["head", "worker"])
    parser.add_argument("--deadline", type=float, required=True, help="seconds since 1970")
    parser.add_argument("--head-file", type=Path, default=Path(HEAD_FILE))
    parser.add_argument("--supervised-file", type=Path, default=Path(SUPERVISED_FILE))
    options = parser.parse_args()
    started = time.monotonic()
    if options.role == "worker":
        guard = worker(options.deadline, lambda: head_in(options.head_file), answers, started)
    else:
        guard = head(options.deadline, lambda: last_touched(options.supervised_file), started)
    while True:
        reason = guard.reason(time.time(), time.monotonic())
        if reason is not None:
            print(f"powering off: {reason}", flush=True)
            power_off()
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
