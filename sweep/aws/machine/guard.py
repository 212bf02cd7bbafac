"""Powers this machine off at the time limit, and a worker also when its head is gone.

    python3 guard.py head --deadline 1767225600
    python3 guard.py worker --deadline 1767225600

Standard library only: it comes with the machine's first boot and needs nothing that is installed later.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HEAD_FILE = "/run/sweep/head"  # a worker's start writes "ADDRESS:PORT" of the head's Ray into it
POLL_SECONDS = 15.0
HEAD_GONE_SECONDS = 600.0  # without an answer of the head
SET_UP_SECONDS = 1800.0  # until a head has set this worker up: boot, packages, Ray
POWER_OFF = (["shutdown", "-h", "now"], ["systemctl", "poweroff", "--force"], ["poweroff", "-f"])


@dataclass
class Guard:
    """Decides when this machine has to go.

    Attributes:
        deadline: of the sweep, in seconds since 1970.
        head: address of the head's Ray, None until it is known; None in place of the function on the head itself.
        answers: whether something listens at an address.
        started: reading of the monotonic clock at the start.
    """

    deadline: float
    head: Callable[[], str | None] | None
    answers: Callable[[str], bool]
    started: float

    def __post_init__(self) -> None:
        self._last_seen = self.started
        self._set_up = False

    def reason(self, wall: float, monotonic: float) -> str | None:
        """Why to power off now, None to stay; `wall` is the time since 1970."""
        if wall >= self.deadline:
            return "the time limit of the sweep is reached"
        if self.head is None:
            return None
        address = self.head()
        if address is None:
            waited = monotonic - self.started
            return None if waited < SET_UP_SECONDS else f"no head has set this worker up in {waited:.0f} s"
        if not self._set_up or self.answers(address):
            self._set_up, self._last_seen = True, monotonic
        silent = monotonic - self._last_seen
        return None if silent < HEAD_GONE_SECONDS else f"the head {address} has not answered for {silent:.0f} s"


def head_in(file: Path) -> str | None:
    """Address that the worker's start has left, None before."""
    try:
        return file.read_text().strip() or None
    except OSError:
        return None


def answers(address: str) -> bool:
    """Whether something takes connections there."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except (OSError, ValueError):
        return False


def power_off(commands: tuple[list[str], ...] = POWER_OFF) -> None:
    """By the first command that works; the caller's loop asks again."""
    for command in commands:
        try:
            if subprocess.run(command, timeout=60, check=False).returncode == 0:
                return
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{command[0]}: {error}", flush=True)


def main() -> None:
    """Watch until the machine is off."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["head", "worker"])
    parser.add_argument("--deadline", type=float, required=True, help="seconds since 1970")
    parser.add_argument("--head-file", type=Path, default=Path(HEAD_FILE))
    options = parser.parse_args()
    head = (lambda: head_in(options.head_file)) if options.role == "worker" else None
    guard = Guard(options.deadline, head, answers, started=time.monotonic())
    while True:
        reason = guard.reason(time.time(), time.monotonic())
        if reason is not None:
            print(f"powering off: {reason}", flush=True)
            power_off()
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    main()
