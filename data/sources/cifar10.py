"""Source of `cifar10`: the original pickled batches, in torchvision's folder or downloaded by it.

A pickle can run code when it is read.  The unpickler here makes arrays, texts and numbers, and refuses everything else.
So it is safe to read any copy, even one whose checksums are not the published ones.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.errors import DataError
from data.sources.base import Sample, Source, stamp
from data.sources.torchvision_files import Published

FOLDER = "cifar-10-batches-py"
FILES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
CIFAR10 = Published(
    name="cifar10",
    torchvision="CIFAR10",
    folders=(FOLDER, "."),
    files=tuple(name for names in FILES.values() for name in names),
)
BATCH_IMAGES = 10_000
LONGEST_BATCH = 64 * 2**20  # bytes; a published batch has 31 million
SHAPE = (3, 32, 32)
HARMLESS = {  # names in the published pickles; old and new versions of numpy have one of them in different modules
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("_codecs", "encode"),
}


def read(root: Path | None) -> Source:
    """Open CIFAR-10: its five training batches, then its test batch, each in the order of its file.

    Args:
        root: folder that contains `cifar-10-batches-py/` or the batches themselves.  If it contains
            neither, torchvision downloads them into it.

    Raises:
        DataError: if there is no root, a file is damaged or would run code, or the download fails.
    """
    folder = CIFAR10.folder(root)
    batch = lru_cache(maxsize=6)(lambda name: read_batch(folder / name))  # all six: threads read several at once
    rows = [
        (split, name, number * BATCH_IMAGES, row)
        for split, names in FILES.items()
        for number, name in enumerate(names)
        for row in range(BATCH_IMAGES)
    ]

    def samples(first: int, stop: int) -> Iterator[Sample]:
        for split, name, before, row in rows[first:stop]:
            images, labels = batch(name)
            yield Sample(images[row], int(labels[row]), name, split, f"{split}-{before + row:05d}")

    return Source(len(rows), samples, identity=stamp(folder / name for name in CIFAR10.files))


def read_batch(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read a pickled batch.

    Returns:
        images uint8 [N, 3, 32, 32] and labels int64 [N].

    Raises:
        DataError: if the file is not such a batch; the message names the file and the problem.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LONGEST_BATCH + 1)
        if len(content) > LONGEST_BATCH:
            raise DataError(f"too long: expected {LONGEST_BATCH:,} bytes at most")
        batch = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except DataError as problem:
        raise DataError(f"{path}: {problem}") from None
    except Exception as error:  # noqa: BLE001  (a damaged pickle may raise anything)
        raise DataError(f"{path}: expected a pickled batch of CIFAR-10: {type(error).__name__}: {error}") from None
    entries = {_text(key): value for key, value in batch.items()} if isinstance(batch, dict) else {}
    images, labels = entries.get("data"), entries.get("labels")
    rows = (BATCH_IMAGES, int(np.prod(SHAPE)))
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape != rows:
        found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise DataError(f"{path}: expected data of uint8 {rows}, found {found}")
    if not isinstance(labels, list) or len(labels) != BATCH_IMAGES or not all(label in range(10) for label in labels):
        raise DataError(f"{path}: expected a list of {BATCH_IMAGES:,} labels from 0 to 9")
    return images.reshape(-1, *SHAPE), np.array(labels, np.int64)


class _Unpickler(pickle.Unpickler):
    """Unpickler that makes arrays and plain values, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise DataError(f"it asks for {module}.{name}, which a batch of CIFAR-10 does not need; it is not read")
        return super().find_class(module, name)


def _text(key: object) -> object:
    return key.decode("latin1") if isinstance(key, bytes) else key
