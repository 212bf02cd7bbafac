"""Splits of datasets with only one normal class, and of datasets whose samples have groups."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.catalog import dataset
from data.protocols import Split, split
from data.storage.loader import Dataset

CLASSES = ("good", "gun", "knife", "saw")
PROTOCOLS = ("F0", "P1", "C0", "C1")


def make_dataset(labels: Any, groups: Any, source_split: Any = "all", **fields: Any) -> Dataset:
    """Make a user's own dataset, in which only labels, groups and the source's split matter."""
    count = len(labels)
    return Dataset(
        name="mine",
        preparation="s8-bilinear-1",
        fingerprint="0" * 64,
        classes=CLASSES,
        images=np.zeros((count, 1, 1, 1), np.uint8),
        labels=np.array(labels, np.int64),
        sample_ids=np.arange(count).astype(np.str_),
        source_split=np.broadcast_to(np.array(source_split, np.str_), count),
        groups=np.array(groups, np.str_),
        protocols=PROTOCOLS,
        **fields,
    )


@st.composite
def scans(draw: st.DrawFn) -> Dataset:
    """Draw 15 or more scans of each kind, with a few patches each, and some patches without scan, in any order."""
    random = np.random.RandomState(draw(st.integers(0, 1000)))
    labels, groups = [], []
    for threat in range(4):
        for scan in range(random.randint(15, 19)):
            held = [0] * random.randint(0 if threat else 1, 4) + [threat] * random.randint(1, 3) * bool(threat)
            labels += held
            groups += [f"{threat}/{scan}"] * len(held)
    loose = draw(st.integers(0, 12))
    labels += random.randint(0, 4, loose).tolist()
    groups += [""] * loose
    order = random.permutation(len(labels))
    return make_dataset(np.array(labels)[order], np.array(groups)[order])


abnormal_classes = st.sampled_from([*CLASSES[1:], "any"])
seeds = st.integers(0, 2**32 - 1)
shares = st.tuples(st.floats(0.34, 0.5), st.floats(0.34, 0.5))


def group_names(dataset: Dataset, side: Any) -> set[str]:
    return set(dataset.groups[side]) - {""}


@settings(max_examples=60)
@given(scans(), abnormal_classes, seeds, st.none() | shares)
def test_no_group_is_on_two_sides_and_everyone_who_may_take_part_does(
    dataset: Dataset, abnormal: str, seed: int, validation: tuple[float, float] | None
) -> None:
    found = split(dataset, "P1v" if validation else "P1", abnormal, seed, validation)
    train, held_out, test = (group_names(dataset, side) for side in (found.train, found.validation, found.test))
    assert not train & test and not train & held_out and not held_out & test
    everyone = np.concatenate([found.train, found.validation, found.test])
    assert len(np.unique(everyone)) == len(everyone)
    is_abnormal = dataset.labels > 0 if abnormal == "any" else dataset.labels == CLASSES.index(abnormal)
    assert (dataset.labels[found.train] == 0).all()
    assert np.array_equal(found.test_labels, is_abnormal[found.test])
    assert np.array_equal(found.validation_labels, is_abnormal[found.validation])
    assert (is_abnormal | (dataset.labels == 0))[everyone].all()
    left_out = np.setdiff1d(np.flatnonzero(is_abnormal | (dataset.labels == 0)), everyone)
    # Samples are left out only if they share a scan with another side: threats of scans in training, and normals of
    # scans whose threats are in validation.
    assert set(dataset.groups[left_out]) <= train | held_out


@settings(max_examples=30)
@given(scans(), abnormal_classes, seeds)
def test_four_of_five_scans_of_each_kind_are_trained_on_whatever_is_hunted(
    dataset: Dataset, abnormal: str, seed: int
) -> None:
    found = split(dataset, "P1", abnormal, seed, None)
    trained = group_names(dataset, found.train)
    for kind in range(4):
        with_normals = set(dataset.groups[dataset.labels == 0])
        scans = {name for name in with_normals if name.startswith(f"{kind}/")}
        if kind:
            assert len(scans & trained) == int(0.8 * len(scans))
    other = split(dataset, "P1", "gun", seed, None)
    assert np.array_equal(found.train, other.train)
    assert np.array_equal(found.test[found.test_labels == 0], other.test[other.test_labels == 0])


@settings(max_examples=30)
@given(scans(), abnormal_classes, seeds)
def test_names_of_groups_do_not_matter_and_seeds_do(dataset: Dataset, abnormal: str, seed: int) -> None:
    found = split(dataset, "P1", abnormal, seed, None)
    renamed = replace(dataset, groups=np.array([name and f"{name[::-1]}!" for name in dataset.groups]))
    assert split(renamed, "P1", abnormal, seed, None).hash == found.hash
    assert split(dataset, "P1", abnormal, seed ^ 1, None).hash != found.hash


@settings(max_examples=30)
@given(scans(), st.sampled_from(CLASSES), seeds)
def test_groups_hold_together_where_one_class_is_left_out(dataset: Dataset, abnormal: str, seed: int) -> None:
    found = split(dataset, "C1v", abnormal, seed, (0.34, 0.34))
    sides = [group_names(dataset, side) for side in (found.train, found.validation, found.test)]
    assert all(not first & second for first, second in zip(sides, [*sides[1:], sides[0]], strict=True))
    assert (dataset.labels[found.train] != CLASSES.index(abnormal)).all()


@given(st.integers(0, 1000), seeds, st.none() | shares)
def test_a_group_of_one_is_no_group(layout: int, seed: int, validation: tuple[float, float] | None) -> None:
    labels = np.random.RandomState(layout).permutation(np.repeat(np.arange(4), 12))
    alone = make_dataset(labels, [""] * 48)
    protocol = "C1v" if validation else "C1"
    plain = split(alone, protocol, "gun", seed, validation)
    assert (
        split(replace(alone, groups=np.arange(48).astype(np.str_)), protocol, "gun", seed, validation).hash
        == plain.hash
    )


def test_the_draw_of_single_samples_is_the_published_codes() -> None:
    labels = [0] * 50 + [1] * 5
    drawn = np.arange(50)
    np.random.RandomState(3).shuffle(drawn)
    found = split(make_dataset(labels, [""] * 55), "P1", "gun", 3, None)
    assert found.train.tolist() == drawn[:40].tolist()
    assert found.test.tolist() == [*drawn[40:], 50, 51, 52, 53, 54]


def folder() -> Dataset:
    """Make a dataset with 24 train normals, and 6 normals, 4 guns and 5 knives in test."""
    return make_dataset([0] * 30 + [1] * 4 + [2] * 5, [""] * 39, ["train"] * 24 + ["test"] * 15)


@pytest.mark.parametrize(("abnormal", "count"), [("gun", 4), ("knife", 5), ("any", 9)])
def test_f0_keeps_the_folders_own_split_and_tests_the_hunted_class_alone(abnormal: str, count: int) -> None:
    found = split(folder(), "F0", abnormal, 0, None)
    assert found.train.tolist() == list(range(24))
    assert found.test_labels.tolist() == [0] * 6 + [1] * count
    assert split(folder(), "F0", abnormal, 9, None).test.tolist() == found.test.tolist()


def test_f0_refuses_a_group_on_both_sides_of_the_folders_own_split() -> None:
    torn = replace(folder(), groups=np.array([""] * 23 + ["scan 7"] * 2 + [""] * 14))
    with pytest.raises(ValueError, match="has 1 groups on both sides of its own split, such as 'scan 7'"):
        split(torn, "F0", "gun", 0, None)
    assert "scan 7" in group_names(torn, split(torn, "P1", "gun", 0, None).train) | group_names(
        torn, split(torn, "P1", "gun", 0, None).test
    )


@pytest.mark.parametrize(
    ("labels", "groups", "message"),
    [
        ([0] * 10, "0123456789", "no samples of the abnormal class 'gun'"),
        ([1] * 10, "0123456789", "no training normals"),
        ([0] * 5 + [1] * 5, "0000000000", "no samples of the abnormal class|no training normals"),
        ([0] * 10 + [1], "00000000001", "no training normals"),
    ],
)
def test_a_side_that_would_be_empty_is_refused(labels: list[int], groups: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"mine has ({message}).* under P1; samples: good: "):
        split(make_dataset(labels, list(groups)), "P1", "gun", 0, None)


def test_too_few_groups_to_validate_are_refused_as_groups() -> None:
    few = make_dataset([0] * 40 + [1] * 20, [f"{place // 10}" for place in range(60)])
    with pytest.raises(ValueError, match=r"validation share 0\.2 of 3 groups of training normals is not legal"):
        split(few, "P1v", "gun", 0, (0.2, 0.5))


def private_dataset(name: str) -> Dataset:
    """Make a private dataset with its published number of patches of each class, without scans."""
    info = dataset(name)
    labels = np.repeat(np.arange(len(info.counts)), info.counts)
    alone = make_dataset(labels, np.full(len(labels), ""))
    return replace(alone, name=name, classes=info.classes, protocols=())


def sides(found: Split) -> tuple[int, int, int]:
    counts = Counter(found.test_labels.tolist())
    return len(found.train), counts[0], counts[1]


@pytest.mark.parametrize(
    ("name", "abnormal", "expected"),
    [
        ("uba", "gun", (85_977, 21_495, 45_855)),
        ("uba", "gun-parts", (85_977, 21_495, 13_452)),
        ("uba", "knife", (85_977, 21_495, 63_496)),
        ("uba", "any", (85_977, 21_495, 122_803)),
        ("ffob", "full-weapon", (54_137, 13_535, 4_680)),
    ],
)
def test_private_sets_have_the_published_sides(name: str, abnormal: str, expected: tuple[int, int, int]) -> None:
    assert sides(split(private_dataset(name), "P1", abnormal, 0, None)) == expected


def test_split_hashes_never_change() -> None:
    grouped = make_dataset([place % 4 for place in range(200)], [f"{place // 5}" for place in range(200)])
    assert [
        split(folder(), "F0", "knife", 0, None).hash[:16],
        split(folder(), "F0v", "any", 1, (0.2, 0.4)).hash[:16],
        split(grouped, "P1", "saw", 0, None).hash[:16],
        split(grouped, "P1v", "saw", 1, (0.2, 0.4)).hash[:16],
        split(grouped, "C1", "good", 0, None).hash[:16],
    ] == ["f63d51ebbb1be963", "97686e2fc44f410e", "b35712b4fb72a0ca", "77510b2a0f835d98", "50472a4926127556"]
