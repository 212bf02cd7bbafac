"""Scans to patches: the recipe of the University Baggage Dataset, as far as its two papers give it.

The papers are S. Akcay, A. Atapour-Abarghouei and T. P. Breckon, GANomaly (ACCV 2018, section 4) and Skip-GANomaly
(IJCNN 2019, section IV).  Overlapping 64 x 64 windows slide over a scan.  Abnormal patches are the windows whose
intersection over union with a threat's box is greater than 0.3, plus one crop of every threat; all other windows are
normal.  Details that the papers do not give are parameters of `Recipe`.

All functions depend on their arguments alone: they use no state, no files and no global random numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from data.xray.boxes import Box, Scan

NORMAL_LABEL = 0
LEFT_OUT = -1
SCALES = tuple(Fraction(percent, 100) for percent in (100, 90, 80, 125, 70, 150, 60, 50, 200, 40, 30, 25, 20, 15, 10))
AIR_TOLERANCE = 12  # pixel values, of 255: covers the noise of the scanner's sensor and of JPEG

Pixels = npt.NDArray[np.uint8]
Windows = npt.NDArray[np.int64]  # [n, 2]: x and y of the upper left corners
Corners = npt.NDArray[np.float64]  # [n, 4]: xmin, ymin, xmax, ymax
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Recipe:
    """Rules by which a scan is cut into patches.

    Attributes:
        window: side of the square windows, in pixels of the scaled scan.
        stride: distance from one window to the next, in the same pixels; the last window touches the far edge.
        iou: a window is abnormal if its intersection over union with a box is greater than this; 0 to 1.
        partial: treatment of a window with 0 < IoU <= `iou`: "left_out", or "normal" as in the published recipe,
            which therefore trains on parts of threats.
        crops: True if each box gives one more abnormal patch, the square around it.
        blank: a normal window is left out if more than this share of it is air; 1 keeps all windows.
        normal_from: scans that give normal windows: "all", or only the "benign" ones.  Caution: if scans with
            threats come from another machine than benign ones, "benign" lets a detector separate classes by machine.
        per_scan: most patches of one class from one scan; 0 for no limit.  Crops have priority; windows are
            drawn at random, with the scan's content as seed.
    """

    window: int = 64
    stride: int = 32
    iou: float = 0.3
    partial: Literal["left_out", "normal"] = "left_out"
    crops: bool = True
    blank: float = 0.9
    normal_from: Literal["all", "benign"] = "all"
    per_scan: int = 64


class Patch(NamedTuple):
    """One training or test image.

    Attributes:
        image: uint8 [C, window, window].
        label: 0 for normal, k for the k-th class of threats, counted from 1.
        place: position of the patch: "x,y" for a window in the scaled scan, "box-n" for a crop.
    """

    image: Pixels
    label: int
    place: str


def cut(
    image: Pixels, boxes: Sequence[Box], classes: Sequence[str], recipe: Recipe, scale: Fraction, seed: bytes
) -> Iterator[Patch]:
    """Cut one scan into patches: crops in the order of the boxes, then windows row by row.

    Args:
        image: uint8 [C, H, W].
        boxes: boxes of its threats, in pixels of `image`.
        classes: classes of threats; the label of `classes[k]` is k + 1.
        recipe: rules by which the scan is cut.
        scale: factor by which the scan is resized before windows slide over it; crops are cut before that.
        seed: seed of the draw of `per_scan`.  It is made from the scan's content, so that the draw depends
            neither on the scan's name nor on other scans.
    """
    height, width = image.shape[1:]
    label_of = [classes.index(box.title) + 1 for box in boxes]
    crops = [] if not recipe.crops else [
        number for number, label in enumerate(label_of)
        if not recipe.per_scan or label_of[:number].count(label) < recipe.per_scan
    ]  # fmt: skip
    for number in crops:
        region = surroundings(boxes[number], width, height)
        yield Patch(_resize(image, region, recipe.window, recipe.window), label_of[number], f"box-{number}")

    sides = scaled_sides(width, height, scale)
    resized = image if sides == (width, height) else _resize(image, (0, 0, width, height), *sides)
    windows = grid(*sides, recipe)
    labels = label_windows(iou(windows, recipe.window, _corners(boxes, (width, height), sides)), label_of, recipe)
    normal = labels == NORMAL_LABEL
    if boxes and recipe.normal_from == "benign":
        labels[normal] = LEFT_OUT
    labels[normal & (air_shares(resized, windows, recipe.window) > recipe.blank)] = LEFT_OUT
    for first in draw_windows(windows, labels, [label_of[number] for number in crops], recipe.per_scan, seed):
        x, y = windows[first].tolist()
        patch = resized[:, y : y + recipe.window, x : x + recipe.window]
        yield Patch(np.ascontiguousarray(patch), int(labels[first]), f"{x},{y}")


def scaled_sides(width: int, height: int, scale: Fraction) -> tuple[int, int]:
    """Return width and height of a scaled scan: at least 1 pixel each, halves rounded up."""
    half = Fraction(1, 2)
    return max(1, int(width * scale + half)), max(1, int(height * scale + half))


def grid(width: int, height: int, recipe: Recipe) -> Windows:
    """Return all windows inside a scan, row by row; there are none if the scan is smaller than a window.

    Returns:
        int64 [n, 2], x and y of the upper left corners.
    """
    x, y = _starts(width, recipe), _starts(height, recipe)
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def iou(windows: Windows, side: int, boxes: Corners) -> npt.NDArray[np.float64]:
    """Compute the intersection over union of every window with every box.

    Args:
        windows: int64 [n, 2], upper left corners.
        side: side of the windows in pixels.
        boxes: float64 [m, 4].

    Returns:
        float64 [n, m], from 0 to 1.
    """
    low = np.maximum(windows[:, None, :], boxes[None, :, :2])
    high = np.minimum(windows[:, None, :] + side, boxes[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
    return np.asarray(shared / (side * side + areas - shared), np.float64)


def label_windows(overlaps: npt.NDArray[np.float64], label_of: Sequence[int], recipe: Recipe) -> Labels:
    """Return the label of each window: that of the box with the greatest overlap, if it is greater than `recipe.iou`.

    Args:
        overlaps: float64 [n, m], intersection over union of n windows with m boxes.
        label_of: label of each box, from 1.
        recipe: its `iou` is the limit, and its `partial` decides windows with less overlap.

    Returns:
        int64 [n]: 0 for normal, -1 for a window that is left out.
    """
    if not overlaps.shape[1]:
        return np.full(len(overlaps), NORMAL_LABEL, np.int64)
    most = overlaps.max(axis=1)
    less = NORMAL_LABEL if recipe.partial == "normal" else LEFT_OUT
    unlike = np.where(most > 0, less, NORMAL_LABEL)
    return np.where(most > recipe.iou, np.asarray(label_of, np.int64)[overlaps.argmax(axis=1)], unlike)


def air_shares(image: Pixels, windows: Windows, side: int) -> npt.NDArray[np.float64]:
    """Return the share of air in each window: of pixels that are as light as air in every channel.

    The value of air is the most frequent value from 128 to 255 in this scan, because machines paint air
    in different greys or white.

    Args:
        image: uint8 [C, H, W].
        windows: int64 [n, 2], upper left corners of windows inside the image.
        side: side of the windows in pixels.

    Returns:
        float64 [n], from 0 to 1.
    """
    darkest = image.min(axis=0)
    counts = np.bincount(darkest.ravel(), minlength=256)
    air = 128 + int(counts[128:].argmax()) if counts[128:].any() else 255
    sums = np.zeros((darkest.shape[0] + 1, darkest.shape[1] + 1), np.int32)
    np.cumsum(np.cumsum(darkest >= air - AIR_TOLERANCE, axis=0, dtype=np.int32), axis=1, out=sums[1:, 1:])
    x, y = windows.T
    inside = sums[y + side, x + side] - sums[y, x + side] - sums[y + side, x] + sums[y, x]
    return np.asarray(inside / (side * side), np.float64)


def draw_windows(windows: Windows, labels: Labels, taken: Sequence[int], per_scan: int, seed: bytes) -> list[int]:
    """Draw the windows that a scan gives, and return their positions in `windows`, in order.

    Args:
        windows: int64 [n, 2], upper left corners.
        labels: int64 [n], -1 for windows that are left out already.
        taken: labels of the patches that the scan has given already.
        per_scan: most patches of one label; 0 for no limit.
        seed: seed of the draw among windows of a label that has more than `per_scan`.
    """
    given = np.flatnonzero(labels != LEFT_OUT).tolist()
    if not per_scan:
        return given
    lots = {first: hashlib.blake2b(seed + windows[first].astype("<i8").tobytes()).digest() for first in given}
    staying: set[int] = set()
    for label in np.unique(labels[given]).tolist():
        like = [first for first in given if labels[first] == label]
        staying.update(sorted(like, key=lots.__getitem__)[: max(0, per_scan - taken.count(label))])
    return [first for first in given if first in staying]


def surroundings(box: Box, width: int, height: int) -> tuple[int, int, int, int]:
    """Return the square around a box, moved into its scan, and cut if it is larger than the scan.

    Returns:
        Left, top, right and bottom in whole pixels.
    """
    low_x, low_y = int(np.floor(box.xmin)), int(np.floor(box.ymin))
    high_x, high_y = int(np.ceil(box.xmax)), int(np.ceil(box.ymax))
    side = max(high_x - low_x, high_y - low_y)
    left, right = _move_inside(low_x, high_x, side, width)
    top, bottom = _move_inside(low_y, high_y, side, height)
    return left, top, right, bottom


def reached_boxes(scan: Scan, recipe: Recipe, scale: Fraction) -> list[bool]:
    """Return a flag for each box of a scan: True if some window's IoU with it is above `recipe.iou` at this scale."""
    sides = scaled_sides(scan.width, scan.height, scale)
    windows = grid(*sides, recipe)
    boxes = _corners(scan.boxes, (scan.width, scan.height), sides)
    if not len(windows):
        return [False] * len(scan.boxes)
    return [bool(most > recipe.iou) for most in iou(windows, recipe.window, boxes).max(axis=0)]


