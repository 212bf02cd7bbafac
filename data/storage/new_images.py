"""Images that no stored dataset holds, prepared as those of one were: what a trained detector is asked about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from data.errors import DataError
from data.sources import image_files
from data.sources.base import Sample, Skipped
from data.sources.image_folders import SUFFIXES, image_paths
from data.sources.layouts import ImageFiles
from data.storage.manifest import Manifest
from data.storage.parallel import in_order
from data.storage.prepare import prepare

CHUNK = 64  # files that are read at once


@dataclass(frozen=True, eq=False)
class Unseen:
    """Some images of a folder.

    Attributes:
        files: paths below the folder of those that could be read, [n].
        images: uint8 [n, C, S, S].
        skipped: those that could not.
    """

    files: tuple[str, ...]
    images: npt.NDArray[np.uint8]
    skipped: tuple[Skipped, ...]


def list_images(folder: Path) -> list[str]:
    """Images in a folder and in its folders, by name, "/"-separated; hidden ones are left out.

    Raises:
        DataError: it cannot be read, or there is none; lists all problems.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    problems: list[str] = []
    found = image_paths(folder, "", problems)
    if not found and not problems:
        problems.append(f"{folder}: no image in it (looked for {', '.join(sorted(SUFFIXES))})")
    if problems:
        raise DataError("\n".join(problems))
    return found


def prepare_images(folder: Path, files: Sequence[str], manifest: Manifest, chunk: int = CHUNK) -> Iterator[Unseen]:
    """Images of a folder, some at a time, with the size, channels, fit and filter of a stored dataset.

    Args:
        folder: that `files` are in.
        files: paths below it.
        manifest: of the dataset.
        chunk: files that are read at once, and so at most images in each `Unseen`.
    """
    channels, size, _ = manifest.shape
    told: dict[str, Any] = dict(manifest.parameters)
    rules = {name: told[name] for name in ("fit", "sixteen_bits") if name in told}
    layout = ImageFiles(root=str(folder), channels=1 if channels == 1 else 3, **rules)
    resampling = Image.Resampling[str(told["interpolation"]).upper()]

    def read(chosen: Sequence[str]) -> Unseen:
        found = prepare((_read(folder, file, layout) for file in chosen), channels, size, resampling)
        return Unseen(tuple(found.rows.sample_ids.tolist()), found.rows.images, found.skipped)

    yield from in_order(read, (files[at : at + chunk] for at in range(0, len(files), chunk)))


def refuse_bad(folder: Path, good: int, bad: Sequence[Skipped]) -> None:
    """Tell of images that cannot be read, if there are any.

    Args:
        folder: that they are in.
        good: how many others there are.
        bad: all of them.

    Raises:
        DataError: lists them.
    """
    if bad:
        fix = ", or go on without them: --on-bad skip (in Python: skip_bad=True)" if good else ""
        heading = f"{len(bad):,} of {good + len(bad):,} images cannot be read: fix or remove them{fix}"
        raise DataError("\n".join([heading, *(f"{folder / file}: {reason}" for file, reason in bad)]))


def _read(folder: Path, file: str, layout: ImageFiles) -> Sample | Skipped:
    return image_files.sample(folder / file, layout, True, label=0, source=file, split="all", sample_id=file)
