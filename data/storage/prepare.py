"""Samples to rows: images of any size become the square ones that all trials share."""

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

RAW_BYTES = 8 * 2**20  # of images as the source has them, resized at once: memory stays flat
ROW_FINGERPRINT_BYTES = 16

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a range of a source's items became.

    Attributes:
        rows: the samples.
        sources: where each was read from.
        skipped: what could not be read.
    """

    rows: Rows
    sources: list[str]
    skipped: tuple[Skipped, ...]


def prepare(found: Iterable[Sample | Skipped], channels: int, size: int, resampling: Image.Resampling) -> Prepared:
    """Resizes samples as they come, so that no more than `RAW_BYTES` of large images wait at once.

    Args:
        found: samples, and what could not be read.
        channels: that every sample must have.
        size: side length of the prepared images, in pixels.
        resampling: Pillow's filter.

    Raises:
        DataError: on a sample with another number of channels.
    """
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    ready: list[Images] = []
    waiting: list[Images] = []
    waiting_bytes = 0
    for entry in found:
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


_NOTHING: Images = np.empty(0, np.uint8)  # in place of an image that was resized: its memory is free


def resize(images: Images, size: int, resampling: Image.Resampling) -> Images:
    """Resizes many images with Pillow, first along x, then along y.

    Neither pass mixes lines, so the images go through each of them stacked as lines of one tall
    image, ten times faster than alone.  Pillow itself takes y first for some shapes since 13.0;
    here the order, and with it the rounding, is the same in all versions.

    Args:
        images: uint8 [n, C, H, W].
        size: side length of the result, in pixels.
        resampling: Pillow's filter.

    Returns:
        uint8 [n, C, size, size]; the images themselves where they have that size.
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
    """BLAKE2b of each image's pixels, 16 bytes."""
    pixels = np.ascontiguousarray(images).reshape(-1).data
    width = images[0].size if len(images) else 1
    parts = (pixels[at : at + width] for at in range(0, len(pixels), width))
    return [hashlib.blake2b(part, digest_size=ROW_FINGERPRINT_BYTES).digest() for part in parts]


class Duplicates:
    """Counts prepared images that stand on both sides of a source's own split, or twice where it has none."""

    def __init__(self) -> None:
        self._found: dict[str, list[npt.NDArray[np.uint64]]] = {"train": [], "test": [], "all": []}

    def update(self, rows: Rows, fingerprints: list[bytes]) -> None:
        """Takes in the next rows; 8 bytes stay of each, which a million images share with a chance of 10^-7."""
        words = np.frombuffer(b"".join(fingerprints), np.uint64)[::2]
        for split, found in self._found.items():
            found.append(words[rows.splits == split])

    def count(self) -> int:
        """Samples of the test split whose image stands in the train split, too; without splits, repetitions."""
        train, test, everything = (np.concatenate([*found, _NO_WORDS]) for found in self._found.values())
        return int(np.isin(test, train).sum()) + len(everything) - len(np.unique(everything))


_NO_WORDS = np.empty(0, np.uint64)
