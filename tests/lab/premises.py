"""Machines without a cloud: a desk for the user, hosts next to it, and a folder that all of them share."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.lab.cloud import SMALL_RAY
from tests.lab.laptop import copy_checkout
from tests.lab.machine import Image, Machine
from tests.lab.network import INSIDE, Network, remove_leftovers

USER = "ubuntu"
SHARED = "/shared"  # replaces NFS: one file system with the same path everywhere
CHECKOUT = f"/home/{USER}/anomaly-sweep"
FIRST = 10  # last number of the desk's address; those of the hosts follow


def addresses(names: Sequence[str]) -> dict[str, str]:
    """Return the addresses of the desk and of the hosts, by name."""
    return {name: f"{INSIDE}.1.{FIRST + n}" for n, name in enumerate(["desk", *names])}


class Premises:
    """The machines as tests use them; made by `premises`.

    Attributes:
        desk: the user's machine, with the checkout and the key to all hosts.
        hosts: hosts by name, in the order of their addresses.
        shared: the real folder that all machines have as /shared.
        environment: folder of the Python environment, the same on all machines.
    """

    def __init__(
        self, folder: Path, names: Sequence[str], files: Mapping[str, str], environment: Mapping[str, str]
    ) -> None:
        self.network = Network()
        self.environment = str(Image().python)
        self.shared = folder / "shared"
        home, key = folder / "home", folder / "home/.ssh/id_ed25519"
        key.parent.mkdir(parents=True)
        self.shared.mkdir()
        copy_checkout(home / "anomaly-sweep")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        placed = addresses(names)
        image = Image(USER, {**SMALL_RAY, **environment}, [f"{address} {name}" for name, address in placed.items()])
        made = {}
        for name, address in placed.items():
            self.network.add_machine(name, address)
            writable = {self.shared: SHARED, **({home: f"/home/{USER}"} if name == "desk" else {})}
            seed = {"authorized_keys": key.with_suffix(".pub").read_text(), **files}
            if name == "desk":
                del seed["authorized_keys"]
            made[name] = Machine(self.network, name, image, folder, hostname=name, writable=writable, seed=seed)
        self.desk = made.pop("desk")
        self.hosts: dict[str, Machine] = made
        for machine in (self.desk, *self.hosts.values()):
            machine.boot()
        for machine in (self.desk, *self.hosts.values()):
            machine.wait()
        for folder_there in (f"/home/{USER}", SHARED):
            owned = self.desk.run(["chown", "-R", f"{USER}:", folder_there], user="root")
            assert owned.returncode == 0, owned.stderr

    def run(self, *argv: object, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the checkout on the desk to its end."""
        return subprocess.run(
            self._desk_command(argv, environment),
            capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, env={},
        )  # fmt: skip

    def start(self, *argv: object, output: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command in the checkout on the desk; its output goes to a file."""
        with output.open("wb") as file:
            return subprocess.Popen(
                self._desk_command(argv, environment), stdout=file, stderr=file, stdin=subprocess.DEVNULL, env={}
            )

    def write(self, name: str, config: Mapping[str, Any]) -> str:
        """Write a YAML into the checkout.  Returns its name."""
        text = yaml.safe_dump(dict(config))
        put = self.desk.entered(["tee", f"{CHECKOUT}/{name}"])
        subprocess.run(put, input=text, text=True, check=True, stdout=subprocess.DEVNULL, env={})
        return name

    def processes(self, name: str, pattern: str) -> list[str]:
        """Return the processes of a host with a matching command line, without its PID 1, which is the host itself."""
        found = self.hosts[name].run(["pgrep", "-af", pattern], user="root").stdout.splitlines()
        return [line for line in found if "pgrep" not in line and not line.startswith("1 ")]

    def turn_on(self, name: str) -> None:
        """Switch a host on again, from the same image.  Returns when it is up."""
        self.hosts[name].boot()
        self.hosts[name].wait()

    def close(self) -> None:
        for machine in (self.desk, *self.hosts.values()):
            machine.cut_power()
        self.network.close()

    def _desk_command(self, argv: Sequence[object], environment: Mapping[str, str]) -> list[str]:
        path = f"{self.environment}/bin:/usr/local/bin:/usr/bin:/bin"
        variables = {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1", "RAY_USAGE_STATS_ENABLED": "0", **environment}
        return self.desk.entered(argv, folder=CHECKOUT, environment=variables)


@contextmanager
def premises(
    folder: Path,
    names: Sequence[str],
    files: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Premises]:
    """Yield a desk and hosts, and remove everything at the end.

    Args:
        folder: empty folder for logs and files.
        names: names of the hosts.
        files: more files for every machine's seed; see boot.sh.
        environment: more variables of SSH connections to a host.
    """
    remove_leftovers()
    made = Premises(folder, names, files or {}, environment or {})
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(folder / "shared", ignore_errors=True)


def wait(condition: Callable[[], object], seconds: float, what: Callable[[], str]) -> None:
    """Wait until a condition is true.

    Raises:
        AssertionError: it did not become true; the message has the text of `what`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s:\n{what()}"
        time.sleep(0.5)
