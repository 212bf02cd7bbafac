"""Source of `mnist`: the four original IDX files, in torchvision's folders; torchvision downloads missing ones."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.errors import DataError
from data.sources.base import Sample, Source, stamp
from data.sources.torchvision_files import Published

# split -> (images file, labels file, number of samples)
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 60_000),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10_000),
}
MNIST = Published(
    name="mnist",
    torchvision="MNIST",
    folders=("MNIST/raw", "raw", "."),
    files=tuple(name for images, labels, _ in FILES.values() for name in (images, labels)),
    suffixes=("", ".gz"),
    foreign="FashionMNIST",
)
SIDE = 28
UNSIGNED_BYTE = 0x08  # type of the entries, the third byte of an IDX file


def read(root: Path | None) -> Source:
    """Open MNIST: its train split, then its test split, each in the order of its files.

    Args:
        root: folder that contains `MNIST/raw/`, `raw/` or the IDX files themselves, plain or .gz.
            If it contains none of them, torchvision downloads them into it.

    Raises:
        DataError: if there is no root, a file is damaged, or the download fails.
    """
    return read_idx_files(MNIST, root)


def read_idx_files(published: Published, root: Path | None) -> Source:
    """Open a dataset whose four IDX files have the names and sizes of MNIST's.

    Args:
        published: names and folders of its files.
        root: as in `read`.

    Raises:
        DataError: as `read`.
    """
    folder = published.folder(root)
    splits = {split: _read_split(published, folder, split) for split in FILES}
    positions = [(split, position) for split, (_, labels) in splits.items() for position in range(len(labels))]

    def samples(first: int, stop: int) -> Iterator[Sample]:
        for split, position in positions[first:stop]:
            images, labels = splits[split]
            sample_id = f"{split}-{position:05d}"
            yield Sample(images[position, np.newaxis], int(labels[position]), FILES[split][0], split, sample_id)

    files = [published.path(folder, name) for name in published.files]
    return Source(len(positions), samples, identity=stamp(files))


def _read_split(published: Published, folder: Path, split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    images_name, labels_name, count = FILES[split]
    images = read_idx(published.path(folder, images_name), (count, SIDE, SIDE))
    labels_path = published.path(folder, labels_name)
    labels = read_idx(labels_path, (count,))
    if labels.max() > 9:
        raise DataError(f"{labels_path}: expected labels 0 to 9, found {labels.max()}")
    return images, labels


def read_idx(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Read the array of an IDX file of unsigned bytes, plain or gzip-compressed (suffix .gz).

    Args:
        path: path of the file.
        shape: shape that the array must have.

    Returns:
        uint8 array of that shape.

    Raises:
        DataError: if the file cannot be read, or its magic number, dimensions or length do not fit the shape.
            The message names the file, the expected value and the value found.
    """
    header = 4 + 4 * len(shape)
    expected = header + int(np.prod(shape))
    content = _content(path, expected + 1)  # a limit, because a small .gz file may unpack to any size
    magic = bytes((0, 0, UNSIGNED_BYTE, len(shape)))
    if content[:4] != magic:
        raise DataError(f"{path}: expected an IDX file with magic {magic.hex()}, found {content[:4].hex()}")
    if len(content) < header:
        raise DataError(f"{path}: truncated: expected a header of {header} bytes, found {len(content)}")
    found = tuple(int(side) for side in np.frombuffer(content, ">u4", len(shape), 4))
    if found != shape:
        raise DataError(f"{path}: expected dimensions {_by(shape)}, found {_by(found)}")
    if len(content) < expected:
        raise DataError(f"{path}: truncated: expected {expected:,} bytes, found {len(content):,}")
    if len(content) > expected:
        raise DataError(f"{path}: too long: expected {expected:,} bytes, found more")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _content(path: Path, limit: int) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read(limit)
    except EOFError as error:
        raise DataError(f"{path}: truncated: expected a complete gzip file") from error
    except (OSError, zlib.error) as error:
        raise DataError(f"{path}: expected a readable file: {error}") from error


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
