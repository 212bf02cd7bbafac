"""Ray's launcher in a child process: a failure is one clear problem, and an interruption ends the child."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import threading
from pathlib import Path

import pytest
from ray.autoscaler.node_provider import NodeProvider

from sweep.errors import CommandFailed, UserError
from sweep.providers import ray_launcher
from sweep.providers.local_files import private_text
from sweep.providers.ray_launcher import Launcher
from tests.support.sweeps import ROOT, descendants, wait_until


def test_a_failure_is_one_problem_with_the_last_that_was_printed_and_where_the_rest_is(tmp_path: Path) -> None:
    words: list[str] = []
    with pytest.raises(UserError) as caught:
        Launcher(tmp_path).up({"cluster_name": "x", "provider": {"type": "nonsense"}}, words.append)
    (problem,) = caught.value.problems
    assert problem.startswith("Ray's launcher could not bring the head up")
    assert str(tmp_path / "launcher.log") in problem
    assert "nonsense" in problem
    assert "Traceback" not in problem
    assert words == []
    assert not (tmp_path / "made.json").exists()
    for name in ("given.json", "launcher.log"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_file_of_secrets_is_whole_or_as_it_was_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "auth_token"
    path.write_text("before")
    with pytest.raises(UnicodeEncodeError):  # raised in the middle of writing, like an error of a full disk
        private_text(path, "x" * 100_000 + "\udcff")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("auth_token", "before")]
    private_text(path, "after")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("auth_token", "after")]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_disk_that_is_full_is_one_problem_that_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_launcher, "private_text", full)
    with pytest.raises(UserError, match=r"No space left.*XDG_CACHE_HOME"):
        Launcher(tmp_path).up({}, lambda text: None)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_told_of_a_log_is_what_went_wrong() -> None:
    log = """2026-11-22 08:43:21,306\tINFO updater.py:509 -- [7/7] Starting the Ray runtime
Shared connection to 203.0.113.10 closed.
Traceback (most recent call last):
  File "ray", line 10, in <module>
    sys.exit(main())
             ^^^^^^

Exception: The current node timed out during startup.
2026-11-22 08:44:23,362\tERR updater.py:191 -- Full traceback: Traceback (most recent call last):
  File "updater.py", line 172, in run
    self.do_update()
click.exceptions.ClickException: SSH command failed.

2026-11-22 08:44:23,363\tERR updater.py:194 -- !!!
Failed to setup head node.
"""
    assert ray_launcher.telling(log) == [
        "Exception: The current node timed out during startup.",
        "click.exceptions.ClickException: SSH command failed.",
        "Failed to setup head node.",
    ]


def test_the_events_of_ray_are_ones_that_it_knows() -> None:
    from ray.autoscaler._private.event_system import CreateClusterEvent

    assert set(ray_launcher.EVENTS) <= {event.name for event in CreateClusterEvent}


def test_the_status_of_a_command_on_the_head_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ssh").write_text("#!/bin/sh\necho it says why\nexit 75\n")
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    provider = {"type": "external", "module": f"{__name__}.OneHead"}
    config = {"cluster_name": f"x-{tmp_path.name}", "provider": provider, "auth": {"ssh_user": "us"}}
    (tmp_path / "made.json").write_text(json.dumps(config))
    with pytest.raises(CommandFailed, match="it says why") as caught:
        Launcher(tmp_path).run("true")
    assert caught.value.status == 75


class OneHead(NodeProvider):
    """A node provider of Ray that has one machine."""

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        return ["head"]

    def external_ip(self, node_id: str) -> str:
        return "203.0.113.7"


def test_an_interruption_ends_the_launcher(tmp_path: Path) -> None:
    before = set(descendants(os.getpid()))

    def interrupt() -> None:
        wait_until(lambda: set(descendants(os.getpid())) - before)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        Launcher(tmp_path).up({"cluster_name": "x", "provider": {"type": "nonsense"}}, lambda text: None)
    assert set(descendants(os.getpid())) <= before
