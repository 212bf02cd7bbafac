"""What a source of images hands over: samples in its own order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data.errors import DataError

if TYPE_CHECKING:  # plans list folders without numpy
    import numpy as np
    import numpy.typing as npt

Plain = str | int | float | bool | None | Sequence["Plain"] | Mapping[str, "Plain"]


class Sample(NamedTuple):
    """One image as its source has it.

    Attributes:
        image: uint8 [C, H, W].
        label: index into the dataset's classes.
        source: file (or function) that it was read from.
        split: the source's own split: "train", "test", or "all" where it has none.
        sample_id: unique in the dataset.
        group: samples of one group, such as the patches of one scan, stay on one side of every split;
            "" for a sample that is a group of its own.
    """

    image: npt.NDArray[np.uint8]
    label: int
    source: str
    split: str
    sample_id: str
    group: str = ""


class Skipped(NamedTuple):
    """What could not be read, in the place of its samples, where the user chose to go on without it.

    Attributes:
        source: the file.
        reason: what is wrong with it.
    """

    source: str
    reason: str


@dataclass(frozen=True)
class Source:
    """All samples of a dataset, read item by item; most often an item is one image file with one sample.

    Attributes:
        count: number of items, known before any is read.
        read: (first, stop) -> what items first to stop - 1 give, in source order.  Any range may be
            read, again, and by several threads at once: shards are prepared side by side, and a
            killed `put` goes on from the middle.
        samples_per_item: how many an item gives, about, where shards are to be cut.
        identity: differs whenever `read` may give something else, and costs no reading of images: a `put`
            that finds its own identity in the store need not prepare anything again; see `stamp`.
            "" where nobody can tell.
        parameters: plain values that say how it was read, for the manifest.
    """

    count: int
    read: Callable[[int, int], Iterator[Sample | Skipped]]
    samples_per_item: int = 1
    identity: str = ""
    parameters: Mapping[str, Plain] = field(default_factory=dict)

    def samples(self, first: int = 0, stop: int | None = None) -> Iterator[Sample]:
        """As `read`, for who wants all of them.

        Raises:
            DataError: on the first that cannot be read.
        """
        for found in self.read(first, self.count if stop is None else stop):
            if isinstance(found, Skipped):
                raise DataError(f"{found.source}: {found.reason}")
            yield found


def stamp(files: Iterable[Path], *settings: object) -> str:
    """An identity of files by path, size and time of their last change, as rsync compares them.

    Args:
        files: that a source reads, in its order.
        settings: whatever else decides what it gives, by `repr`.

    Raises:
        OSError: if one of them is not there.
    """
    found = hashlib.sha256(repr(settings).encode())
    for path in files:
        status = path.stat()
        found.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return found.hexdigest()
