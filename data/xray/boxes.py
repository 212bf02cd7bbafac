"""Scans with the boxes of their threats, after a check of the annotations.

A scan with any problem in its annotation is skipped as a whole.  If only its wrong box were dropped, the windows on
that threat would count as normal.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from data.sources.base import Skipped

NORMAL = "normal"  # class of everything outside boxes
ROUNDING = 1.0  # pixels by which a corner may lie outside its scan: it may be counted from 1, or stored as a share
UNREADABLE = "not an image that can be read"


class Box(NamedTuple):
    """Bounding box of a threat, in pixels of its scan.

    Coordinates are edges of pixels: a box of one pixel has xmax = xmin + 1.

    Attributes:
        title: name of the threat's class.
        xmin, ymin, xmax, ymax: 0 <= xmin < xmax <= width of the scan, 0 <= ymin < ymax <= height of the scan.
    """

    title: str
    xmin: float
    ymin: float
    xmax: float
    ymax: float


class Scan(NamedTuple):
    """An image and the boxes of its threats.

    Attributes:
        image: path of its file below the folder of images, "/"-separated.
        width, height: size of the image in pixels.
        boxes: boxes in the order of the annotation; empty for a benign scan.
    """

    image: str
    width: int
    height: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Row:
    """One line or element of an annotation, unchecked.

    Attributes:
        where: file and line, for messages.
        image: name of the image.
        size: width and height in the annotation; None if it has none.
        box: box of a threat; None if the row marks the image as benign.
        shares: True if the box is in shares of width and height instead of pixels.
        problem: problem of the row itself; "" for none.
    """

    where: str
    image: str
    size: tuple[float, float] | None = None
    box: Box | None = None
    shares: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Annotations:
    """A folder of images and its annotations, unchecked.

    Attributes:
        images: files by their paths below the folder of images, sorted.
        files: files that the rows were read from.
        rows: rows in the order of the files.
    """

    images: Mapping[str, Path]
    files: tuple[Path, ...]
    rows: tuple[Row, ...]

    def titles(self) -> tuple[str, ...]:
        """Return the names of all classes of boxes, sorted."""
        return tuple(sorted({row.box.title for row in self.rows if row.box} - {"", NORMAL}))


def check_annotations(
    annotations: Annotations, classes: tuple[str, ...], *, benign_unannotated: bool = False
) -> list[Scan | Skipped]:
    """Check annotations and return all scans with their boxes, in the order of their paths.

    Corners are read as counted from 0.  A box that extends beyond its scan by at most one pixel, as
    boxes with corners counted from 1 do, is cut at the scan's edge.

    Args:
        annotations: result of `data.xray.annotation_files.read`.
        classes: legal classes of boxes.
        benign_unannotated: True if an image without annotation is benign; False if that is a problem.

    Returns:
        scans; a scan with problems is replaced by a `Skipped` that lists all of them.
    """
    problems: dict[str, list[str]] = defaultdict(list)
    boxes: dict[str, list[Box]] = {}
    sizes = _Sizes(annotations.images)
    for row in annotations.rows:
        problem, box = _check_row(row, sizes, classes)
        if problem:
            problems[row.image].append(f"{row.where}: {problem}")
        else:
            boxes.setdefault(row.image, []).extend([] if box is None else [box])
    for image in annotations.images:
        if image not in boxes and image not in problems:
            if not benign_unannotated:
                problems[image].append("no annotation names this image")
            elif sizes[image] is None:
                problems[image].append(UNREADABLE)
    return [
        Skipped(image, "; ".join(problems[image])) if image in problems else _scan(image, sizes, boxes.get(image, []))
        for image in sorted({*annotations.images, *problems})
    ]


class _Sizes(dict[str, tuple[int, int] | None]):
    """Width and height of each image, read from the header of its file on first use; None if it cannot be read."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        super().__init__()
        self._files = files

    def __missing__(self, image: str) -> tuple[int, int] | None:
        from PIL import Image  # imported here because plans need no sizes, and so no Pillow

        from data.sources.image_files import KINDS

        try:
            with Image.open(self._files[image], formats=KINDS) as opened:
                self[image] = opened.size
        except (OSError, ValueError, Image.DecompressionBombError):
            self[image] = None
        return self[image]


def _scan(image: str, sizes: _Sizes, boxes: list[Box]) -> Scan:
    size = sizes[image]
    assert size is not None, "an image without a size has a problem"
    return Scan(image, *size, tuple(boxes))


def _check_row(row: Row, sizes: _Sizes, classes: tuple[str, ...]) -> tuple[str, Box | None]:
    """Return the problem of a row ("" for none), and its box in pixels, cut at the edge of its scan."""
    if row.problem:
        return row.problem, None
    try:
        size = sizes[row.image]
    except KeyError:
        return f"names the image {row.image!r}, which does not exist", None
    if size is None:
        return UNREADABLE, None
    if row.size is not None and row.size != size:
        return f"has the size {_by(row.size)} pixels, but the image has {_by(size)}", None
    if row.box is None:
        return "", None
    box = _pixels(row.box, size) if row.shares else row.box
    return _problem(box, size, classes), _inside(box, size)


def _problem(box: Box, size: tuple[int, int], classes: tuple[str, ...]) -> str:
    title, *corners = box
    width, height = size
    if not title:
        return "a box without a class"
    if title == NORMAL:
        return f"a box of class {NORMAL!r}, which is the class of everything outside boxes"
    if classes and title not in classes:
        nearest = get_close_matches(title, classes, 1)
        return (
            f"unknown class {title!r}"
            + (f" (is it {nearest[0]}?)" if nearest else "")
            + f": use one of {', '.join(classes)}"
        )
    if not all(map(math.isfinite, corners)):
        return f"{_box_text(box)}: not finite numbers"
    if not (box.xmin < box.xmax and box.ymin < box.ymax):
        return f"{_box_text(box)} has no area"
    inside = _inside(box, size)
    if max(abs(corner - cut) for corner, cut in zip(corners, inside[1:], strict=True)) > ROUNDING:
        return f"{_box_text(box)} lies outside its scan of {_by((width, height))} pixels"
    if not (inside.xmin < inside.xmax and inside.ymin < inside.ymax):
        return f"{_box_text(box)} has no area inside its scan of {_by((width, height))} pixels"
    return ""


def _inside(box: Box, size: tuple[int, int]) -> Box:
    (width, height), (title, xmin, ymin, xmax, ymax) = size, box
    return Box(title, _cut(xmin, width), _cut(ymin, height), _cut(xmax, width), _cut(ymax, height))


def _cut(corner: float, side: int) -> float:
    return min(max(corner, 0.0), float(side))


def _pixels(box: Box, size: tuple[int, int]) -> Box:
    (width, height), (title, xmin, ymin, xmax, ymax) = size, box
    return Box(title, xmin * width, ymin * height, xmax * width, ymax * height)


def _box_text(box: Box) -> str:
    return f"box {', '.join(f'{corner:g}' for corner in box[1:])} of class {box.title}"


def _by(size: tuple[float, float]) -> str:
    return f"{size[0]:g} x {size[1]:g}"
