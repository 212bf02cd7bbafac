"""Commands on hosts over SSH, as the user's own SSH reaches them; nothing is ever asked."""

from __future__ import annotations

import getpass
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sweep.errors import CommandFailed, UserError
from sweep.spec.cluster import OnPrem

CONNECT_SECONDS = 10
SECONDS = 120
LOST = 255  # by which SSH says that it, not the command, has failed
OPTIONS = (
    "BatchMode=yes", f"ConnectTimeout={CONNECT_SECONDS}", "StrictHostKeyChecking=accept-new", "LogLevel=ERROR",
    "ServerAliveInterval=5", "ServerAliveCountMax=3",  # of a host that hangs, or is gone, once it was reached
)  # fmt: skip
Found = TypeVar("Found")


class Unreached(UserError):
    """A host that SSH does not reach."""


def user(cluster: OnPrem) -> str:
    """Of all hosts."""
    return cluster.ssh_user or getpass.getuser()


def words(cluster: OnPrem, host: str) -> list[str]:
    """The command line that a shell command is appended to."""
    options = [part for option in OPTIONS for part in ("-o", option)]
    key = ["-i", str(Path(cluster.ssh_key).expanduser())] if cluster.ssh_key else []
    return ["ssh", *options, *key, "-l", user(cluster), host]


def run(cluster: OnPrem, host: str, script: str, seconds: float = SECONDS) -> str:
    """Run a script of the shell on a host; returns what it prints.

    Raises:
        Unreached: SSH does not come there, or does not come back.
        CommandFailed: the script failed, with the last of what it said.
        UserError: there is no SSH here.
    """
    try:
        ran = subprocess.run(
            [*words(cluster, host), "bash -s"], input=script, capture_output=True, text=True, timeout=seconds
        )
    except FileNotFoundError:
        raise UserError("ssh: there is no such command here") from None
    except subprocess.TimeoutExpired:
        raise Unreached(f"{host}: no answer for {seconds:g} seconds") from None
    said = " ".join(ran.stderr.split())
    if ran.returncode == LOST:
        raise Unreached(f"{host}: SSH as {user(cluster)} does not get there: {said or 'no reason given'}")
    if ran.returncode:
        last = said or ran.stdout.strip()[-300:]
        raise CommandFailed(f"{host}: a command failed (status {ran.returncode}): {last}", ran.returncode)
    return ran.stdout


def everywhere(hosts: Sequence[str], what: Callable[[str], Found]) -> dict[str, Found | UserError]:
    """`what` of each host, all at once; where it raises a UserError, that."""

    def one(host: str) -> Found | UserError:
        try:
            return what(host)
        except UserError as error:
            return error

    with ThreadPoolExecutor(max_workers=min(32, len(hosts))) as pool:
        return dict(zip(hosts, pool.map(one, hosts), strict=True))


def facts(text: str) -> dict[str, list[str]]:
    """Lines of the form name=value, by name."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found.setdefault(name, []).append(value)
    return found
