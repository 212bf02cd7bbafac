"""Waits for EC2's notice that this spot machine will be taken away, and has its effects carried out once.

    python3 spot_notice.py --ray /opt/sweep/venv/bin/ray --head 10.0.0.5:6379

EC2 gives two minutes.  Standard library only.  The instance metadata are asked by IMDSv2: a token first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

METADATA = "http://169.254.169.254"
TOKEN_SECONDS = 21_600  # the longest that EC2 gives
POLL_SECONDS = 5.0
NOTICE_FILE = "/run/sweep/interrupted"  # trials that look for it write their resume state at once
PROCESSES = Path("/proc")
DRAIN_MARGIN_SECONDS = 10  # before the end: drained nodes must be gone from Ray's books by then


@dataclass(frozen=True)
class Notice:
    """What EC2 will do to this machine.

    Attributes:
        action: "terminate", "stop" or "hibernate".
        time: when, in seconds since 1970.
    """

    action: str
    time: float


class Effects(Protocol):
    """What follows from a notice."""

    def handle_notice(self, notice: Notice, now: float) -> None:
        """Carried out once; `now` in seconds since 1970."""


class Metadata:
    """EC2's instance metadata, version 2."""

    def __init__(self, base: str = METADATA) -> None:
        self._base = base
        self._token: str | None = None

    def notice(self) -> Notice | None:
        """The notice if there is one.

        Raises:
            OSError: the metadata do not answer, or answer nonsense.
        """
        if self._token is None:
            self._token = self._ask(
                "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
            )
        try:
            text = self._ask("GET", "/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": self._token})
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 401:  # the token has expired: the next poll takes another
                self._token = None
                return None
            if error.code == 404:
                return None
            raise
        try:
            found = json.loads(text)
            when = datetime.strptime(found["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
            return Notice(str(found["action"]), when.timestamp())
        except (ValueError, KeyError, TypeError) as error:
            raise OSError(f"not a notice: {text!r}") from error

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(self._base + path, method=method, headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=2) as answer:  # noqa: S310
            return str(answer.read().decode())


@dataclass(frozen=True)
class MarkAndDrain:
    """Leaves a file for the trials of this machine, and takes the machine out of Ray's scheduling.

    Attributes:
        file: written first, with the notice as JSON.
        ray: the command `ray`.
        head: address of the head's Ray.
        processes: what Linux says of this machine's processes.
    """

    file: Path
    ray: str
    head: str
    processes: Path = PROCESSES

    def handle_notice(self, notice: Notice, now: float) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        beside = self.file.with_name(f"{self.file.name}.new")
        beside.write_text(json.dumps({"action": notice.action, "time": notice.time}))
        beside.replace(self.file)
        left = max(1, int(notice.time - now) - DRAIN_MARGIN_SECONDS)
        node = node_id(self.head, self.processes)
        command = [
            self.ray, "drain-node", "--address", self.head, *(["--node-id", node] if node is not None else []),
            "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot interruption",
            "--deadline-remaining-seconds", str(left),
        ]  # fmt: skip
        try:
            # Where it finds no node by itself, it would start a Ray of its own, but for this variable.
            subprocess.run(command, timeout=left, check=False, env={**os.environ, "RAY_ADDRESS": self.head})
        except (OSError, subprocess.SubprocessError) as error:
            print(f"drain: {error}", flush=True)  # the file is there, and that is what keeps the work


def node_id(head: str, processes: Path = PROCESSES) -> str | None:
    """Id of this machine's node of the head's Ray; None where no process says so, or several do otherwise.

    It stands on the command line of Ray's own process here, the raylet.  Told no id, `ray drain-node` joins the
    cluster to ask for it, which costs seconds of the two minutes.
    """
    found = set()
    for file in processes.glob("[0-9]*/cmdline"):
        try:
            executable, *words = file.read_text(errors="replace").split("\0")
        except OSError:  # it has ended meanwhile
            continue
        if Path(executable).name == "raylet":
            options = {name.replace("-", "_"): value for name, _, value in (word.partition("=") for word in words)}
            if options.get("__gcs_address") == head:
                found.add(options.get("__node_id"))
    return found.pop() if len(found) == 1 else None


def watch(metadata: Metadata, effects: Effects) -> None:
    """Poll until there is a notice, then carry out its effects and return."""
    while True:
        try:
            notice = metadata.notice()
        except OSError as error:
            print(f"instance metadata: {error}", flush=True)
            notice = None
        if notice is not None:
            print(f"interruption notice: {notice.action}", flush=True)
            effects.handle_notice(notice, time.time())
            return
        time.sleep(POLL_SECONDS)


def main() -> None:
    """Watch this machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ray", required=True, help="the command ray")
    parser.add_argument("--head", required=True, help="address of the head's Ray")
    parser.add_argument("--file", type=Path, default=Path(NOTICE_FILE))
    parser.add_argument("--metadata", default=METADATA)
    options = parser.parse_args()
    watch(Metadata(options.metadata), MarkAndDrain(options.file, options.ray, options.head))


if __name__ == "__main__":
    main()
