"""The reaper ends everything that its command has started, also in sessions of their own, whatever ends the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweep.engine.reaper import END_SIGNAL, list_descendants

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")

SECONDS = 20.0
REAPER = [sys.executable, "-m", "sweep.engine.reaper"]
# Starts an orphan in a session of its own, writes its process id to the file "$1", and then runs "$2".
WITH_ORPHAN = 'setsid sleep 1000 < /dev/null > /dev/null 2>&1 & echo $! > "$1.new"; mv "$1.new" "$1"; eval "$2"'
# Starts the command of its arguments as a launch does.
LAUNCH = """
import subprocess, sys, time
from functools import partial
from sweep.engine.reaper import END_SIGNAL
from sweep.signals import die_with_parent
child = subprocess.Popen(sys.argv[1:], start_new_session=True, preexec_fn=partial(die_with_parent, END_SIGNAL))
time.sleep(1000)
"""


def with_orphan(file: Path, then: str) -> list[str]:
    return [*REAPER, "bash", "-c", WITH_ORPHAN, "bash", str(file), then]


def read_pid(file: Path) -> int:
    until = time.monotonic() + SECONDS
    while not file.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    return int(file.read_text())


def assert_gone(pid: int) -> None:
    until = time.monotonic() + SECONDS
    while Path(f"/proc/{pid}/stat").exists() and "(sleep) Z" not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < until, f"process {pid} is left"
        time.sleep(0.01)


@pytest.mark.parametrize(("then", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -SEGV $$", -11), ("kill -9 $$", -9)])
def test_it_ends_like_its_command_and_leaves_no_orphan(then: str, code: int, tmp_path: Path) -> None:
    ended = subprocess.run(with_orphan(tmp_path / "pid", then), timeout=SECONDS)
    assert ended.returncode == code
    assert_gone(read_pid(tmp_path / "pid"))


def test_signals_of_job_systems_are_left_to_the_launch_and_its_own_signal_ends_all(tmp_path: Path) -> None:
    reaper = subprocess.Popen(with_orphan(tmp_path / "pid", "sleep 1000"), start_new_session=True)
    orphan = read_pid(tmp_path / "pid")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(reaper.pid, number)
    assert orphan in list_descendants(reaper.pid)
    assert reaper.poll() is None
    os.kill(reaper.pid, END_SIGNAL)
    assert reaper.wait(SECONDS) == -signal.SIGKILL
    assert_gone(orphan)


def test_all_ends_if_the_launch_is_killed(tmp_path: Path) -> None:
    launch = subprocess.Popen([sys.executable, "-c", LAUNCH, *with_orphan(tmp_path / "pid", "sleep 1000")])
    orphan = read_pid(tmp_path / "pid")
    below = list_descendants(launch.pid)
    assert orphan in below
    launch.kill()
    launch.wait(SECONDS)
    for pid in below:
        assert_gone(pid)
