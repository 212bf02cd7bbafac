"""New images for a trained detector to score, prepared in the same way as the images of a stored dataset."""

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
from data.storage.parallel import map_in_order
from data.storage.prepare import prepare

CHUNK = 64  # files that are read at a time


@dataclass(frozen=True, eq=False)
class NewImages:
    """Some images of a folder.

    Attributes:
        files: paths below the folder of the images that could be read, [n].
        images: uint8 [n, C, S, S].
        skipped: files that could not be read.
    """

    files: tuple[str, ...]
    images: npt.NDArray[np.uint8]
    skipped: tuple[Skipped, ...]


def list_images(folder: Path) -> list[str]:
    """List the images in a folder and its subfolders, sorted by path; hidden files and folders are left out.

    Returns:
        paths below the folder, "/"-separated.

    Raises:
        DataError: if the folder cannot be read or has no image; the message lists all problems.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    problems: list[str] = []
    paths = image_paths(folder, "", problems)
    if not paths and not problems:
        problems.append(f"{folder}: no image in it (looked for {', '.join(sorted(SUFFIXES))})")
    if problems:
        raise DataError("\n".join(problems))
    return paths


def prepare_images(folder: Path, files: Sequence[str], manifest: Manifest, chunk: int = CHUNK) -> Iterator[NewImages]:
    """Yield images of a folder, some at a time, with the size, channels, fit and filter of a stored dataset.

    Args:
        folder: folder that contains `files`.
        files: paths below the folder.
        manifest: manifest of the dataset.
        chunk: files that are read at a time, which is also the most images that one `Unseen` has.
    """
    channels, size, _ = manifest.shape
    parameters: dict[str, Any] = dict(manifest.parameters)
    rules = {name: parameters[name] for name in ("fit", "sixteen_bits") if name in parameters}
    layout = ImageFiles(root=str(folder), channels=1 if channels == 1 else 3, **rules)
    resampling = Image.Resampling[str(parameters["interpolation"]).upper()]

    def read(chosen: Sequence[str]) -> NewImages:
        prepared = prepare((_read(folder, file, layout) for file in chosen), channels, size, resampling)
        return NewImages(tuple(prepared.rows.sample_ids.tolist()), prepared.rows.images, prepared.skipped)

    yield from map_in_order(read, (files[at : at + chunk] for at in range(0, len(files), chunk)))


def refuse_bad(folder: Path, good: int, bad: Sequence[Skipped]) -> None:
    """Raise an error if there are images that cannot be read.

    Args:
        folder: folder of the images.
        good: number of images that can be read.
        bad: all images that cannot be read.

    Raises:
        DataError: if `bad` is not empty; the message lists all of them.
    """
    if bad:
        fix = ", or go on without them: --on-bad skip (in Python: skip_bad=True)" if good else ""
        heading = f"{len(bad):,} of {good + len(bad):,} images cannot be read: fix or remove them{fix}"
        raise DataError("\n".join([heading, *(f"{folder / file}: {reason}" for file, reason in bad)]))


def _read(folder: Path, file: str, layout: ImageFiles) -> Sample | Skipped:
    return image_files.sample(folder / file, layout, True, label=0, source=file, split="all", sample_id=file)
