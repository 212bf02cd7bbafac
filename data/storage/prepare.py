"""Samples to rows: images of any size become the square images that all trials share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from data.errors import DataError
from data.sources.base import Sample, Skipped
from data.storage.manifest import Rows

RAW_BYTES = 8 * 2**20  # bytes of unresized images that are collected and then resized together: memory stays flat
ROW_FINGERPRINT_BYTES = 16

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Prepared:
    """Prepared samples of a range of a source's items.

    Attributes:
        rows: the samples, with resized images.
        sources: the file that each sample was read from.
        skipped: items that could not be read.
    """

    rows: Rows
    sources: list[str]
    skipped: tuple[Skipped, ...]


def prepare(items: Iterable[Sample | Skipped], channels: int, size: int, resampling: Image.Resampling) -> Prepared:
    """Resize samples in small groups, so that about `RAW_BYTES` of unresized images are in memory at most.

    Args:
        items: samples, and items that could not be read.
        channels: number of channels that every sample must have.
        size: side length of the prepared images, in pixels.
        resampling: Pillow's filter.

    Raises:
        DataError: if a sample has another number of channels.
    """
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    ready: list[Images] = []
    waiting: list[Images] = []
    waiting_bytes = 0
    for entry in items:
        if isinstance(entry, Skipped):
            skipped.append(entry)
            continue
        if len(entry.image) != channels:
            raise DataError(f"{entry.source}: expected {channels} channels, found {len(entry.image)}")
        if waiting and (waiting_bytes >= RAW_BYTES or entry.image.shape != waiting[0].shape):
            ready.append(resize(np.stack(waiting), size, resampling))
            waiting, waiting_bytes = [], 0
        waiting.append(entry.image)
        waiting_bytes += entry.image.nbytes
        samples.append(entry._replace(image=_NOTHING))
    if waiting:
        ready.append(resize(np.stack(waiting), size, resampling))
    rows = Rows(
        images=np.concatenate(ready) if ready else np.empty((0, channels, size, size), np.uint8),
        labels=np.array([sample.label for sample in samples], np.int64),
        splits=np.array([sample.split for sample in samples], np.str_),
        sample_ids=np.array([sample.sample_id for sample in samples], np.str_),
        groups=np.array([sample.group for sample in samples], np.str_),
    )
    return Prepared(rows, [sample.source for sample in samples], tuple(skipped))


_NOTHING: Images = np.empty(0, np.uint8)  # replaces the image of a sample once it is resized, to free its memory


def resize(images: Images, size: int, resampling: Image.Resampling) -> Images:
    """Resize many images with Pillow, first along x, then along y.

    Neither pass mixes lines.  So each pass takes all images at once, stacked as the lines of one tall
    image, which is ten times faster than one image at a time.  Since version 13.0 Pillow itself resizes
    along y first for some shapes; here the order, and so the rounding, is the same in all versions.

    Args:
        images: uint8 [n, C, H, W].
        size: side length of the result, in pixels.
        resampling: Pillow's filter.

    Returns:
        uint8 [n, C, size, size]; the given array itself if its images have that size already.
    """
    if images.shape[-2:] == (size, size):
        return images
    for _ in "xy":
        *stack, lines, length = images.shape
        tall = Image.fromarray(images.reshape(-1, length))
        resized = np.asarray(tall.resize((size, tall.height), resampling))
        images = resized.reshape(*stack, lines, size).swapaxes(-1, -2)
    return np.ascontiguousarray(images)


def row_fingerprints(images: Images) -> list[bytes]:
    """Return a fingerprint of each image: BLAKE2b of its pixels, 16 bytes."""
    pixels = np.ascontiguousarray(images).reshape(-1).data
    width = images[0].size if len(images) else 1
    parts = (pixels[at : at + width] for at in range(0, len(pixels), width))
    return [hashlib.blake2b(part, digest_size=ROW_FINGERPRINT_BYTES).digest() for part in parts]


class Duplicates:
    """Counter of prepared images that are on both sides of a source's own split, or twice in a source without split."""

    def __init__(self) -> None:
        self._seen: dict[str, list[npt.NDArray[np.uint64]]] = {"train": [], "test": [], "all": []}

    def update(self, rows: Rows, fingerprints: list[bytes]) -> None:
        """Add the next rows.

        The first 8 bytes of each fingerprint are kept.  Among a million different images, the chance that any two
        share them is below 10^-7.
        """
        words = np.frombuffer(b"".join(fingerprints), np.uint64)[::2]
        for split, seen in self._seen.items():
            seen.append(words[rows.splits == split])

    def count(self) -> int:
        """Return the number of test samples whose image is in the train split too, plus repetitions without a split."""
        train, test, everything = (np.concatenate([*seen, _NO_WORDS]) for seen in self._seen.values())
        return int(np.isin(test, train).sum()) + len(everything) - len(np.unique(everything))

    def repeats(self) -> int:
        """Return the number of samples whose image is that of an earlier one, whatever their splits."""
        words = np.concatenate([_NO_WORDS, *(words for seen in self._seen.values() for words in seen)])
        return len(words) - len(np.unique(words))


def first_equal(fingerprints: list[bytes]) -> npt.NDArray[np.int64]:
    """Return for each image the position of the first one with the same pixels, int64 [N].

    Args:
        fingerprints: result of `row_fingerprints` for all images.
    """
    rows = np.frombuffer(b"".join(fingerprints), f"V{ROW_FINGERPRINT_BYTES}")
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64, copy=False)


_NO_WORDS = np.empty(0, np.uint64)
