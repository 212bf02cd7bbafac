"""Objects as files of a local folder.

A writer may be killed at any moment, and the store is a sweep's only source of truth.  Therefore each
object is either whole or absent.  `put_once` lets exactly one of many writers win; `put_if` is
compare-and-swap.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sweep.store.base import ObjectNotFound, Store, StoreError, check_path, is_legal_path

LOCKS = 64  # lock files per store; two paths that share one only wait for each other
LEFTOVER_SECONDS = 86_400  # a temporary file this old belongs to a writer that died


class LocalStore(Store):
    """Store whose objects are files of one folder, on any file system with hard links, including NFS.

    `<folder>/.store` holds temporary files and locks; hidden files are never objects.  Temporary files
    are there, and not next to their targets, for two reasons.  No listing shows them, and the next
    `open_store` finds and removes those of killed writers.
    """

    def __init__(self, folder: str) -> None:
        self.url = os.path.abspath(folder)

    def put_once(self, path: str, data: bytes) -> bool:
        won = self.put_new(path, data)
        if won:
            # Callers rely on True: they delete checkpoints and never train again.  So the name must survive
            # a power cut, like the bytes.  `put` promises only the old or the new object, and skips this.
            with self._explain("write", path):
                _sync_folder(os.path.dirname(self._file(path)))
        return won

    def put_new(self, path: str, data: bytes) -> bool:
        target = self._file(path)
        with self._explain("write", path), self._temporary(data) as temporary:
            try:
                _publish(os.link, temporary, target)
            except FileExistsError:
                if os.path.isdir(target):
                    raise
                # NFS repeats a link call whose answer was lost, and then finds the file of its own first call.
                # A file with two names shows that we won.
                return os.stat(temporary).st_nlink == 2
            return True

    def put(self, path: str, data: bytes) -> None:
        target = self._file(path)
        with self._explain("write", path), self._temporary(data) as temporary, self._lock(path):
            _publish(os.replace, temporary, target)

    def get(self, path: str) -> bytes:
        with self._explain("read", path):
            with suppress(FileNotFoundError, NotADirectoryError):
                name = self._file(path)
                if stat.S_ISREG(os.stat(name).st_mode):  # to open a pipe would wait for its other end
                    with open(name, "rb") as file:
                        return file.read()
            raise ObjectNotFound(f"no object {path} in {self.url}")

    def exists(self, path: str) -> bool:
        with self._explain("look for", path):
            try:
                return stat.S_ISREG(os.stat(self._file(path)).st_mode)
            except (FileNotFoundError, NotADirectoryError):
                return False

    def list(self, prefix: str) -> Iterator[str]:
        folder = self._folder(prefix)
        with self._explain("list", prefix):
            yield from _walk(folder, f"{prefix}/" if prefix else "")

    def names(self, prefix: str) -> builtins.list[str]:
        folder = self._folder(prefix)
        with self._explain("list", prefix):
            return sorted(entry.name for entry in _entries(folder))

    def delete(self, path: str) -> None:
        target = self._file(path)
        with self._explain("delete", path):
            with self._lock(path), suppress(FileNotFoundError, IsADirectoryError, NotADirectoryError):
                os.unlink(target)
            self._remove_empty(os.path.dirname(target))

    def delete_tree(self, prefix: str) -> None:
        folder = self._file(prefix)
        with self._explain("delete", prefix):
            doomed = self._own("tmp", secrets.token_hex(8))
            try:
                os.makedirs(os.path.dirname(doomed), exist_ok=True)
                os.rename(f"{folder}/", doomed)  # the slash: only a folder matches, never an object
            except (FileNotFoundError, NotADirectoryError):
                return
            # No reader can see the tree any more; files that cannot be deleted become leftovers.
            shutil.rmtree(doomed, ignore_errors=True)
            self._remove_empty(os.path.dirname(folder))

    def get_tagged(self, path: str) -> tuple[bytes, str]:
        data = self.get(path)
        return data, _tag(data)

    def put_if(self, path: str, data: bytes, tag: str | None) -> str | None:
        if tag is None:
            return _tag(data) if self.put_once(path, data) else None
        target = self._file(path)
        with self._explain("write", path), self._temporary(data) as temporary, self._lock(path):
            with suppress(ObjectNotFound):
                if self.get_tagged(path)[1] == tag:
                    _publish(os.replace, temporary, target)
                    return _tag(data)
            return None

    def remove_leftovers(self) -> None:
        """Remove temporary files of dead writers.  A living writer keeps a temporary file for seconds only."""
        with suppress(OSError), os.scandir(self._own("tmp")) as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_mtime > time.time() - LEFTOVER_SECONDS:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)

    def _file(self, path: str) -> str:
        return f"{self.url}/{check_path(path)}"

    def _folder(self, prefix: str) -> str:
        return self._file(prefix) if prefix else self.url

    def _own(self, kind: str, name: str = "") -> str:
        return f"{self.url}/.store/{kind}/{name}"

    @contextmanager
    def _temporary(self, data: bytes) -> Iterator[str]:
        """Write the bytes to a new file, flushed to disk, and remove the file afterwards unless it was moved."""
        name = self._own("tmp", secrets.token_hex(8))
        descriptor = _open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield name
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)

    @contextmanager
    def _lock(self, path: str) -> Iterator[None]:
        """Exclude other replacing and deleting calls, so that compare-and-swap replaces what it compared."""
        descriptor = _open(self._own("locks", str(zlib.crc32(path.encode()) % LOCKS)), os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            # Closing the file is not enough: a child that was forked meanwhile would keep the lock.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _remove_empty(self, folder: str) -> None:
        with suppress(OSError):
            while len(folder) > len(self.url):
                os.rmdir(folder)
                folder = os.path.dirname(folder)

    @contextmanager
    def _explain(self, action: str, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            fix = _FIXES.get(error.errno or 0, "check the disk, then run the same command again to go on")
            raise StoreError(f"cannot {action} {path} in {self.url}: {error.strerror}; {fix}") from None


_NO_ROOM = "free some space there, then run the same command again to go on; no half object was left"
_NOT_ALLOWED = "choose a folder that you may write to, on a file system with hard links, as `storage`"
_BOTH = "a path is either an object or a folder of objects, not both: remove one of the two"
_FIXES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _NO_ROOM),
    **dict.fromkeys((errno.EACCES, errno.EROFS, errno.EPERM, errno.EOPNOTSUPP), _NOT_ALLOWED),
    **dict.fromkeys((errno.EISDIR, errno.EEXIST, errno.ENOTDIR), _BOTH),
    errno.EXDEV: "keep the whole folder on one file system: no mounts or links to other disks inside it",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def _tag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _open(name: str, flags: int) -> int:
    """Open one of the store's own files; create its folder only if opening fails without it."""
    try:
        return os.open(name, flags | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(name), exist_ok=True)
        return os.open(name, flags | os.O_CLOEXEC, 0o666)


