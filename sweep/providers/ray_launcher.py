"""Ray's cluster launcher, in a process of its own: it prints at length, exits, and reads settings at import.

    python -m sweep.providers.ray_launcher up CONFIG MADE FD        machines, files, Ray on the head
    python -m sweep.providers.ray_launcher run MADE COMMAND         a command on the head

CONFIG is what Ray is given, MADE what it has made of it, both JSON.  What it prints goes to a log.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.errors import CommandFailed, UserError
from sweep.providers.local_files import kept_in, private_text
from sweep.signals import die_with_parent, not_interrupted

ROOT = Path(__file__).resolve().parents[2]
SAID = {  # Ray's events, in words
    "acquiring_new_head_node": "asking for the head",
    "head_node_acquired": "the head is there, waiting for SSH",
    "ssh_control_acquired": "copying the code to it",
    "run_setup_cmd": "setting it up",
    "start_ray_runtime": "starting Ray on it",
}
LAST_LINES = 12
STEP = re.compile(
    r"\tV*INFO |!!!$|^Shared connection to|^\W*\["
)  # what Ray says of every step, and SSH of every command
COMMAND_SECONDS = 180


@dataclass(frozen=True)
class Launcher:
    """Ray's launcher for one cluster.

    Attributes:
        folder: private; holds what Ray is given, what it made of it, and the log.
        autoscaler_v2: which autoscaler runs on the head; the first does not manage spot well, the second
            starts one worker only where machines are a list of addresses.
    """

    folder: Path
    autoscaler_v2: bool = True

    @property
    def log(self) -> Path:
        """What Ray printed, of every time."""
        return self.folder / "launcher.log"

    @property
    def made_path(self) -> Path:
        """What Ray made of the configuration: with subnets, groups and defaults filled in."""
        return self.folder / "made.json"

    def up(self, config: dict[str, Any], say: Callable[[str], None]) -> None:
        """Bring the head up, or up to date; Ray that runs on it is not restarted.

        Raises:
            UserError: with the last of what Ray printed.
        """
        given = self.folder / "given.json"
        with kept_in(self.folder):
            private_text(given, json.dumps(config))
        reading, writing = os.pipe()
        with (
            os.fdopen(reading) as events,
            self._child(["up", str(given), str(self.made_path), str(writing)], writing) as child,
        ):
            told: set[str] = set()
            for event in map(str.strip, events):
                if event in SAID and event not in told:
                    told.add(event)
                    say(SAID[event])
            if child.wait():
                raise UserError(self._failure("Ray's launcher could not bring the head up"))

    def run(self, command: str) -> None:
        """Run a command on the head over SSH.

        Raises:
            CommandFailed: it failed, with the last of what it printed.
        """
        with self._child(["run", str(self.made_path), command]) as child:
            status = None
            with suppress(subprocess.TimeoutExpired):
                status = child.wait(COMMAND_SECONDS)
        if status != 0:
            raise CommandFailed(self._failure("a command on the head failed, or did not end"), status)

    @contextmanager
    def _child(self, words: Sequence[str], writing: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """This module in a process of its own, gone at the end of the block; `writing` is for it alone."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        settings = {
            "PYTHONPATH": path,  # where Ray finds a provider of ours by its name
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_UP_enable_autoscaler_v2": str(int(self.autoscaler_v2)),
            "PYTHONUNBUFFERED": "1",
        }
        child = None
        try:
            with not_interrupted():
                with kept_in(self.folder):
                    log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                child = subprocess.Popen(
                    [sys.executable, "-m", "sweep.providers.ray_launcher", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[] if writing is None else [writing],
                    env={**kept, **settings},
                    start_new_session=True,  # Ctrl-C comes to us, and we decide
                    preexec_fn=die_with_parent,
                )
                os.close(log)
                if writing is not None:
                    os.close(writing)
            yield child
        finally:
            if child is not None:
                _end(child)

    def _failure(self, what: str) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return f"{what}; the last of {self.log}:\n" + "\n".join(f"  {line}" for line in telling(text)[-LAST_LINES:])


def telling(text: str) -> list[str]:
    """Lines of Ray's log that may tell a person what went wrong: neither tracebacks but for their ends, nor steps."""
    found, inside = [], False
    for line in text.splitlines():
        inside = "Traceback (most recent call last)" in line or (inside and (line.startswith(" ") or not line))
        if not inside and line.strip() and not STEP.search(line):
            found.append(line.rstrip())
    return found


def _end(child: subprocess.Popen[bytes]) -> None:
    """The child and the SSH that it runs; masters of shared connections end by themselves."""
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _up(given: Path, made: Path, events: int) -> None:
    from ray.autoscaler._private.event_system import CreateClusterEvent, global_event_system
    from ray.autoscaler.sdk import create_or_update_cluster

    with os.fdopen(events, "w", buffering=1) as pipe:

        def tell(event: dict[str, Any]) -> None:
            with suppress(OSError):
                pipe.write(f"{event['event_name'].name}\n")

        for event in CreateClusterEvent:
            global_event_system.add_callback_handler(event, [tell])  # type: ignore[arg-type]  # goes by the event, not by its name
        _forget_connections(json.loads(given.read_text()))
        # Without no_restart Ray on a live head is started again, and what runs there dies.
        config = create_or_update_cluster(str(given), no_restart=True, no_config_cache=True)
    private_text(made, json.dumps(config))


def _run(made: Path, command: str) -> None:
    from ray.autoscaler._private import command_runner

    command_runner.set_using_login_shells(False)
    runner = _runner(json.loads(made.read_text()))
    runner.run(command, run_env="host", with_output=True)  # without it Ray looks after a pipe that is not there


def _forget_connections(config: dict[str, Any]) -> None:
    """Shared SSH connections to an earlier head of this name, whose address a new one may have."""
    from getpass import getuser
    from hashlib import sha256
    from shutil import rmtree

    user, cluster = (sha256(name.encode()).hexdigest()[:10] for name in (getuser(), config["cluster_name"]))
    rmtree(f"/tmp/ray_ssh_{user}/{cluster}", ignore_errors=True)  # noqa: S108  (where Ray puts them)


def _runner(config: dict[str, Any]) -> Any:
    """What runs commands on the head, over SSH as the configuration says."""
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler.tags import NODE_KIND_HEAD, TAG_RAY_NODE_KIND

    provider = _get_node_provider(config["provider"], config["cluster_name"])
    nodes = provider.non_terminated_nodes({TAG_RAY_NODE_KIND: NODE_KIND_HEAD})
    if not nodes:
        raise SystemExit("there is no head")
    section = config["provider"]
    internal = bool(section.get("use_internal_ips")) and not section.get("use_external_head_ip")
    return provider.get_command_runner(
        "", nodes[0], config["auth"], config["cluster_name"], _Logged, internal, config.get("docker")
    )


class _Logged:
    """In place of the module subprocess: what a command prints goes to the log and not to Ray."""

    @staticmethod
    def check_output(command: Sequence[str]) -> None:
        subprocess.check_call(command, stdin=subprocess.DEVNULL)


def main(words: Sequence[str]) -> None:
    """What the child does."""
    from click import ClickException
    from ray.autoscaler._private.subprocess_output_util import ProcessRunnerError
    from ray.autoscaler.node_launch_exception import NodeLaunchException
    from ray.autoscaler.sdk import configure_logging

    configure_logging(log_style="record", color_mode="false", verbosity=0)
    try:
        if words[0] == "up":
            _up(Path(words[1]), Path(words[2]), int(words[3]))
        else:
            _run(Path(words[1]), words[2])
    except ProcessRunnerError as error:  # what it printed stands above
        print(f"status {error.code}", file=sys.stderr)
        raise SystemExit(error.code or 1) from None
    except NodeLaunchException as error:
        raise SystemExit(f"{error.category}: {error.description}") from None
    except ClickException as error:
        raise SystemExit(error.format_message()) from None


if __name__ == "__main__":
    main(sys.argv[1:])
