"""Ray's cluster launcher in a child process, because it prints much, calls exit, and reads settings at import.

    python -m sweep.providers.ray_launcher up CONFIG MADE FD        machines, files, Ray on the head
    python -m sweep.providers.ray_launcher run MADE COMMAND         a command on the head

CONFIG is the configuration for Ray, and MADE the one that Ray completed; both are JSON.  The child's output goes to a
log, and its progress events to the file descriptor FD.
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
from sweep.providers.local_files import explain_unwritable, private_text
from sweep.signals import die_with_parent, not_interrupted

ROOT = Path(__file__).resolve().parents[2]
EVENTS = {  # Ray's events, and what the user reads
    "acquiring_new_head_node": "asking for the head",
    "head_node_acquired": "the head exists, waiting for SSH",
    "ssh_control_acquired": "copying the code to it",
    "run_setup_cmd": "setting it up",
    "start_ray_runtime": "starting Ray on it",
}
LAST_LINES = 12  # lines of the log in an error message
# Lines that Ray prints for every step, and SSH for every command.
STEP = re.compile(r"\tV*INFO |!!!$|^Shared connection to|^\W*\[")
COMMAND_SECONDS = 180  # timeout of a command on the head


@dataclass(frozen=True)
class Launcher:
    """Ray's launcher for one cluster.

    Attributes:
        folder: private folder for the configuration, the one that Ray completed, and the log.
        autoscaler_v2: use Ray's second autoscaler on the head.  The first one does not manage spot machines well; the
            second one starts only one worker if the machines are a list of addresses.
    """

    folder: Path
    autoscaler_v2: bool = True

    @property
    def log(self) -> Path:
        """File with the output of all of Ray's runs."""
        return self.folder / "launcher.log"

    @property
    def made_path(self) -> Path:
        """File with the configuration that Ray completed with subnets, groups and defaults."""
        return self.folder / "made.json"

    def up(self, config: dict[str, Any], say: Callable[[str], None]) -> None:
        """Bring the head up, or up to date; Ray that runs on it is not restarted.

        Raises:
            UserError: it failed; the message has the end of Ray's output.
        """
        given = self.folder / "given.json"
        with explain_unwritable(self.folder):
            private_text(given, json.dumps(config))
        reading, writing = os.pipe()
        with (
            os.fdopen(reading) as events,
            self._child(["up", str(given), str(self.made_path), str(writing)], writing) as child,
        ):
            shown: set[str] = set()
            for event in map(str.strip, events):
                if event in EVENTS and event not in shown:
                    shown.add(event)
                    say(EVENTS[event])
            if child.wait():
                raise UserError(self._failure("Ray's launcher could not bring the head up"))

    def run(self, command: str) -> None:
        """Run a command on the head over SSH.

        Raises:
            CommandFailed: it failed; the message has the end of its output.
        """
        with self._child(["run", str(self.made_path), command]) as child:
            status = None
            with suppress(subprocess.TimeoutExpired):
                status = child.wait(COMMAND_SECONDS)
        if status != 0:
            raise CommandFailed(self._failure("a command on the head failed, or did not end"), status)

    @contextmanager
    def _child(self, words: Sequence[str], writing: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """Run this module in a child process, which is killed at the end of the block.

        Args:
            words: arguments of the module.
            writing: file descriptor for the child only; closed in this process.
        """
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        settings = {
            "PYTHONPATH": path,  # Ray imports our node provider by its name
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_UP_enable_autoscaler_v2": str(int(self.autoscaler_v2)),
            "PYTHONUNBUFFERED": "1",
        }
        child = None
        try:
            with not_interrupted():
                with explain_unwritable(self.folder):
                    log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                child = subprocess.Popen(
                    [sys.executable, "-m", "sweep.providers.ray_launcher", *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[] if writing is None else [writing],
                    env={**kept, **settings},
                    start_new_session=True,  # so that Ctrl-C reaches only this process, which then stops the child
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
        return f"{what}; the end of {self.log}:\n" + "\n".join(f"  {line}" for line in telling(text)[-LAST_LINES:])


def telling(text: str) -> list[str]:
    """Return the lines of Ray's log that help a person: no steps, and of each traceback only its last line."""
    found, inside = [], False
    for line in text.splitlines():
        inside = "Traceback (most recent call last)" in line or (inside and (line.startswith(" ") or not line))
        if not inside and line.strip() and not STEP.search(line):
            found.append(line.rstrip())
    return found


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and the SSH that it runs; SSH's shared connections end by themselves."""
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
            global_event_system.add_callback_handler(event, [tell])  # type: ignore[arg-type]  # Ray compares the event, not its name
        _forget_connections(json.loads(given.read_text()))
        # Without no_restart, Ray on a running head is restarted, which kills the launch there.
        config = create_or_update_cluster(str(given), no_restart=True, no_config_cache=True)
    private_text(made, json.dumps(config))


def _run(made: Path, command: str) -> None:
    from ray.autoscaler._private import command_runner

    command_runner.set_using_login_shells(False)
    runner = _runner(json.loads(made.read_text()))
    runner.run(command, run_env="host", with_output=True)  # otherwise Ray handles a pipe that does not exist


def _forget_connections(config: dict[str, Any]) -> None:
    """Remove shared SSH connections to an earlier head of this name, because a new head may have its address."""
    from getpass import getuser
    from hashlib import sha256
    from shutil import rmtree

    user, cluster = (sha256(name.encode()).hexdigest()[:10] for name in (getuser(), config["cluster_name"]))
    rmtree(f"/tmp/ray_ssh_{user}/{cluster}", ignore_errors=True)  # noqa: S108  (where Ray puts them)


def _runner(config: dict[str, Any]) -> Any:
    """Return Ray's runner of commands on the head, over SSH as configured."""
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler.tags import NODE_KIND_HEAD, TAG_RAY_NODE_KIND

    provider = _get_node_provider(config["provider"], config["cluster_name"])
    nodes = provider.non_terminated_nodes({TAG_RAY_NODE_KIND: NODE_KIND_HEAD})
    if not nodes:
        raise SystemExit("no head exists")
    section = config["provider"]
    internal = bool(section.get("use_internal_ips")) and not section.get("use_external_head_ip")
    return provider.get_command_runner(
        "", nodes[0], config["auth"], config["cluster_name"], _Logged, internal, config.get("docker")
    )


class _Logged:
    """Replacement for the module subprocess in Ray, so that the output of commands goes to the log."""

    @staticmethod
    def check_output(command: Sequence[str]) -> None:
        subprocess.check_call(command, stdin=subprocess.DEVNULL)


def main(words: Sequence[str]) -> None:
    """Run the child's command: `up` or `run`."""
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
    except ProcessRunnerError as error:  # its output is in the log already
        print(f"status {error.code}", file=sys.stderr)
        raise SystemExit(error.code or 1) from None
    except NodeLaunchException as error:
        raise SystemExit(f"{error.category}: {error.description}") from None
    except ClickException as error:
        raise SystemExit(error.format_message()) from None


if __name__ == "__main__":
    main(sys.argv[1:])
