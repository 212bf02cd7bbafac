"""Values that are computed from a dataset's images, once on each node: files beside the images in the node's cache.

The images are taken in chunks, and each chunk's values are a file.  Processes that want the same values at the same
time share the work: each begins at another chunk, and takes those that have no file yet.  If two compute the same
chunk, they write the same bytes.  A file gets its name when it is complete, so a killed process leaves no damage, and
its finished chunks are used.  No process waits for another.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.storage.cache import DERIVED, explain_disk_errors, make_room
from data.storage.loader import Dataset

CHUNK = 1024  # images of which values are computed at once
SPREAD = 2654435761  # multiplies process numbers, so that neighbours begin at distant chunks

Array = npt.NDArray[Any]
Compute = Callable[[npt.NDArray[np.uint8]], Array]


def derived(
    dataset: Dataset, identity: str, compute: Compute, limit: float, found: list[Array | None]
) -> Iterator[None]:
    """Compute values of all images of a dataset, or read those that a process of this node has computed.

    If the copy in the cache belongs to another user, the values are computed and not stored.

    Args:
        dataset: an open dataset, whose copy in the cache is not evicted as long as it is open.
        identity: name of the values, in letters and digits; equal names must mean equal values.
        compute: function from images uint8 [n, C, S, S] to an array [n, ...], whose rows depend on their images alone.
        limit: limit of the size of all copies of this cache, in bytes.
        found: filled with the values of each chunk, in the dataset's order.

    Yields:
        after each chunk, so that the caller can stop.

    Raises:
        DataError: the cache cannot be written.
    """
    count = -(-len(dataset.images) // CHUNK)
    found[:] = [None] * count
    first = os.getpid() * SPREAD % count
    for number in (*range(first, count), *range(first)):
        images = dataset.images[number * CHUNK : (number + 1) * CHUNK]
        file = None
        if dataset.copy is not None:
            file = dataset.copy.folder / f"{DERIVED}{identity}-{number:05d}.npy"
            found[number] = _read(file, len(images))
        if found[number] is None:
            found[number] = made = compute(np.array(images))
            if file is not None and dataset.copy is not None:
                with explain_disk_errors(dataset.copy.cache):
                    make_room(dataset.copy, made.nbytes, limit)
                    _write(file, made)
        yield


def _read(file: Path, rows: int) -> Array | None:
    """Map a file of values; None if it does not exist, or is not complete."""
    try:
        values: Array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return values if len(values) == rows else None


def _write(file: Path, values: Array) -> None:
    beside = file.with_name(f"{file.stem}-{os.getpid()}.building")
    try:
        with open(beside, "wb") as opened:
            np.save(opened, values, allow_pickle=False)
            opened.flush()
            os.fsync(opened.fileno())
        os.replace(beside, file)
    except OSError as error:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
