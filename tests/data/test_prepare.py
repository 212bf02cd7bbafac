"""Samples to rows: resizing of images, and the fingerprint of a dataset's content."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from data.errors import DataError
from data.sources.base import Sample, Skipped
from data.storage.manifest import Fingerprint, Rows
from data.storage.prepare import RAW_BYTES, prepare, resize

BILINEAR = Image.Resampling.BILINEAR


def alone(plane: npt.NDArray[np.uint8], *sizes: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Resize one plane with Pillow to each (width, height) in turn."""
    image = Image.fromarray(plane)
    for size in sizes:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image)


sides = st.integers(1, 40)


@given(st.integers(1, 4), st.integers(1, 3), sides, sides, st.sampled_from([8, 16, 32]))
def test_many_images_are_resized_as_each_would_be_alone(
    count: int, channels: int, height: int, width: int, size: int
) -> None:
    random = np.random.RandomState(count + height)
    images = random.randint(0, 256, (count, channels, height, width)).astype(np.uint8)
    resized = resize(images, size, Image.Resampling.BILINEAR)
    assert resized.shape == (count, channels, size, size)
    for index in np.ndindex(count, channels):
        assert np.array_equal(resized[index], alone(images[index], (size, height), (size, size)))


@pytest.mark.parametrize("side", [8, 28, 32, 500])
def test_square_images_are_what_one_call_of_pillow_makes_of_them(side: int) -> None:
    images = np.random.RandomState(side).randint(0, 256, (3, 1, side, side)).astype(np.uint8)
    for size in (8, 32, 64):
        for image, resized in zip(images, resize(images, size, Image.Resampling.BILINEAR), strict=True):
            assert np.array_equal(resized[0], alone(image[0], (size, size)))


@given(st.lists(st.sampled_from(["", "a", "b", "1:a"]), min_size=1, max_size=6))
def test_only_a_set_with_groups_has_them_in_its_fingerprint(names: list[str]) -> None:
    count = len(names)

    def fingerprint(groups: list[str]) -> str:
        found = Fingerprint(("a",), (1, 8, 8))
        texts = np.full(count, "x")
        rows = Rows(np.zeros((count, 1, 8, 8), np.uint8), np.zeros(count, np.int64), texts, texts, np.array(groups))
        found.update(rows)
        return found.hexdigest()

    assert (fingerprint(names) == fingerprint([""] * count)) == (set(names) == {""})
    assert fingerprint([*names[:-1], "other"]) != fingerprint(names)


def sample(at: int, height: int, width: int, channels: int = 3) -> Sample:
    image = np.random.RandomState(at).randint(0, 256, (channels, height, width)).astype(np.uint8)
    return Sample(image, at % 2, f"{at}.png", "train", str(at), f"scan {at // 2}")


def test_mixed_sizes_stay_in_order_and_channels_apart() -> None:
    samples = [sample(at, *((5, 7) if at % 3 else (16, 16))) for at in range(9)]
    unreadable = Skipped("x.png", "truncated")
    prepared = prepare([*samples[:4], unreadable, *samples[4:]], 3, 16, BILINEAR)
    assert prepared.rows.images.shape == (9, 3, 16, 16)
    for found, original in zip(prepared.rows.images, samples, strict=True):
        for channel, plane in zip(found, original.image, strict=True):
            assert np.array_equal(channel, alone(plane, (16, plane.shape[0]), (16, 16)))
    assert prepared.rows.sample_ids.tolist() == [str(at) for at in range(9)]
    assert prepared.rows.groups.tolist() == [f"scan {at // 2}" for at in range(9)]
    assert prepared.rows.labels.tolist() == [at % 2 for at in range(9)]
    assert prepared.sources == [f"{at}.png" for at in range(9)]
    assert prepared.skipped == (unreadable,)


def test_large_images_are_resized_in_parts_that_make_no_difference() -> None:
    side = 1200
    samples = [sample(at, side, side, channels=1) for at in range(2 * RAW_BYTES // side**2)]
    prepared = prepare(samples, 1, 8, BILINEAR)
    for found, original in zip(prepared.rows.images, samples, strict=True):
        assert np.array_equal(found, resize(original.image[np.newaxis], 8, BILINEAR)[0])


def test_another_number_of_channels_is_refused_with_its_file() -> None:
    with pytest.raises(DataError, match=r"1\.png: expected 3 channels, found 1"):
        prepare([sample(0, 8, 8), sample(1, 8, 8, channels=1)], 3, 8, BILINEAR)
