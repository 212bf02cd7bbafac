"""Equal images of a user's own dataset are on one side of every split; built-in datasets keep theirs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.catalog import own, revised_protocols
from data.protocols import count_trained_on, split
from data.sources.image_folders import contents
from data.sources.layouts import Classes, Layout, Mvtec, Scans
from data.storage import shards
from data.storage.loader import Dataset, load
from data.storage.prepare import first_equal, row_fingerprints
from sweep.store import open_store
from sweep.store.base import Store
from tests.data.test_groups import PROTOCOLS, make_dataset
from tests.support.image_folders import write_images

SHARES = (0.34, 0.34)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@st.composite
def copied(draw: st.DrawFn) -> Dataset:
    """Draw a dataset in which a third of the images are copies of others; some samples belong to scans."""
    random = np.random.RandomState(draw(st.integers(0, 1000)))
    count = 160
    labels, groups = random.randint(0, 4, count), np.full(count, "", "U8")
    for sample in np.flatnonzero(random.rand(count) < draw(st.sampled_from([0.0, 0.3]))):
        groups[sample] = f"{random.randint(30)}"
    groups[random.permutation(count)[:40]] = ""
    equal = np.arange(count)
    for copy in random.permutation(count)[: count // 3]:
        equal[copy] = equal[random.randint(count)]
    split_of = np.where(random.rand(count) < 0.6, "train", "test")
    for name in set(groups.tolist()) - {""}:
        split_of[groups == name] = split_of[groups == name][0]
    return make_dataset(labels, groups, split_of, first_equal=first_of(equal))


def first_of(values: Any) -> Any:
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse]


@settings(max_examples=100)
@given(copied(), st.sampled_from(PROTOCOLS), seeds, st.booleans())
def test_no_image_is_on_two_sides(dataset: Dataset, protocol: str, seed: int, validated: bool) -> None:
    abnormal = "gun"
    found = split(dataset, protocol + "v" * validated, abnormal, seed, SHARES if validated else None)
    assert dataset.first_equal is not None
    images = [set(dataset.first_equal[side].tolist()) for side in (found.train, found.validation, found.test)]
    assert all(not one & other for one, other in zip(images, [*images[1:], images[0]], strict=True))
    assert count_trained_on(dataset, found.train, found.test) == 0


@settings(max_examples=50)
@given(copied(), st.sampled_from(PROTOCOLS), seeds, st.booleans())
def test_a_sample_is_left_out_only_for_an_equal_one_or_its_group(
    dataset: Dataset, protocol: str, seed: int, validated: bool
) -> None:
    found = split(dataset, protocol + "v" * validated, "gun", seed, SHARES if validated else None)
    taking_part = np.flatnonzero(np.isin(dataset.labels, [0, 1]) if protocol in ("F0", "P1") else dataset.labels >= 0)
    everyone = np.concatenate([found.train, found.validation, found.test])
    left_out = np.setdiff1d(taking_part, everyone)
    assert dataset.first_equal is not None
    elsewhere = np.concatenate([split(dataset, protocol, "gun", seed, None).train, found.validation])
    equal = np.isin(dataset.first_equal[left_out], dataset.first_equal[elsewhere])
    grouped = np.isin(dataset.groups[left_out], dataset.groups[elsewhere]) & (dataset.groups[left_out] != "")
    assert (equal | grouped).all()


@given(st.integers(0, 1000), seeds, st.sampled_from(PROTOCOLS), st.booleans())
def test_a_dataset_without_equal_images_is_split_as_ever(seed: int, drawn: int, protocol: str, validated: bool) -> None:
    random = np.random.RandomState(seed)
    groups = np.where(random.rand(120) < 0.5, "", "scan") if protocol in ("P1", "C1") else np.full(120, "")
    groups = np.array([name and f"{name} {at // 6}" for at, name in enumerate(groups.tolist())])
    before = make_dataset(random.randint(0, 3, 120), groups, np.repeat(["train", "test"], 60))
    after = replace(before, first_equal=np.arange(120))
    arguments = (protocol + "v" * validated, "gun", drawn, SHARES if validated else None)
    assert split(before, *arguments).hash == split(after, *arguments).hash


def test_blank_patches_in_every_scan_do_not_join_the_scans() -> None:
    """Each of 20 scans has a blank patch: scans are drawn as before, and the blank ones are tested nowhere."""
    labels = np.tile([0, 0, 0, 1], 20)
    blank = np.tile([True, False, False, False], 20)
    groups = [f"{scan}" for scan in range(20) for _ in range(4)]
    equal = first_of(np.where(blank, -1, np.arange(80)))
    found = split(make_dataset(labels, groups, first_equal=equal), "P1", "gun", 0, None)
    plain = split(make_dataset(labels, groups), "P1", "gun", 0, None)
    assert found.train.tolist() == plain.train.tolist()
    assert set(plain.test.tolist()) - set(found.test.tolist()) == set(plain.test[blank[plain.test]].tolist()) != set()


def test_a_class_whose_images_are_all_trained_on_is_refused() -> None:
    copies = make_dataset([0] * 10 + [1] * 10, [""] * 20, first_equal=np.tile(np.zeros(10, np.int64), 2))
    with pytest.raises(ValueError, match=r"mine has no (training normals|test normals|samples of the abnormal class)"):
        split(copies, "P1", "gun", 0, None)


def test_built_in_datasets_keep_the_published_split_and_equal_images_are_counted() -> None:
    labels = np.repeat(np.arange(10), 20)
    classes = tuple("0123456789")
    plain = replace(make_dataset(labels, [""] * 200), name="digits", classes=classes)
    twins = replace(plain, first_equal=np.arange(200) // 2 * 2)
    found = split(twins, "D1", "3", 0, None)
    assert found.hash == split(plain, "D1", "3", 0, None).hash
    trained = set((found.train // 2).tolist())
    expected = sum(sample // 2 in trained for sample in found.test.tolist())
    assert count_trained_on(twins, found.train, found.test) == expected > 0
    assert count_trained_on(plain, found.train, found.test) == 0


def test_equality_is_that_of_prepared_pixels() -> None:
    images = np.array([[1, 2], [3, 4], [1, 2], [2, 1], [3, 4], [1, 2]], np.uint8).reshape(6, 1, 1, 2)
    assert first_equal(row_fingerprints(images)).tolist() == [0, 1, 0, 3, 1, 0]


def test_copies_in_a_folder_of_classes_are_never_trained_and_tested_on(tmp_path: Path, store: Store) -> None:
    """Every image is there four times; of 16 normal test images, 12 were trained on before 2026-12."""
    root = write_images(tmp_path / "animals", {"cat": 10, "dog": 10})
    for image in sorted(root.rglob("*.png")):
        for copy in "abc":
            shutil.copy(image, image.with_name(f"{image.stem}-{copy}.png"))
    layout = Classes(root=str(root), size=16)
    manifest = shards.put(store, own("mine", layout, contents(layout)), size=16, root=None)
    assert (manifest.rows, manifest.duplicates, manifest.repeats) == (80, 60, 60)
    opened = load(store, "mine", manifest.preparation, tmp_path / "cache")
    for abnormal in ("cat", "dog"):
        for seed in range(5):
            found = split(opened, "C1", abnormal, seed, None)
            assert (len(found.train), int((found.test_labels == 0).sum()), len(found.test)) == (32, 8, 48)
            pixels = [{opened.images[place].tobytes() for place in side} for side in (found.train, found.test)]
            assert not pixels[0] & pixels[1]


@pytest.mark.parametrize(
    ("layout", "protocols", "manifest", "revised"),
    [
        (Classes(root="x"), ("C1",), None, ("C1", "C1v")),
        (Classes(root="x"), ("C1",), {"duplicates": 0, "repeats": 0}, ("C1", "C1v")),
        (Classes(root="x"), ("C1",), {"duplicates": 0}, ()),
        (Classes(root="x"), ("C1",), {"duplicates": 3}, ("C1", "C1v")),
        (Classes(root="x"), ("C1",), {}, ("C1", "C1v")),
        (Classes(root="x"), ("C0", "C1"), {"duplicates": 0}, ("C0", "C0v", "C1", "C1v")),
        (Mvtec(root="x"), ("F0", "P1"), {"duplicates": 0}, ("F0v", "P1", "P1v")),
        (Mvtec(root="x"), ("F0", "P1"), {"duplicates": 1}, ("F0", "F0v", "P1", "P1v")),
        (Scans(root="x"), ("P1",), {"duplicates": 0}, ()),
    ],
)
def test_a_stored_dataset_keeps_its_keys_where_no_split_can_have_changed(
    layout: Layout, protocols: tuple[str, ...], manifest: dict[str, int] | None, revised: tuple[str, ...]
) -> None:
    assert revised_protocols(layout, protocols, manifest) == revised