def _publish(move: Callable[[str, str], None], temporary: str, target: str) -> None:
    """Give a finished file its name by os.link or os.replace, and create missing folders."""
    for _ in range(100):  # a simultaneous delete may remove the folder while it is still empty
        try:
            return move(temporary, target)
        except FileNotFoundError:
            # makedirs raises FileExistsError also for a folder that has vanished since: not about the target.
            with suppress(FileNotFoundError, FileExistsError):
                os.makedirs(os.path.dirname(target), exist_ok=True)
    return move(temporary, target)


def _sync_folder(folder: str) -> None:
    with suppress(FileNotFoundError):  # a simultaneous delete was faster
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that are objects, or folders of them.

    Hidden entries belong to the store, to the desktop, or to NFS (deleted files that are still open).  Other names that
    no object has, pipes, devices and links to nothing belong to someone else.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if is_legal_path(entry.name) and (entry.is_file() or entry.is_dir())]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _walk(folder: str, prefix: str) -> Iterator[str]:
    # A folder is sorted by its name with the slash, so that "a-b" comes before "a/c" as in S3.
    entries = {f"{entry.name}/" if entry.is_dir() else entry.name: entry for entry in _entries(folder)}
    for name in sorted(entries):
        if name.endswith("/"):
            yield from _walk(entries[name].path, prefix + name)
        else:
            yield prefix + name
