"""Interface of a source of images: it gives samples in an order of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data.errors import DataError

if TYPE_CHECKING:  # plans list folders, and must not import numpy
    import numpy as np
    import numpy.typing as npt

Plain = str | int | float | bool | None | Sequence["Plain"] | Mapping[str, "Plain"]


class Sample(NamedTuple):
    """One image as its source gives it.

    Attributes:
        image: uint8 [C, H, W].
        label: index into the dataset's classes.
        source: file (or function) that the image was read from.
        split: side in the source's own split: "train", "test", or "all" if it has none.
        sample_id: id of the sample, unique in the dataset.
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
    """One item that could not be read, given in place of its samples if the user chose to skip such items.

    Attributes:
        source: the file.
        reason: the problem with the file.
    """

    source: str
    reason: str


@dataclass(frozen=True)
class Source:
    """All samples of a dataset, which are read item by item; most often an item is one image file with one sample.

    Attributes:
        count: number of items, known before any is read.
        read: function (first, stop) -> samples and skipped items of items first to stop - 1, in source order.
            Any range may be read, repeatedly, and by several threads at once: shards are prepared in
            parallel, and the next `put` after a killed one starts in the middle.
        samples_per_item: approximate number of samples that an item gives; decides the size of shards.
        identity: text that changes whenever `read` may give something else, computed without reading images.
            A `put` that finds the same identity in the store does not prepare the images again; see `stamp`.
            "" if no such text is known.
        parameters: plain values that describe how the images were read, for the manifest.
    """

    count: int
    read: Callable[[int, int], Iterator[Sample | Skipped]]
    samples_per_item: int = 1
    identity: str = ""
    parameters: Mapping[str, Plain] = field(default_factory=dict)

    def samples(self, first: int = 0, stop: int | None = None) -> Iterator[Sample]:
        """Yield the samples of a range of items, of all items by default; no item may be skipped.

        Raises:
            DataError: at the first item that cannot be read.
        """
        for item in self.read(first, self.count if stop is None else stop):
            if isinstance(item, Skipped):
                raise DataError(f"{item.source}: {item.reason}")
            yield item


def stamp(files: Iterable[Path], *settings: object) -> str:
    """Return an identity of files from their paths, sizes and modification times, which rsync compares too.

    Args:
        files: files that a source reads, in its order.
        settings: all other values that decide what the source gives; their `repr` is used.

    Raises:
        OSError: if a file does not exist.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for path in files:
        status = path.stat()
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
