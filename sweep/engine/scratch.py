"""Private folders for Ray and Tune on this machine; those that killed launches have left are removed.

A folder of ours contains a marker, on which the launch that made it holds a lock for as long as it lives.  The kernel
releases the lock of a process that ends, whatever ends it.  A folder is removed only if all of this holds: it has the
marker, this user owns it, it was made in this boot of this machine, and its lock is free.  So neither a name nor a
process id decides: names may be anybody's, and a container numbers its processes by itself.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import signal
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from sweep.errors import UserError
from sweep.spec.ray_settings import LONGEST_RAY_FOLDER
from sweep.store.lease import this_machine

PREFIX = "sweep-run-"
MARKER = ".sweep-scratch.json"
SCRATCH_VARIABLE = "SWEEP_SCRATCH"  # environment variable of every process that works for a launch: its folder
RAY = "ray"  # Ray's folder in ours
RANDOM = 8  # characters that `mkdtemp` adds to the prefix
LONGEST_PARENT = LONGEST_RAY_FOLDER - len(f"/{PREFIX}{'x' * RANDOM}/{RAY}")
ROOM = 64 * 2**20  # bytes that must be free for the code, Ray's logs and Tune's files
NO_ROOM = 2**20  # with less, Ray's processes cannot write, and hang or die without a reason
OTHER_PARENTS = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  (mkdtemp makes a private folder in it)


class Scratch:
    """Private folder for Ray and Tune, removed at the end."""

    def __enter__(self) -> Path:
        """Make the folder, after removing those that killed launches have left.

        Raises:
            UserError: no folder for temporary files can be used.
        """
        parent = choose_parent(tempfile.gettempdir(), *OTHER_PARENTS)
        remove_abandoned(parent)
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        self._lock = _mark(self._folder)
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)


def choose_parent(*candidates: str) -> Path:
    """Return the first folder that can be written, has free space, and whose path leaves room for Ray's sockets.

    Raises:
        UserError: there is none.
    """
    problems = []
    for candidate in dict.fromkeys(candidates):
        size = len(os.fsencode(candidate))
        if size > LONGEST_PARENT:
            problems.append(f"{candidate} has {size} bytes")
        elif not os.access(candidate, os.W_OK | os.X_OK) or not os.path.isdir(candidate):
            problems.append(f"{candidate} cannot be written")
        elif free_bytes(candidate) < ROOM:
            problems.append(f"{candidate} has less than {ROOM // 2**20} MiB free")
        else:
            return Path(candidate)
    raise UserError(
        f"no folder for temporary files can be used: {'; '.join(problems)}.  Ray's sockets need a folder whose path "
        f"has at most {LONGEST_PARENT} bytes: set TMPDIR to one that you may write to"
    )


def free_bytes(folder: str | Path) -> float:
    """Return the bytes that this user may still write to the disk of a folder; infinity if that is unknown."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return math.inf
    blocks = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail  # some blocks are kept for root
    return blocks * disk.f_frsize if disk.f_blocks else math.inf


def remove_abandoned(parent: Path) -> None:
    """Remove the folders in `parent` whose launches were killed; see the module for what counts as ours."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError, ValueError):
            _remove_if_abandoned(folder)


def _remove_if_abandoned(folder: Path) -> None:
    """Remove one folder if its launch was killed.

    Raises:
        OSError: it is not ours, or its launch is alive.
        ValueError: its marker is not ours.
    """
    descriptor = os.open(folder / MARKER, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        owner = os.lstat(folder).st_uid
        marker = json.loads(os.read(descriptor, 10_000))
        if owner == os.getuid() and isinstance(marker, dict) and marker.get("boot") == _boot():
            _kill_workers(folder)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def _kill_workers(folder: Path, processes: Path = Path("/proc")) -> None:
    """Kill what a killed launch has left running, which is only possible if its reaper was killed as well."""
    ours = f"{SCRATCH_VARIABLE}={folder}".encode()
    for file in processes.glob("[0-9]*/environ"):
        with suppress(OSError):  # another user's process, or one that has ended
            if ours in file.read_bytes().split(b"\0"):
                os.kill(int(file.parent.name), signal.SIGKILL)


def _mark(folder: Path) -> int:
    """Write the marker; returns the descriptor that holds its lock.  The marker never exists without the lock."""
    unfinished = folder / f"{MARKER}.new"
    descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    marker = {"boot": _boot(), "machine": this_machine(), "host": socket.gethostname(), "pid": os.getpid()}
    os.write(descriptor, json.dumps(marker).encode())
    unfinished.rename(folder / MARKER)
    return descriptor


def _boot() -> str:
    """Identify one boot of this machine; in another boot, or on another host, a free lock proves nothing."""
    return this_machine().partition(" ")[0]
