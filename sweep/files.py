"""Files that are written completely or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def why_no_file(path: Path) -> str | None:
    """Return why a path is no file that can be read; None if it is one.

    The path is not opened: to open a pipe waits for its other end, and a device may have no end.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        return getattr(error, "strerror", None) or str(error)
    if stat.S_ISDIR(mode):
        return "it is a folder"
    return None if stat.S_ISREG(mode) else "it is no regular file, but a pipe, a socket or a device"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces `path` at the end of the block.

    A reader sees the old file or the new one.  If the block raises, the old file stays, and the temporary one is
    removed.  What a killed process has left is replaced by the next one with the same process id, or stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666) -> Path:
    """Write a file completely or not at all; returns its path.

    Args:
        path: path of the file.
        data: content of the file.
        mode: permissions before the umask.

    Raises:
        OSError: it cannot be written; the old file stays.
    """
    with replacing(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    return path
