"""Wait for EC2's notice that it will take this spot machine away, and react to it once.

    python3 spot_notice.py --ray /opt/sweep/venv/bin/ray --head 10.0.0.5:6379

EC2 gives the notice two minutes before.  Only the standard library is needed.  The instance metadata are read by
IMDSv2, which requires a token.
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
TOKEN_SECONDS = 21_600  # longest lifetime of a token that EC2 allows
POLL_SECONDS = 5.0
NOTICE_FILE = "/run/sweep/interrupted"  # trials that see it write their resume state at once
PROCESSES = Path("/proc")
DRAIN_MARGIN_SECONDS = 10  # Ray must have removed the node so long before the machine ends


@dataclass(frozen=True)
class Notice:
    """EC2's plan for this machine.

    Attributes:
        action: "terminate", "stop" or "hibernate".
        time: time of the action, in seconds since 1970.
    """

    action: str
    time: float


class Effects(Protocol):
    """Reaction to a notice."""

    def handle_notice(self, notice: Notice, now: float) -> None:
        """React to a notice; called once, with the present time in seconds since 1970."""


class Metadata:
    """EC2's instance metadata, version 2."""

    def __init__(self, base: str = METADATA) -> None:
        self._base = base
        self._token: str | None = None

    def notice(self) -> Notice | None:
        """Return the notice; None if there is none.

        Raises:
            OSError: the metadata service does not answer, or its answer is no notice.
        """
        if self._token is None:
            self._token = self._ask(
                "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
            )
        try:
            text = self._ask("GET", "/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": self._token})
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 401:  # the token has expired; the next poll requests a new one
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
    """Writes a file for the trials on this machine, and removes the machine from Ray's scheduling.

    Attributes:
        file: file that is written first, with the notice as JSON.
        ray: path of the command `ray`.
        head: address of the head's Ray.
        processes: Linux's folder of processes.
    """

    file: Path
    ray: str
    head: str
    processes: Path = PROCESSES

    def handle_notice(self, notice: Notice, now: float) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        new_file = self.file.with_name(f"{self.file.name}.new")
        new_file.write_text(json.dumps({"action": notice.action, "time": notice.time}))
        new_file.replace(self.file)
        left = max(1, int(notice.time - now) - DRAIN_MARGIN_SECONDS)
        node = node_id(self.head, self.processes)
        command = [
            self.ray, "drain-node", "--address", self.head, *(["--node-id", node] if node is not None else []),
            "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot interruption",
            "--deadline-remaining-seconds", str(left),
        ]  # fmt: skip
        try:
            # Without RAY_ADDRESS, this command starts a new Ray if it finds no node.
            subprocess.run(command, timeout=left, check=False, env={**os.environ, "RAY_ADDRESS": self.head})
        except (OSError, subprocess.SubprocessError) as error:
            print(f"drain: {error}", flush=True)  # the file was written, and it alone saves the work


def node_id(head: str, processes: Path = PROCESSES) -> str | None:
    """Return the Ray id of this machine's node in the head's cluster; None if no process has one, or several differ.

    The id is on the command line of Ray's process on this machine, the raylet.  Without an id, `ray drain-node` joins
    the cluster to find it, which takes seconds of the two minutes.
    """
    found = set()
    for file in processes.glob("[0-9]*/cmdline"):
        try:
            executable, *words = file.read_text(errors="replace").split("\0")
        except OSError:  # the process has ended
            continue
        if Path(executable).name == "raylet":
            options = {name.replace("-", "_"): value for name, _, value in (word.partition("=") for word in words)}
            if options.get("__gcs_address") == head:
                found.add(options.get("__node_id"))
    return found.pop() if len(found) == 1 else None


def watch(metadata: Metadata, effects: Effects) -> None:
    """Poll until there is a notice, react to it, and return."""
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
