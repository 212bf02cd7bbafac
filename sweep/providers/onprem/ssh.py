"""Commands on hosts over SSH, with the user's own SSH settings.  SSH never asks a question."""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sweep.errors import CommandFailed, UserError
from sweep.spec.cluster import OnPrem

CONNECT_SECONDS = 10  # timeout of a connection
SECONDS = 120  # timeout of a command
LOST = 255  # exit status of SSH if SSH itself has failed, and not the command
OPTIONS = (
    "BatchMode=yes", f"ConnectTimeout={CONNECT_SECONDS}", "StrictHostKeyChecking=accept-new", "LogLevel=ERROR",
    "ServerAliveInterval=5", "ServerAliveCountMax=3",  # end the connection to a host that hangs or is gone
)  # fmt: skip
Found = TypeVar("Found")


class Unreached(UserError):
    """SSH does not reach a host."""


def user(cluster: OnPrem) -> str:
    """Return the user name on all hosts."""
    return cluster.ssh_user or getpass.getuser()


def words(cluster: OnPrem, host: str) -> list[str]:
    """Return the SSH command for a host; a shell command is appended to it."""
    options = [part for option in OPTIONS for part in ("-o", option)]
    key = ["-i", str(Path(cluster.ssh_key).expanduser())] if cluster.ssh_key else []
    return ["ssh", *options, *key, "-l", user(cluster), host]


def run(cluster: OnPrem, host: str, script: str, seconds: float = SECONDS) -> str:
    """Run a shell script on a host.  Returns its output.

    Raises:
        Unreached: SSH does not connect, or does not return in time.
        CommandFailed: the script failed; the message has the end of its output.
        UserError: SSH is not installed here.
    """
    try:
        ran = subprocess.run(
            [*words(cluster, host), "bash -s"], input=script, capture_output=True, text=True, timeout=seconds
        )
    except FileNotFoundError:
        raise UserError("ssh: this command is not installed here") from None
    except subprocess.TimeoutExpired:
        raise Unreached(f"{host}: no answer for {seconds:g} seconds") from None
    output = " ".join(ran.stderr.split())
    if ran.returncode == LOST:
        raise Unreached(f"{host}: SSH as {user(cluster)} does not connect: {output or 'no reason given'}")
    if ran.returncode:
        reason = output or ran.stdout.strip()[-300:]
        raise CommandFailed(f"{host}: a command failed (status {ran.returncode}): {reason}", ran.returncode)
    return ran.stdout


def run_on_all(hosts: Sequence[str], action: Callable[[str], Found]) -> dict[str, Found | UserError]:
    """Call `action` for each host, all at once.  Returns its result for each host, or the UserError that it raised."""

    def one(host: str) -> Found | UserError:
        try:
            return action(host)
        except UserError as error:
            return error

    with ThreadPoolExecutor(max_workers=min(32, len(hosts))) as pool:
        return dict(zip(hosts, pool.map(one, hosts), strict=True))


def parse_facts(text: str) -> dict[str, list[str]]:
    """Parse lines of the form name=value; returns the values by name."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found.setdefault(name, []).append(value)
    return found