def choose_scale(scans: Iterable[Scan], recipe: Recipe) -> Fraction:
    """Return the scale nearest to 1 at which windows reach at least half of the boxes of every class.

    If there is no such scale, return the scale with the greatest share of boxes reached in its worst class;
    among equals, the one nearest to 1.  A window reaches a box if their IoU is above `recipe.iou`.

    Args:
        scans: all scans; those without boxes do not matter.
        recipe: rules for the windows.
    """
    threats = [scan for scan in scans if scan.boxes]
    best, most = SCALES[0], -1.0
    for scale in SCALES if threats else ():
        shares = reach(threats, recipe, scale)
        worst = min(shares.values())
        if worst >= 0.5:
            return scale
        if worst > most:
            best, most = scale, worst
    return best


def reach(scans: Iterable[Scan], recipe: Recipe, scale: Fraction) -> dict[str, float]:
    """Return for each class of threats the share of its boxes that windows reach, 0 to 1."""
    reached: dict[str, list[bool]] = {}
    for scan in scans:
        for box, is_reached in zip(scan.boxes, reached_boxes(scan, recipe, scale), strict=True):
            reached.setdefault(box.title, []).append(is_reached)
    return {title: sum(hits) / len(hits) for title, hits in sorted(reached.items())}


def _starts(length: int, recipe: Recipe) -> npt.NDArray[np.int64]:
    last = length - recipe.window
    if last < 0:
        return np.empty(0, np.int64)
    return np.array(sorted({*range(0, last + 1, recipe.stride), last}), np.int64)


def _corners(boxes: Sequence[Box], before: tuple[int, int], after: tuple[int, int]) -> Corners:
    factors: Corners = np.array([after[0] / before[0], after[1] / before[1]] * 2)
    corners: Corners = np.array([box[1:] for box in boxes], np.float64).reshape(-1, 4)
    return corners * factors


def _move_inside(low: int, high: int, side: int, limit: int) -> tuple[int, int]:
    side = min(side, limit)
    start = min(max((low + high - side) // 2, 0), limit - side)
    return start, start + side


def _resize(image: Pixels, region: tuple[int, int, int, int], width: int, height: int) -> Pixels:
    """Resize bilinearly, first along x, then along y; in a single call the order would depend on Pillow's version."""
    left, top, right, bottom = region
    channels = []
    for channel in image[:, top:bottom, left:right]:
        rows = Image.fromarray(np.ascontiguousarray(channel)).resize((width, bottom - top), Image.Resampling.BILINEAR)
        channels.append(np.asarray(rows.resize((width, height), Image.Resampling.BILINEAR)))
    return np.stack(channels)
