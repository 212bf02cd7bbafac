"""The user's machine: outside of the cloud, with a copy of the checkout, a home folder and no SSH agent."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from tests.lab.machine import ROOT, Image, Machine
from tests.lab.network import Network

USER = "me"
HOME = f"/home/{USER}"
CHECKOUT = f"{HOME}/anomaly-sweep"


class Laptop:
    """A machine that can be switched off and on again; home folder and checkout stay.

    Args:
        network: network with a namespace `name` from `add_laptop`.
        name: name of the machine.
        folder: folder for home and checkout.
        environment: variables of every command.
    """

    def __init__(self, network: Network, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.home = folder / "home"
        self.checkout = self.home / "anomaly-sweep"
        self.home.mkdir(parents=True)
        copy_checkout(self.checkout)
        image = Image(user=USER)
        self.environment = {
            "PATH": f"{image.python}/bin:/usr/local/bin:/usr/bin:/bin",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        self._machine = Machine(network, name, image, folder, hostname=name, writable={self.home: HOME})

    def switch_on(self) -> None:
        self._machine.boot()
        self._machine.wait()
        owned = self._machine.run(["chown", "-R", f"{USER}:", HOME], user="root")
        assert owned.returncode == 0, owned.stderr

    def cut_power(self) -> None:
        """End all processes of the user at once."""
        self._machine.cut_power()

    def run(self, argv: Sequence[object], timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout to its end.

        Raises:
            AssertionError: it has not ended within `timeout` seconds; the message has its output.
        """
        command = self._command(argv, environment)
        try:
            return subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, env={}
            )
        except subprocess.TimeoutExpired as late:
            output = b"".join(part for part in (late.stdout, late.stderr) if isinstance(part, bytes)).decode()
            words = " ".join(map(str, argv))
            raise AssertionError(f"{words}: still running after {timeout:g} s\n{output[-6000:]}") from None

    def start(
        self, argv: Sequence[object], output: IO[str] | int = subprocess.PIPE, **environment: str
    ) -> subprocess.Popen[str]:
        """Start a command in the checkout; `signal` sends it signals."""
        return subprocess.Popen(
            self._command(argv, environment),
            stdout=output, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, env={},
        )  # fmt: skip

    def signal(self, process: subprocess.Popen[str], number: signal.Signals) -> None:
        """Send a signal to a command of `start`."""
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), number)

    def _command(self, argv: Sequence[object], environment: Mapping[str, str]) -> list[str]:
        return self._machine.entered(argv, folder=CHECKOUT, environment={**self.environment, **environment})


def copy_checkout(target: Path) -> None:
    """Copy the files that git tracks or would track, with their present content, into a repository with one commit."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    author = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    for words in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "The checkout"]):
        subprocess.run(["git", *words], cwd=target, check=True, stdin=subprocess.DEVNULL)
