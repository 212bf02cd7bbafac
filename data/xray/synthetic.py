"""Source of `xray_synthetic`: rendered dual-energy scans of bags, cut into patches in the same way as real scans.

The source is a substitute for private datasets, so that the whole path from scans with boxes to a leaderboard can run
anywhere.  It shows that the path works; results of a detector on it do not predict results on real scans.

A scan is a sum of absorbing shapes seen at two energies.  By the law of Beer and Lambert, the share of the rays that
pass is exp(-depth), and the depths of overlapping shapes add up.  The ratio of the depths at the two energies
identifies the material.  The colours are those of real machines: organic orange, mixed green, metal blue.  Threats and
clutter are in the same bags and made of the same materials.

All arithmetic uses integers, and random numbers come from NumPy's frozen legacy generator, so that every machine
renders the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data.sources.base import Source
from data.xray.boxes import NORMAL, Box, Scan
from data.xray.patches import Recipe
from data.xray.scans import source

THREATS = ("gun", "gun-parts", "knife")
CLASSES = (NORMAL, *THREATS)
SCANS_OF_A_CLASS = 40  # scans with a threat of one class; there are as many without a threat
SEED = 20_190_108
TURN = 64  # directions in a full turn
ONE = 4096  # value of 1 in fixed-point sines and cosines
FINE = 16  # units per pixel in the coordinates of a shape
FINER = 8  # bits of a shift that converts products with sines to units of FINE: ONE / FINE is 2^8
DEPTH = 64  # units per optical depth of 1
DEEPEST = 8 * DEPTH  # depth beyond which no ray passes
NOISE = 3  # largest noise, of 255
ORGANIC, MIXED, METAL = (5, 4), (16, 10), (52, 20)  # absorption per unit of thickness at low and high energy
# Pairs: ratio of the depths at low and high energy, in 16ths; absorption of red, green and blue, in 64ths.
PAINT = ((20, (10, 34, 80)), (26, (58, 26, 66)), (42, (92, 56, 26)))

Integers = npt.NDArray[np.int32]


class Shape(NamedTuple):
    """A piece of one material: a slab, a tapering blade, an ellipsoid, a ring or a frame.

    Attributes:
        kind: key of `_KINDS`.
        material: absorption per unit of thickness at low and at high energy.
        thickness: greatest thickness, in units.
        x, y: centre, in pixels from the middle of its object.
        length, width: half axes, in pixels.
        turn: rotation relative to its object, in 64ths of a full turn.
    """

    kind: str
    material: tuple[int, int]
    thickness: int
    x: int
    y: int
    length: int
    width: int
    turn: int = 0


class Object(NamedTuple):
    """Shapes that are placed and rotated together; x and y are in pixels of the scan."""

    x: int
    y: int
    turn: int
    shapes: tuple[Shape, ...]


class Bag(NamedTuple):
    """A scan with all its objects, and the seed of its noise."""

    scan: Scan
    objects: tuple[Object, ...]
    noise: int


def read(root: Path | None = None) -> Source:  # noqa: ARG001 (all sources have this parameter)
    """Open the patches of all scans, in order.

    Args:
        root: not used; nothing is read from disk.
    """
    packed = bags()
    by_name = {bag.scan.image: bag for bag in packed}

    def pixels(scan: Scan) -> tuple[npt.NDArray[np.uint8], bytes]:
        image = render(by_name[scan.image])
        return image, scan.image.encode()

    return source([bag.scan for bag in packed], THREATS, Recipe(), None, pixels, identity=f"scans of {SEED}")


@cache
def bags() -> tuple[Bag, ...]:
    """Return all bags: a quarter of them without a threat, the others with one threat each."""
    random = np.random.RandomState(SEED)
    return tuple(
        _pack_bag(f"scan-{number:04d}", CLASSES[number % len(CLASSES)], random)
        for number in range(SCANS_OF_A_CLASS * len(CLASSES))
    )


def render(bag: Bag) -> npt.NDArray[np.uint8]:
    """Render the scan of a bag in pseudo-colour.

    Returns:
        uint8 [3, height, width].
    """
    depths = np.zeros((2, bag.scan.height, bag.scan.width), np.int32)  # two planes: low and high energy
    for item in bag.objects:
        _absorb(depths, item)
    low, high = depths
    ratio = np.clip(16 * low // np.maximum(high, 1), PAINT[0][0], PAINT[-1][0]) - PAINT[0][0]
    noise = np.random.RandomState(bag.noise).randint(-NOISE, NOISE + 1, high.shape, np.int16)
    index = ratio * (DEEPEST + 1) + np.minimum(high, DEEPEST)
    return np.stack([np.clip(colour.take(index) + noise, 0, 255).astype(np.uint8) for colour in _colours()])


def _pack_bag(name: str, title: str, random: np.random.RandomState) -> Bag:
    """Make a bag with clutter, and with a threat unless the title is normal."""
    width, height = int(random.randint(256, 321)), int(random.randint(208, 273))
    middle_x, middle_y = width // 2, height // 2
    half_x, half_y = middle_x - int(random.randint(10, 25)), middle_y - int(random.randint(10, 25))
    cloth = Shape("slab", ORGANIC, 3, 0, 0, half_x, half_y)
    frame = Shape("frame", (ORGANIC, MIXED, METAL)[random.randint(3)], 2, 0, 0, half_x, half_y)
    objects = [Object(middle_x, middle_y, 0, (cloth, frame))]
    for _ in range(random.randint(12, 21)):
        shapes = CLUTTER[random.randint(len(CLUTTER))](random)
        objects.append(_place(shapes, half_x, half_y, middle_x, middle_y, random))
    boxes: tuple[Box, ...] = ()
    if title != NORMAL:
        threat = _place(ARMS[title](random), half_x * 2 // 3, half_y * 2 // 3, middle_x, middle_y, random)
        objects.append(threat)
        boxes = (_bounds(threat, title, width, height),)
    return Bag(Scan(name, width, height, boxes), tuple(objects), int(random.randint(2**31)))


def _place(
    shapes: tuple[Shape, ...], half_x: int, half_y: int, x: int, y: int, random: np.random.RandomState
) -> Object:
    """Place shapes at random around (x, y), with a random rotation."""
    at_x, at_y = random.randint(-half_x + 8, half_x - 7), random.randint(-half_y + 8, half_y - 7)
    return Object(x + int(at_x), y + int(at_y), int(random.randint(TURN)), shapes)


def _knife(random: np.random.RandomState) -> tuple[Shape, ...]:
    blade, handle, width = (int(random.randint(*span)) for span in ((22, 32), (13, 19), (5, 9)))
    grip = (ORGANIC, MIXED, METAL)[random.randint(3)]
    return (
        Shape("blade", METAL, 2, blade, 0, blade, width),
        Shape("slab", grip, 6, -handle, 0, handle, width * 2 // 3),
    )


def _gun(random: np.random.RandomState) -> tuple[Shape, ...]:
    return (*_slide(random), *_grip(random))


def _gun_parts(random: np.random.RandomState) -> tuple[Shape, ...]:
    return (_slide, _grip)[random.randint(2)](random)


def _slide(random: np.random.RandomState) -> tuple[Shape, ...]:
    half = int(random.randint(24, 33))
    return (
        Shape("slab", METAL, 5, 4, -8, half, 6),
        Shape("slab", METAL, 3, 8, -8, half, 3),
    )


def _grip(random: np.random.RandomState) -> tuple[Shape, ...]:
    half = int(random.randint(14, 20))
    return (
        Shape("slab", METAL, 4, -18, half - 4, half, 7, 19),
        Shape("ring", METAL, 3, -1, 4, 9, 7),
    )


def _bottle(random: np.random.RandomState) -> tuple[Shape, ...]:
    half, width = int(random.randint(18, 40)), int(random.randint(9, 16))
    return Shape("ellipsoid", ORGANIC, 18, 0, 0, half, width), Shape("slab", ORGANIC, 6, half, 0, 6, width // 3)


def _book(random: np.random.RandomState) -> tuple[Shape, ...]:
    return (Shape("slab", ORGANIC, int(random.randint(4, 14)), 0, 0, *map(int, random.randint(14, 45, 2))),)


def _device(random: np.random.RandomState) -> tuple[Shape, ...]:
    half, width = int(random.randint(18, 40)), int(random.randint(10, 24))
    chips = tuple(
        Shape("slab", METAL, int(random.randint(1, 4)), int(random.randint(-half, half)),
              int(random.randint(-width, width)), *map(int, random.randint(1, 5, 2)))
        for _ in range(8)
    )  # fmt: skip
    return (Shape("slab", MIXED, 4, 0, 0, half, width), *chips)


def _rod(random: np.random.RandomState) -> tuple[Shape, ...]:
    return (
        Shape("slab", METAL, int(random.randint(1, 5)), 0, 0, int(random.randint(15, 60)), int(random.randint(1, 4))),
    )


def _coin(random: np.random.RandomState) -> tuple[Shape, ...]:
    half = int(random.randint(3, 8))
    return (Shape("ellipsoid", METAL, int(random.randint(3, 7)), 0, 0, half, half),)


def _buckle(random: np.random.RandomState) -> tuple[Shape, ...]:
    strap = Shape("slab", ORGANIC, 3, 40, 0, 50, 5)
    return Shape("ring", METAL, 4, 0, 0, int(random.randint(9, 16)), int(random.randint(7, 12))), strap


def _charger(random: np.random.RandomState) -> tuple[Shape, ...]:
    half, width = (int(side) for side in random.randint(9, 20, 2))
    return Shape("slab", MIXED, int(random.randint(4, 10)), 0, 0, half, width), Shape(
        "slab", METAL, 3, 0, 0, half // 2, 3
    )


Made = Callable[[np.random.RandomState], tuple[Shape, ...]]
CLUTTER: tuple[Made, ...] = (_bottle, _book, _book, _device, _rod, _coin, _buckle, _charger)
ARMS: dict[str, Made] = {"gun": _gun, "gun-parts": _gun_parts, "knife": _knife}


def _absorb(depths: Integers, item: Object) -> None:
    """Add an object to the depths, int32 [2, H, W], without its parts outside the scan."""
    height, width = depths.shape[1:]
    cosine, sine = _direction(item.turn)
    for shape in item.shapes:
        x = item.x + (shape.x * cosine - shape.y * sine) // ONE
        y = item.y + (shape.x * sine + shape.y * cosine) // ONE
        c, s = _direction(item.turn + shape.turn)
        reach_x = (shape.length * abs(c) + shape.width * abs(s)) // ONE + 2
        reach_y = (shape.length * abs(s) + shape.width * abs(c)) // ONE + 2
        left, right = max(0, x - reach_x), min(width, x + reach_x + 1)
        top, bottom = max(0, y - reach_y), min(height, y + reach_y + 1)
        if left >= right or top >= bottom:
            continue
        across = np.arange(left - x, right - x, dtype=np.int32)[None, :]
        down = np.arange(top - y, bottom - y, dtype=np.int32)[:, None]
        u = (across * c + down * s) >> FINER
        v = (down * c - across * s) >> FINER
        thickness = _KINDS[shape.kind](u, v, shape.length * FINE, shape.width * FINE, shape.thickness)
        for depth, absorption in zip(depths, shape.material, strict=True):
            depth[top:bottom, left:right] += (thickness * absorption).astype(np.int32)


def _slab(u: Integers, v: Integers, length: int, width: int, thickness: int) -> Integers:
    inside: Integers = ((abs(u) <= length) & (abs(v) <= width)).astype(np.int32)
    return inside * thickness


def _blade(u: Integers, v: Integers, length: int, width: int, thickness: int) -> Integers:
    return _slab(u, v, length, width, thickness) * (abs(v + width) * length <= width * (length - u))


def _ellipsoid(u: Integers, v: Integers, length: int, width: int, thickness: int) -> Integers:
    whole = length**2 * width**2  # may exceed 32 bits
    inside = np.maximum(whole - u.astype(np.int64) ** 2 * width**2 - v.astype(np.int64) ** 2 * length**2, 0)
    rounded_up: Integers = (-(-thickness * inside // whole)).astype(np.int32)  # else thin edges would round to 0
    return rounded_up


def _ring(u: Integers, v: Integers, length: int, width: int, thickness: int) -> Integers:
    wall = 2 * FINE
    outer, inner = (_ellipsoid(u, v, length - less, width - less, 1) for less in (0, wall))
    return (outer - inner) * thickness


def _frame(u: Integers, v: Integers, length: int, width: int, thickness: int) -> Integers:
    wall = 3 * FINE
    return _slab(u, v, length, width, thickness) - _slab(u, v, length - wall, width - wall, thickness)


_KINDS: dict[str, Callable[[Integers, Integers, int, int, int], Integers]] = {
    "slab": _slab, "blade": _blade, "ellipsoid": _ellipsoid, "ring": _ring, "frame": _frame,
}  # fmt: skip


def _bounds(item: Object, title: str, width: int, height: int) -> Box:
    """Return the box around an object's pixels."""
    depths = np.zeros((2, height, width), np.int32)
    _absorb(depths, item)
    rows, columns = (np.flatnonzero(depths[1].any(axis=axis)) for axis in (1, 0))
    return Box(title, float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


@cache
def _direction(turn: int) -> tuple[int, int]:
    """Return cosine and sine of a direction in fixed point."""
    angle = 2 * math.pi * turn / TURN
    return round(ONE * math.cos(angle)), round(ONE * math.sin(angle))


@cache
def _colours() -> npt.NDArray[np.int16]:
    """Return red, green and blue by ratio (from the first of `PAINT`) and depth, int16 [3, ratios, depths].

    Absorption is interpolated linearly between the ratios of `PAINT`.  Exponentials are decimal, because the
    last bit of floating-point ones may differ between machines.
    """
    passing = [int((255 * (Decimal(-depth) / DEPTH).exp()).to_integral_value()) for depth in range(2 * DEEPEST + 1)]
    depths = np.arange(DEEPEST + 1)[:, None]
    colours = []
    for (low, before), (high, after) in pairwise(PAINT):
        for ratio in range(low, high + (high == PAINT[-1][0])):
            steps = zip(before, after, strict=True)
            strength = [start + (ratio - low) * (end - start) // (high - low) for start, end in steps]
            colours.append(np.array(passing, np.int16)[depths * strength // DEPTH])
    return np.ascontiguousarray(np.stack(colours).transpose(2, 0, 1))
