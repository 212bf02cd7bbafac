"""A machine made of namespaces, whose power and network can be cut."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab.network import Network, pids

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_SECONDS = 60.0


@dataclass(frozen=True)
class Image:
    """Content of a machine: the real machine's root without the checkout, with its Python environment.

    Attributes:
        user: user that logs in.
        environment: variables of SSH connections.
        hosts: more lines of /etc/hosts.
    """

    user: str = "ubuntu"
    environment: Mapping[str, str] = field(default_factory=dict)
    hosts: Sequence[str] = ()

    @property
    def python(self) -> Path:
        """Folder of the Python environment, for `cluster.environment`."""
        return Path(sys.prefix)


class Machine:
    """A machine, which is off at first.  `boot` returns at once, and `wait` when the machine is up.

    A machine dies with the thread that has booted it, so this thread must live as long.

    Args:
        network: network of the machine; it must have a namespace `name`.
        name: name of the machine, unique in the network.
        image: image of the machine.
        folder: folder for the seed and the log of the boot.
        hostname: hostname of the machine.
        writable: folders of the real machine that stay, and their paths in this one.
        seed: more files of the seed, by name; see boot.sh.
    """

    def __init__(
        self,
        network: Network,
        name: str,
        image: Image,
        folder: Path,
        *,
        hostname: str,
        writable: Mapping[Path, str] | None = None,
        seed: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.image = image
        self.log = folder / f"{name}.log"
        self._network = network
        self._process: subprocess.Popen[bytes] | None = None
        self._init: int | None = None
        self._seed = folder / f"{name}.seed"
        shutil.rmtree(self._seed, ignore_errors=True)
        self._seed.mkdir(parents=True)
        shutil.copy(HERE / "power.sh", self._seed)
        files = {
            "hostname": hostname,
            "user": image.user,
            "hidden": _lines(_hidden_folders()),
            "image": _lines(_image_folders()),
            "passed": _lines(_passed_through()),
            "environment": _lines(f"{key}={value}" for key, value in image.environment.items()),
            "hosts": _lines(image.hosts),
            "writable": _lines(f"{source} {target}" for source, target in (writable or {}).items()),
            **(seed or {}),
        }
        for file, text in files.items():
            (self._seed / file).write_text(text)

    def boot(self) -> None:
        """Switch the machine on."""
        # The machine has its own process namespace, so it dies completely, and its `ray stop` ends no Ray elsewhere.
        command = [
            "setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{self._network.netns(self.name)}",
            "unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=SIGKILL",
            "bash", str(HERE / "boot.sh"), str(self._seed),
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env={"PATH": PATH}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._init = None

    @property
    def is_on(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait(self) -> None:
        """Wait until the boot has ended.

        Raises:
            RuntimeError: it has not ended in time.
        """
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline and self.is_on:
            with suppress(RuntimeError):
                if self.run(["test", "-e", "/run/booted"], user="root").returncode == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not come up:\n{self.log.read_text(errors='replace')[-2000:]}")

    def run(
        self, argv: Sequence[object], timeout: float = 120, *, user: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, by default as the image's user."""
        return subprocess.run(
            self.entered(argv, user), timeout=timeout, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={}
        )

    def entered(
        self,
        argv: Sequence[object],
        user: str | None = None,
        *,
        folder: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Return the command that runs `argv` in the machine; it is killed if the process that runs it is killed."""
        user = user or self.image.user
        home = "/root" if user == "root" else f"/home/{user}"
        variables = {"HOME": home, "USER": user, "PATH": PATH, "LANG": "C.UTF-8", **(environment or {})}
        return [
            "/usr/bin/nsenter", f"--target={self._first_process()}", "--mount", "--pid", "--net", "--uts", "--ipc",
            "--root", "--wd",
            "/usr/bin/setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--pdeathsig", "KILL",
            "/usr/bin/env", "-i", "-C", folder or home, *(f"{key}={value}" for key, value in variables.items()),
            *map(str, argv),
        ]  # fmt: skip

    def shut_down(self) -> None:
        """Begin to shut down like an operating system: all processes get a signal, and some seconds to end."""
        with suppress(RuntimeError, ProcessLookupError):
            os.kill(self._first_process(), signal.SIGTERM)

    def cut_power(self) -> None:
        """Kill everything at once, without any message."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        for pid in pids(self._network.netns(self.name)):  # a command that was about to enter the machine
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def cut_network(self) -> None:
        self._network.set_link(self.name, up=False)

    def join_network(self) -> None:
        self._network.set_link(self.name, up=True)

    def _first_process(self) -> int:
        """Return the process id, on the real machine, of the machine's PID 1."""
        assert self._process is not None, f"{self.name} was never switched on"
        if self._init is None:
            pid = self._process.pid
            children = Path(f"/proc/{pid}/task/{pid}/children")
            found = children.read_text().split() if children.exists() else []
            if not found:
                raise RuntimeError(f"{self.name} is off")
            self._init = int(found[0])
        return self._init


def _hidden_folders() -> list[str]:
    """Return this checkout, and the checkout of the Python environment: machines must get code only by shipping."""
    owners = {ROOT} | ({Path(sys.prefix).parent} if sys.prefix != sys.base_prefix else set())
    return sorted(map(str, owners))


def _image_folders() -> list[str]:
    """Return the Python environment, and its interpreter if that is in a hidden checkout or on another disk."""
    interpreter, folders = Path(sys.base_prefix), {Path(sys.prefix)}
    if interpreter.is_relative_to(ROOT) or interpreter.stat().st_dev != Path("/").stat().st_dev:
        folders.add(interpreter)
    return sorted(map(str, folders))


def _passed_through() -> list[str]:
    """Return the folders above the environment and its interpreter, which may be closed to other users."""
    return sorted({str(above) for prefix in (sys.prefix, sys.base_prefix) for above in Path(prefix).parents} - {"/"})


def _lines(values: Iterable[str]) -> str:
    return "".join(f"{value}\n" for value in values)
