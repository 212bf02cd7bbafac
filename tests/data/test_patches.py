"""Scans to patches: the recipe is followed for every scan, box and parameter."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.xray import patches
from data.xray.boxes import Box, Scan
from data.xray.patches import Patch, Recipe

CLASSES = ("knife", "gun")
WINDOW = 16
ONE = Fraction(1)
quick = settings(deadline=None, max_examples=60)


@st.composite
def scans(draw: st.DrawFn) -> Scan:
    """Draw a scan, from smaller than a window to several strides, with up to three boxes."""
    width, height = draw(st.integers(4, 90)), draw(st.integers(4, 90))
    boxes = []
    for _ in range(draw(st.integers(0, 3))):
        xmin, ymin = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        xmax, ymax = draw(st.integers(xmin + 1, width)), draw(st.integers(ymin + 1, height))
        boxes.append(Box(draw(st.sampled_from(CLASSES)), xmin, ymin, xmax, ymax))
    return Scan("a.png", width, height, tuple(boxes))


recipes = st.builds(
    Recipe,
    window=st.just(WINDOW),
    stride=st.integers(3, 20),
    iou=st.sampled_from((0.1, 0.3, 0.5)),
    partial=st.sampled_from(("left_out", "normal")),
    crops=st.booleans(),
    blank=st.sampled_from((0.5, 1.0)),
    normal_from=st.sampled_from(("all", "benign")),
    per_scan=st.sampled_from((0, 1, 5)),
)


def places_of(scan: Scan) -> npt.NDArray[np.uint8]:
    """Return an image whose pixels are their own coordinates; no pixel is air."""
    y, x = np.mgrid[: scan.height, : scan.width]
    return np.stack([x, y, np.zeros_like(x)]).astype(np.uint8)


def cut(scan: Scan, recipe: Recipe, seed: bytes = b"") -> list[Patch]:
    return list(patches.cut(places_of(scan), scan.boxes, CLASSES, recipe, ONE, seed))


def exact_iou(x: int, y: int, box: Box) -> Fraction:
    """Compute the IoU of a window and a box exactly, with integers."""
    xmin, ymin, xmax, ymax = (int(corner) for corner in box[1:])
    shared = max(0, min(x + WINDOW, xmax) - max(x, xmin)) * max(0, min(y + WINDOW, ymax) - max(y, ymin))
    return Fraction(shared, WINDOW**2 + (xmax - xmin) * (ymax - ymin) - shared)


@quick
@given(scans(), recipes)
def test_every_windows_label_follows_from_its_overlap(scan: Scan, recipe: Recipe) -> None:
    limit = Fraction(str(recipe.iou))
    for patch in cut(scan, recipe):
        if patch.place.startswith("box-"):
            assert recipe.crops
            assert CLASSES[patch.label - 1] == scan.boxes[int(patch.place.removeprefix("box-"))].title
            continue
        x, y = map(int, patch.place.split(","))
        overlaps = [exact_iou(x, y, box) for box in scan.boxes]
        most = max(overlaps, default=Fraction(0))
        if patch.label:
            assert most > limit
            assert CLASSES[patch.label - 1] in {
                box.title for box, overlap in zip(scan.boxes, overlaps, strict=True) if overlap == most
            }
        else:
            assert most <= (limit if recipe.partial == "normal" else 0)
            assert recipe.normal_from == "all" or not scan.boxes


@quick
@given(scans(), recipes)
def test_every_window_is_a_part_of_its_scan(scan: Scan, recipe: Recipe) -> None:
    image = places_of(scan)
    for patch in cut(scan, recipe):
        assert patch.image.shape == (3, WINDOW, WINDOW)
        assert patch.image.dtype == np.uint8
        if not patch.place.startswith("box-"):
            x, y = map(int, patch.place.split(","))
            assert 0 <= x <= scan.width - WINDOW
            assert 0 <= y <= scan.height - WINDOW
            assert np.array_equal(patch.image, image[:, y : y + WINDOW, x : x + WINDOW])


@quick
@given(scans(), recipes)
def test_no_window_is_lost_but_by_a_rule(scan: Scan, recipe: Recipe) -> None:
    """The grid covers every pixel of a scan with room for a window, if no rule leaves windows out."""
    every = Recipe(window=WINDOW, stride=recipe.stride, partial="normal", crops=False, blank=1, per_scan=0)
    covered = np.zeros((scan.height, scan.width), bool)
    for patch in cut(scan, every):
        x, y = map(int, patch.place.split(","))
        covered[y : y + WINDOW, x : x + WINDOW] = True
    roomy = min(scan.width, scan.height) >= WINDOW
    assert covered.all() == (roomy and recipe.stride <= WINDOW) or recipe.stride > WINDOW


@quick
@given(scans(), recipes, st.binary(max_size=4))
def test_a_class_gives_as_many_patches_as_allowed_and_the_same_again(scan: Scan, recipe: Recipe, seed: bytes) -> None:
    first, again = (cut(scan, recipe, seed) for _ in range(2))
    assert [patch[1:] for patch in first] == [patch[1:] for patch in again]
    assert all(np.array_equal(one.image, other.image) for one, other in zip(first, again, strict=True))
    unlimited = Counter(patch.label for patch in cut(scan, Recipe(**{**vars(recipe), "per_scan": 0}), seed))
    counted = Counter(patch.label for patch in first)
    assert counted == {label: min(number, recipe.per_scan or number) for label, number in unlimited.items()}


def test_the_draw_depends_on_the_content_alone() -> None:
    scan = Scan("a.png", 90, 90, ())
    recipe = Recipe(window=WINDOW, stride=4, blank=1, per_scan=20)
    one, same, other = (
        [patch.place for patch in cut(scan._replace(image=name), recipe, seed)]
        for name, seed in (("a.png", b"1"), ("b.png", b"1"), ("a.png", b"2"))
    )
    np.random.seed(0)
    assert one == same == [patch.place for patch in cut(scan, recipe, b"1")]
    assert one != other


@pytest.mark.parametrize("air", [255, 195])
def test_blank_windows_are_left_out_whatever_grey_air_has(air: int) -> None:
    image = np.full((3, 64, 64), air, np.uint8)
    image[:, :16, :16] = 90  # fills one window
    image[:, 48:, 48:56] = 90  # fills half of another window
    image[:, 20, 40] = air - patches.AIR_TOLERANCE  # noise
    recipe = Recipe(window=16, stride=16, blank=0.6)
    assert [patch.place for patch in patches.cut(image, (), CLASSES, recipe, ONE, b"")] == ["0,0", "48,48"]


def test_a_threat_is_never_blank() -> None:
    image = np.full((3, 64, 64), 255, np.uint8)
    box = Box("gun", 0, 0, 16, 16)
    found = list(patches.cut(image, (box,), CLASSES, Recipe(window=16, stride=16), ONE, b""))
    assert [(patch.label, patch.place) for patch in found] == [(2, "box-0"), (2, "0,0")]


@pytest.mark.parametrize(
    ("box", "region"),
    [
        ((10, 20, 30, 24), (10, 12, 30, 32)),  # the square around it
        ((0, 0, 30, 4), (0, 0, 30, 30)),  # moved inside
        ((90, 90.5, 100, 99.2), (90, 90, 100, 100)),  # whole pixels
        ((0, 10, 100, 14), (0, 0, 100, 50)),  # larger than the height of the scan
    ],
)
def test_a_crop_is_the_square_around_its_box(
    box: tuple[float, float, float, float], region: tuple[int, int, int, int]
) -> None:
    height = 50 if region[3] == 50 else 100
    assert patches.surroundings(Box("gun", *box), 100, height) == region


@quick
@given(scans())
def test_a_crop_stays_in_its_scan(scan: Scan) -> None:
    for box in scan.boxes:
        left, top, right, bottom = patches.surroundings(box, scan.width, scan.height)
        assert 0 <= left <= box.xmin < box.xmax <= right <= scan.width
        assert 0 <= top <= box.ymin < box.ymax <= bottom <= scan.height


def test_boxes_are_scaled_with_their_scan() -> None:
    image = np.full((3, 128, 128), 90, np.uint8)
    image[:, 32:64, 64:96] = 10
    box = Box("knife", 64, 32, 96, 64)
    recipe = Recipe(window=16, stride=16, crops=False)
    found = list(patches.cut(image, (box,), CLASSES, recipe, Fraction(1, 2), b""))
    (threat,) = [patch for patch in found if patch.label]
    assert threat.place == "32,16"
    assert threat.image.mean() < 20


@pytest.mark.parametrize(
    ("sides", "scale"),
    [
        ([64, 64, 64], "1"),
        ([150, 150, 60], "0.7"),  # 64^2 / (0.7 * 150)^2 = 0.37; at 0.8 it is 0.28
        ([600], "0.15"),
        ([33, 33], "1.25"),
        ([], "1"),
    ],
)
def test_the_scale_is_the_nearest_to_one_at_which_half_of_the_boxes_are_reached(sides: list[int], scale: str) -> None:
    boxes = tuple(Box("gun", 0, 0, side, side) for side in sides)
    several = [Scan(f"{number}.png", 640, 640, (box,)) for number, box in enumerate(boxes)]
    recipe = Recipe(stride=32)
    chosen = patches.choose_scale(several, recipe)
    shares = patches.reach(several, recipe, chosen)
    assert all(share >= 0.5 for share in shares.values())
    nearer = patches.SCALES[: patches.SCALES.index(chosen)]
    assert all(min(patches.reach(several, recipe, other).values()) < 0.5 for other in nearer)
    assert chosen == Fraction(scale)


def test_scales_are_tried_from_one_outwards() -> None:
    distances = [max(scale, 1 / scale) for scale in patches.SCALES]
    assert distances == sorted(distances)


def test_every_class_has_the_same_weight_in_the_choice_of_the_scale() -> None:
    """Two knives that windows do not reach at scale 1 change the scale, despite twenty guns that windows reach."""
    guns = [Scan(f"{number}.png", 400, 400, (Box("gun", 0, 0, 64, 64),)) for number in range(20)]
    knives = [Scan(f"k{number}.png", 400, 400, (Box("knife", 0, 0, 130, 130),)) for number in range(2)]
    assert patches.choose_scale(guns, Recipe()) == 1
    assert patches.choose_scale(guns + knives, Recipe()) < 1


def test_where_no_scale_serves_all_the_worst_served_class_is_served_best() -> None:
    thin = [Scan("a.png", 400, 400, (Box("knife", 0, 0, 100, 2),))]
    guns = [Scan("b.png", 400, 400, (Box("gun", 0, 0, 64, 64),))]
    assert patches.choose_scale(thin + guns, Recipe()) == 1
