"""A node's folder of prepared datasets: each copy is there whole or not at all, and the least used ones go.

Who writes or removes a copy holds the lock file beside it, which stays.  Who reads one holds a shared lock
on a file of the copy itself for as long as it is open.  The kernel frees the locks of processes that die.
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

USED = "content.json"  # in a copy, written last; touched whenever it is opened


@dataclass(frozen=True)
class Copy:
    """The place of one dataset's copy in a cache, which may be empty.

    Attributes:
        cache: folder on a local disk.
        name: of the copy.
    """

    cache: Path
    name: str

    @property
    def folder(self) -> Path:
        """Where the whole copy stands."""
        return self.cache / self.name

    @property
    def beside(self) -> Path:
        """Where it is written; what stands here without a lock belongs to a process that died."""
        return self.cache / f"{self.name}.building"

    def pin(self) -> int | None:
        """A descriptor that keeps the copy from being evicted until it is closed; None where none is whole."""
        try:
            use = os.open(self.folder / USED, os.O_RDONLY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return None
        fcntl.flock(use, fcntl.LOCK_SH)  # waits for who is removing it
        return use

    def is_used_by(self, use: int) -> bool:
        """Whether the descriptor is of the copy that stands there now, and not of one that is gone."""
        try:
            return os.path.samestat(os.fstat(use), os.stat(self.folder / USED))
        except FileNotFoundError:
            return False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Nobody else writes or removes the copy meanwhile; waits until that is so."""
        with _lock(f"{self.folder}.lock", fcntl.LOCK_EX):
            yield

    def remove_unused(self) -> bool:
        """Removes the copy unless somebody has it open or writes it; returns whether it is gone."""
        try:
            with _lock(f"{self.folder}.lock", fcntl.LOCK_EX | fcntl.LOCK_NB), ExitStack() as stack:
                if (self.folder / USED).exists():
                    stack.enter_context(_lock(str(self.folder / USED), fcntl.LOCK_EX | fcntl.LOCK_NB))
                shutil.rmtree(self.folder, ignore_errors=True)
                shutil.rmtree(self.beside, ignore_errors=True)
                return True
        except (BlockingIOError, PermissionError):
            return False

    def size(self) -> int:
        """Bytes of its files, half-written ones included."""
        total = 0
        for place in (self.folder, self.beside):
            with suppress(FileNotFoundError):
                total += sum(file.stat().st_size for file in place.iterdir())
        return total

    def last_used(self) -> float:
        """When it was last opened, in seconds; 0 for one that is not whole."""
        try:
            return (self.folder / USED).stat().st_mtime
        except FileNotFoundError:
            return 0.0


def make_room(wanted: Copy, need: int, limit: float) -> None:
    """Removes other copies that nobody has open, the least recently used first, where room is short.

    Room is short while all copies and `need` bytes more are above the limit, or the disk has less than
    these left.  What is in use stays, so it may remain short.

    Args:
        wanted: the copy that room is made for.
        need: its bytes, about.
        limit: bytes that all copies of this cache may have.
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
    """What the disk refuses becomes a DataError that says the fix."""
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
        # Closing alone would leave the lock to a child that was forked meanwhile.
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
