"""A node's cache of prepared datasets: every copy is complete, and the least recently used ones are evicted.

A process that writes or removes a copy holds the lock file next to it, which is never deleted.  A process that reads
a copy holds a shared lock on a file of the copy itself as long as the copy is open.  The kernel releases the locks of
processes that end.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError

ARRAYS = ("images", "labels", "sample_ids", "source_split", "groups", "first_equal")
USED = "content.json"  # a copy's last file to be written; its time is set whenever the copy is opened
FILES = (USED, *(f"{name}.npy" for name in ARRAYS))
DERIVED = "features-"  # begins the name of a file that was computed from the images, see `data.storage.derived`


@dataclass(frozen=True)
class Copy:
    """One dataset's copy in a cache, which may not exist yet.

    Attributes:
        cache: folder on a local disk.
        name: name of the copy.
    """

    cache: Path
    name: str

    @property
    def folder(self) -> Path:
        """Folder of the complete copy."""
        return self.cache / self.name

    @property
    def beside(self) -> Path:
        """Temporary folder in which the copy is written; if no process has the lock, a killed process left it."""
        return self.cache / f"{self.name}.building"

    def pin(self) -> int | None:
        """Return a file descriptor that prevents eviction of the copy until it is closed.

        Returns None if there is no complete copy.
        """
        try:
            pin = os.open(self.folder / USED, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        fcntl.flock(pin, fcntl.LOCK_SH)  # waits for a process that is removing the copy
        return pin

    def is_used_by(self, pin: int) -> bool:
        """Return True if the descriptor belongs to the present copy, and not to one that was removed since."""
        try:
            return os.path.samestat(os.fstat(pin), os.stat(self.folder / USED))
        except FileNotFoundError:
            return False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Wait for, and hold, the lock that keeps all other processes from writing or removing the copy."""
        with _lock(f"{self.folder}.lock", fcntl.LOCK_EX):
            yield

    def remove_unused(self) -> bool:
        """Remove the copy unless a process has it open or writes it; return True if it is removed."""
        try:
            with _lock(f"{self.folder}.lock", fcntl.LOCK_EX | fcntl.LOCK_NB), ExitStack() as stack:
                if (self.folder / USED).exists():
                    stack.enter_context(_lock(str(self.folder / USED), fcntl.LOCK_EX | fcntl.LOCK_NB))
                self.remove()
                return True
        except (BlockingIOError, PermissionError):
            return False

    def remove(self) -> None:
        """Remove the copy, also an incomplete one.  The caller holds its lock.

        Only files that a copy consists of are removed: a user may choose a folder for the cache that holds other files.
        """
        for folder in (self.folder, self.beside):
            with suppress(OSError):
                for file in _own_files(folder):
                    file.unlink(missing_ok=True)
                folder.rmdir()

    def size(self) -> int:
        """Return the size of the copy's files in bytes, incomplete ones included."""
        total = 0
        for folder in (self.folder, self.beside):
            with suppress(FileNotFoundError):
                total += sum(file.stat().st_size for file in _own_files(folder))
        return total

    def last_used(self) -> float:
        """Return the time when the copy was last opened, in seconds since the epoch; 0 if it is not complete."""
        try:
            return (self.folder / USED).stat().st_mtime
        except FileNotFoundError:
            return 0.0


def _own_files(folder: Path) -> list[Path]:
    """Return the files in a folder that a copy consists of; its marker comes first, so that no part of it is opened."""
    own = [file for file in folder.iterdir() if file.name in FILES or file.name.startswith(DERIVED)]
    return sorted(own, key=lambda file: file.name != USED)


def make_room(wanted: Copy, need: int, limit: float) -> None:
    """Remove other copies that no process has open, the least recently used first, until there is room.

    There is room if all copies plus `need` bytes are within the limit, and the disk has `need` bytes free.
    Copies in use are not removed, so there may be too little room in the end.

    Args:
        wanted: the copy that needs the room.
        need: estimate of its size in bytes.
        limit: limit of the size of all copies of this cache, in bytes.
    """
    names = (lock.name.removesuffix(".lock") for lock in wanted.cache.glob("*.lock"))
    others = sorted((Copy(wanted.cache, name) for name in names if name != wanted.name), key=Copy.last_used)
    sizes = {copy.name: copy.size() for copy in others}
    total = sum(sizes.values())
    for copy in others:
        if total + need <= limit and shutil.disk_usage(wanted.cache).free >= need:
            return
        if sizes[copy.name] and copy.remove_unused():
            total -= sizes[copy.name]


@contextmanager
def explain_disk_errors(cache: Path) -> Iterator[None]:
    """Turn an error of the disk into a DataError whose message names the fix."""
    try:
        yield
    except OSError as error:
        fix = "choose a cache folder on a local disk that you may write to (data.cache)"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            fix = (
                "no other copy there can be removed; make room, or choose a cache folder on a larger disk (data.cache)"
            )
        raise DataError(f"cannot write the dataset cache {cache}: {error.strerror or error}; {fix}") from error


@contextmanager
def _lock(path: str, how: int) -> Iterator[None]:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        # Unlock before closing: a child that was forked in between would otherwise keep the lock.
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
