"""Scratch folders: what killed launches have left is removed, and nothing else, whatever its name."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweep.engine import scratch
from sweep.engine.scratch import LONGEST_PARENT, MARKER, PREFIX, Scratch, choose_parent, remove_abandoned
from sweep.errors import UserError
from sweep.spec.ray_settings import SOCKET
from sweep.store.lease import this_machine

SECONDS = 20.0
# Holds a scratch folder, with a process in a session of its own that works for it, until it is killed.
HOLDER = """
import os, subprocess, time
from sweep.engine.scratch import SCRATCH_VARIABLE, Scratch
with Scratch() as folder:
    os.environ[SCRATCH_VARIABLE] = str(folder)
    worker = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    print(folder, worker.pid, flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def parent() -> Iterator[Path]:
    """Yield a folder for temporary files that is short enough for Ray's sockets."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture
def here(parent: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let this process use that folder for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(parent))
    return parent


def start_holder(parent: Path) -> tuple[subprocess.Popen[str], Path, int]:
    environment = {**os.environ, "TMPDIR": str(parent)}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], env=environment, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout as lines:
        folder, worker = lines.readline().split()
    return holder, Path(folder), int(worker)


def test_what_a_killed_launch_left_is_removed_with_its_processes(here: Path) -> None:
    holder, folder, worker = start_holder(here)
    with Scratch():
        assert folder.exists(), "its launch is alive"
    holder.kill()
    holder.wait(SECONDS)
    with Scratch() as ours:
        assert [path for path in here.iterdir() if path != ours] == []
    until = time.monotonic() + SECONDS
    while Path(f"/proc/{worker}").exists() and ") Z" not in Path(f"/proc/{worker}/stat").read_text():
        assert time.monotonic() < until
        time.sleep(0.01)
    assert list(here.iterdir()) == []


def test_folders_of_others_stay(here: Path) -> None:
    foreign = [here / "sweep-2024-my-results", here / f"{PREFIX}mine", here / f"{PREFIX}data/{MARKER}", here / "other"]
    for folder in foreign:
        folder.mkdir(parents=True)
    (here / f"{PREFIX}file").write_text("a file")
    (here / f"{PREFIX}link").symlink_to(here / "other")
    before = sorted(here.rglob("*"))
    with Scratch():
        pass
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    "marker",
    ["", "null", "[]", '{"boot": 1}', json.dumps({"boot": "another boot"}), "not JSON"],
)
def test_a_folder_of_another_host_or_boot_stays(marker: str, here: Path) -> None:
    (here / f"{PREFIX}x").mkdir()
    (here / f"{PREFIX}x" / MARKER).write_text(marker)
    remove_abandoned(here)
    assert (here / f"{PREFIX}x").exists()


def test_a_folder_of_another_user_stays(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / f"{PREFIX}x").mkdir()
    (here / f"{PREFIX}x" / MARKER).write_text(json.dumps({"boot": this_machine().partition(" ")[0]}))
    with monkeypatch.context() as patch:
        patch.setattr("os.getuid", lambda: 12345)
        remove_abandoned(here)
    assert (here / f"{PREFIX}x").exists()
    remove_abandoned(here)
    assert not (here / f"{PREFIX}x").exists(), "it is ours, and nobody holds it"


def test_a_launch_in_another_namespace_of_processes_keeps_its_folder(here: Path) -> None:
    """A container numbers its processes by itself: the process id in the marker names nobody here, or somebody else."""
    holder, folder, _ = start_holder(here)
    try:
        marker = json.loads((folder / MARKER).read_text())
        (folder / MARKER).write_text(json.dumps({**marker, "pid": 4_000_000, "machine": "boot pid:[1]"}))
        remove_abandoned(here)
        assert folder.exists()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait(SECONDS)
    remove_abandoned(here)
    assert not folder.exists()


def test_rays_sockets_fit_into_the_longest_folder(parent: Path) -> None:
    longest = str(parent) + "/" + "x" * (LONGEST_PARENT - len(str(parent)) - 1)
    os.mkdir(longest)
    assert str(choose_parent(longest)) == longest
    path = f"{longest}/{PREFIX}12345678/{scratch.RAY}{SOCKET}"
    os.makedirs(os.path.dirname(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)


def test_a_folder_that_is_too_long_or_cannot_be_written_is_not_used(parent: Path) -> None:
    long = str(parent) + "/" + "x" * (LONGEST_PARENT - len(str(parent)))
    os.mkdir(long)
    missing = "/nothing/here"
    assert choose_parent(long, missing, str(parent)) == parent
    with pytest.raises(UserError, match="set TMPDIR to one that you may write to") as error:
        choose_parent(long, missing)
    assert long in str(error.value)
    assert missing in str(error.value)


def test_a_folder_on_a_full_disk_is_not_used(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = parent / "full"
    full.mkdir()
    monkeypatch.setattr(scratch, "free_bytes", lambda folder: scratch.ROOM - (str(folder) == str(full)))
    assert choose_parent(str(full), str(parent)) == parent
    with pytest.raises(UserError, match="has less than 64 MiB free"):
        choose_parent(str(full))
