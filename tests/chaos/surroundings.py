"""Stories of launches in odd surroundings: they work, or say in one line why not; nothing foreign is touched."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.story import Launch, Story, files_in, story, wait
from tests.chaos.tally import Tally

USER, OTHER_USER = 12345, 54321
FOREIGN = "FOREIGN_RAY"  # environment variable of all its processes


@dataclass
class Odd:
    """Surroundings of one launch.

    Attributes:
        before: words before the command.
        variables: environment variables.
        harmed: returns what happened to foreign things; "" if nothing did.
    """

    before: Sequence[str] = ()
    variables: dict[str, str] = field(default_factory=dict)
    harmed: Callable[[], str] = lambda: ""


Setup = Callable[[Story], AbstractContextManager[Odd]]


def surrounded(name: str, seed: int = 0) -> Tally:
    """Launch a sweep in odd surroundings; if it is refused there, in usual ones.  The seed changes nothing."""
    with story(kind="fixed") as told:
        told.tally.tries = 1
        with SURROUNDINGS[name](told) as odd:
            launch = Launch(told, before=odd.before, variables=odd.variables)
            code = launch.wait()
            told.take(launch)
            harmed = odd.harmed()
            told.tally.add("left", bool(harmed), harmed)
        is_clear = code == 0 or (code == 1 and launch.output.count("error: ") == 1)
        told.tally.add("lost", not is_clear, f"ended with {code}:\n{launch.output}")
        told.tally.notes += [launch.output] * (code != 0)
        told.finish()
        return told.tally


def _variables(**values: str) -> Setup:
    return lambda told: _just(Odd(variables=values))


def _shell(line: str) -> Setup:
    return lambda told: _just(Odd(before=("bash", "-c", f'{line}; exec "$@"', "bash")))


@contextmanager
def _just(odd: Odd) -> Iterator[Odd]:
    yield odd


@contextmanager
def _temporary(told: Story, name: str) -> Iterator[Odd]:
    folder = told.temporary / name
    folder.mkdir()
    yield Odd(variables={"TMPDIR": str(folder)}, harmed=lambda: " ".join(files_in(folder)))
    shutil.rmtree(folder)


def as_user(told: Story) -> tuple[str, ...]:
    """Give the story's folders to a user without rights, and return the words that run a command as this user."""
    for folder in (told.folder, told.temporary):
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(folder)], check=True)
    may_read = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")  # Python may lie in root's home
    return ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs", *may_read)


@contextmanager
def _user(told: Story, home: str) -> Iterator[Odd]:
    yield Odd(as_user(told), {"HOME": home.format(told.folder)})


@contextmanager
def _foreign_folder(told: Story) -> Iterator[Odd]:
    """Make another user's /tmp/ray, in a /tmp of our own."""
    private = told.folder / "tmp"
    (private / "ray").mkdir(parents=True)
    private.chmod(0o1777)
    (private / "ray/theirs").write_text("theirs")
    words = as_user(told)
    private.chmod(0o1777)
    subprocess.run(["chown", "-R", f"{OTHER_USER}", str(private / "ray")], check=True)
    (private / "ray").chmod(0o700)
    mounted = f'mount --bind {shlex.quote(str(private))} /tmp && exec "$@"'
    yield Odd(
        ("unshare", "--mount", "sh", "-c", mounted, "sh", *words),
        {"TMPDIR": "/tmp", "HOME": str(told.folder)},
        lambda: "" if files_in(private) == ["ray"] and (private / "ray/theirs").exists() else f"{files_in(private)}",
    )  # fmt: skip


@contextmanager
def _foreign_ray(told: Story) -> Iterator[Odd]:
    """Start somebody else's Ray, and point to it as its users do."""
    with (
        tempfile.TemporaryDirectory(prefix="f-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        socket.socket() as s,
    ):
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
        s.close()
        ray = [sys.executable, "-m", "ray.scripts.scripts"]
        kept = {**os.environ, FOREIGN: folder, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        start = [*ray, "start", "--head", f"--port={port}", "--temp-dir", folder, "--include-dashboard=false"]
        start += ["--num-cpus=1", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
        subprocess.run(start, env=kept, check=True, capture_output=True)
        try:
            before = _of_foreign(folder)
            assert before
            yield Odd(
                variables={"RAY_ADDRESS": f"127.0.0.1:{port}"},
                harmed=lambda: "" if _of_foreign(folder) == before else f"{before} became {_of_foreign(folder)}",
            )
        finally:
            for pid in _of_foreign(folder):
                subprocess.run(["kill", "-9", str(pid)], capture_output=True)
            wait(lambda: not _of_foreign(folder))


def _of_foreign(folder: str) -> list[int]:
    """Return the processes of the foreign Ray."""
    found, theirs = [], f"{FOREIGN}={folder}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = environ.read_bytes().split(b"\0")
        except OSError:
            continue
        if theirs in variables:
            found.append(int(environ.parent.name))
    return sorted(found)


@contextmanager
def _busy_ports(told: Story) -> Iterator[Odd]:
    """Take the ports that Ray uses if nobody tells it others."""
    with ExitStack() as stack:
        for port in (6379, 8265, 8076, 10001, 52365, 44217, 44227):
            taken = stack.enter_context(socket.socket())
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind(("", port))
                taken.listen()
            except OSError:  # somebody else has it, which is as good
                continue
        yield Odd()


PROXIES = {
    name: "http://127.0.0.1:9" for low in ("http_proxy", "https_proxy", "all_proxy") for name in (low, low.upper())
}
SURROUNDINGS: dict[str, Setup] = {
    "no HOME": _shell("unset HOME"),
    "HOME does not exist": _variables(HOME="/nonexistent/home"),
    "HOME cannot be written": lambda told: _user(told, "/"),
    "another user": lambda told: _user(told, "{}"),
    "TMPDIR is long": lambda told: _temporary(told, "x" * 100),
    "TMPDIR has spaces": lambda told: _temporary(told, "a b"),
    "TMPDIR does not exist": _variables(TMPDIR="/nonexistent/tmp"),
    "RAY_ADDRESS is nonsense": _variables(RAY_ADDRESS="nonsense:1"),
    "RAY_ADDRESS is of a client": _variables(RAY_ADDRESS="ray://127.0.0.1:9"),
    "a foreign Ray": _foreign_ray,
    "another user's /tmp/ray": _foreign_folder,
    "busy ports": _busy_ports,
    "dead proxies": _variables(**PROXIES, NO_PROXY="", no_proxy=""),
    "256 open files": _shell("ulimit -n 256"),
    "64 open files": _shell("ulimit -n 64"),
    "an ASCII locale": _variables(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0"),
    "umask 077": _shell("umask 077"),
}
NEED_ROOT = ("HOME cannot be written", "another user", "another user's /tmp/ray")
