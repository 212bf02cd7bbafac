"""Source of `xray_synthetic`: rendered dual-energy scans of bags, cut into patches as real scans are.

A stand-in for sets that are private, so that the whole path from boxed scans to a leaderboard runs
anywhere.  It shows that the path works; what a detector reaches on it says nothing about real scans.

A scan is a sum of absorbing shapes seen at two energies.  By Beer and Lambert the share of the rays
that pass is exp(-depth), depths of shapes that overlap add up, and the ratio of the depths at the two
energies tells the material, which real machines paint as here: organic orange, mixed green, metal
blue.  Threats and clutter come from the same bags, in the same materials.

All arithmetic is of integers, and random numbers are of NumPy's frozen legacy generator: the same
pixels on every machine.
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
SCANS_OF_A_CLASS = 40  # and as many without a threat
SEED = 20_190_108
TURN = 64  # directions
ONE = 4096  # of fixed-point sines and cosines
FINE = 16  # parts of a pixel
FINER = 8  # bits: ONE / FINE is 2^8
DEPTH = 64  # parts of an optical depth of 1
DEEPEST = 8 * DEPTH  # no ray passes
NOISE = 3  # of 255, at most
ORGANIC, MIXED, METAL = (5, 4), (16, 10), (52, 20)  # absorption of a unit at low and high energy
# Ratio of the two, in 16ths -> how strongly red, green and blue are absorbed, in 64ths.
PAINT = ((20, (10, 34, 80)), (26, (58, 26, 66)), (42, (92, 56, 26)))

Integers = npt.NDArray[np.int32]


class Shape(NamedTuple):
    """Some material: a slab, a tapering blade, an ellipsoid or a ring.

    Attributes:
        kind: key of `_KINDS`.
        material: absorption of a unit of thickness at low and at high energy.
        thickness: units, at the thickest.
        x, y: centre, in pixels from the middle of its object.
        length, width: half axes, in pixels.
        turn: in 64ths of a full turn, against its object.
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
    """Shapes that lie and turn together; x and y in pixels of the scan."""

    x: int
    y: int
    turn: int
    shapes: tuple[Shape, ...]


class Bag(NamedTuple):
    """All that a scan shows."""

    scan: Scan
    objects: tuple[Object, ...]
    noise: int


def read(root: Path | None = None) -> Source:  # noqa: ARG001 (all sources are read alike)
    """Patches of all scans, in order.

    Args:
        root: not used, nothing is read from disk.
    """
    packed = bags()
    by_name = {bag.scan.image: bag for bag in packed}

    def pixels(scan: Scan) -> tuple[npt.NDArray[np.uint8], bytes]:
        image = render(by_name[scan.image])
        return image, scan.image.encode()

    return source([bag.scan for bag in packed], THREATS, Recipe(), None, pixels, identity=f"scans of {SEED}")


@cache
def bags() -> tuple[Bag, ...]:
    """What lies in each scan: a quarter without a threat, the others with one each."""
    random = np.random.RandomState(SEED)
    return tuple(
        _pack_bag(f"scan-{number:04d}", CLASSES[number % len(CLASSES)], random)
        for number in range(SCANS_OF_A_CLASS * len(CLASSES))
    )


def render(bag: Bag) -> npt.NDArray[np.uint8]:
    """A scan in pseudo-colour.

    Returns:
        uint8 [3, height, width].
    """
    depths = np.zeros((2, bag.scan.height, bag.scan.width), np.int32)  # at low and high energy
    for thing in bag.objects:
        _absorb(depths, thing)
    low, high = depths
    ratio = np.clip(16 * low // np.maximum(high, 1), PAINT[0][0], PAINT[-1][0]) - PAINT[0][0]
    noise = np.random.RandomState(bag.noise).randint(-NOISE, NOISE + 1, high.shape, np.int16)
    place = ratio * (DEEPEST + 1) + np.minimum(high, DEEPEST)
    return np.stack([np.clip(colour.take(place) + noise, 0, 255).astype(np.uint8) for colour in _colours()])


def _pack_bag(name: str, title: str, random: np.random.RandomState) -> Bag:
    """A bag with clutter, and a threat unless the title is normal."""
    width, height = int(random.randint(256, 321)), int(random.randint(208, 273))
    middle_x, middle_y = width // 2, height // 2
    half_x, half_y = middle_x - int(random.randint(10, 25)), middle_y - int(random.randint(10, 25))
    cloth = Shape("slab", ORGANIC, 3, 0, 0, half_x, half_y)
    frame = Shape("frame", (ORGANIC, MIXED, METAL)[random.randint(3)], 2, 0, 0, half_x, half_y)
    objects = [Object(middle_x, middle_y, 0, (cloth, frame))]
    for _ in range(random.randint(12, 21)):
        shapes = CLUTTER[random.randint(len(CLUTTER))](random)
        objects.append(_laid(shapes, half_x, half_y, middle_x, middle_y, random))
    boxes: tuple[Box, ...] = ()
    if title != NORMAL:
        threat = _laid(ARMS[title](random), half_x * 2 // 3, half_y * 2 // 3, middle_x, middle_y, random)
        objects.append(threat)
        boxes = (_bounds(threat, title, width, height),)
    return Bag(Scan(name, width, height, boxes), tuple(objects), int(random.randint(2**31)))


def _laid(shapes: tuple[Shape, ...], half_x: int, half_y: int, x: int, y: int, random: np.random.RandomState) -> Object:
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


def _absorb(depths: Integers, thing: Object) -> None:
    """Adds an object to the depths, int32 [2, H, W]; what lies outside is not seen."""
    height, width = depths.shape[1:]
    cosine, sine = _direction(thing.turn)
    for shape in thing.shapes:
        x = thing.x + (shape.x * cosine - shape.y * sine) // ONE
        y = thing.y + (shape.x * sine + shape.y * cosine) // ONE
        c, s = _direction(thing.turn + shape.turn)
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
    whole = length**2 * width**2  # beyond 32 bits
    inside = np.maximum(whole - u.astype(np.int64) ** 2 * width**2 - v.astype(np.int64) ** 2 * length**2, 0)
    rounded_up: Integers = (-(-thickness * inside // whole)).astype(np.int32)  # as wide as it is
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


def _bounds(thing: Object, title: str, width: int, height: int) -> Box:
    """The box around an object's pixels."""
    depths = np.zeros((2, height, width), np.int32)
    _absorb(depths, thing)
    rows, columns = (np.flatnonzero(depths[1].any(axis=axis)) for axis in (1, 0))
    return Box(title, float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


@cache
def _direction(turn: int) -> tuple[int, int]:
    """Cosine and sine in fixed point."""
    angle = 2 * math.pi * turn / TURN
    return round(ONE * math.cos(angle)), round(ONE * math.sin(angle))


@cache
def _colours() -> npt.NDArray[np.int16]:
    """Red, green and blue by ratio (from the first of `PAINT`) and depth, int16 [3, ratios, depths].

    Strengths of absorption are linear between the ratios of `PAINT`.  Exponentials are decimal: the
    last bit of a machine's own is its own affair.
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
