"""Splits of a dataset into train, validation and test: a pure function of content, abnormal class and split seed.

M0, M1, C0, C1 and D1 are the splits of the published code (samet-akcay/ganomaly, lib/data.py), which
tests on all abnormal samples, including those of the source's training split:

    M0, C0        train: normals of the train split.  Test: normals of the test split, all abnormals.
    M1, C1, D1    both splits merged; train: 80 % of the normals.  Test: the other normals, all abnormals.

In image folders and patches, the first class is the only normal one.  One other class is the abnormal class; `any`
stands for all of them together:

    F0    train: normals of the train split.  Test: normals of the test split, the abnormal class.
    P1    both splits merged; train: 80 % of the normals.  Test: the other normals, the abnormal class.

In the one-class protocol, one class is normal and all others together are the abnormal class.  If cat is the normal
class, it is called "not cat", so that `abnormal` always names what is abnormal:

    O1    train: the normal class in the train split.  Test: the whole test split.

O1 is what papers since Deep SVDD (Ruff et al. 2018) report on MNIST, Fashion-MNIST and CIFAR-10.  The published code's
`get_mnist2_anomaly_dataset` has the same training set, and tests on the normal class and a random half of the other
test images, which changes the base rate and not the expected AUROC.  Here all of them are tested.

Samples of one group, such as the patches of one scan, are never on two sides.  A protocol that draws by seed draws
whole groups.  It draws separately among groups that contain the same non-normal classes, so that training gets 80 % of
each kind of scan.  Abnormal samples of a group on the training side are left out of the test.

In a user's own dataset equal images are on one side, too; images are equal if their prepared pixels are.  Equal
samples without a group are one group.  A test sample that is equal to a training sample of another group, or of the
source's own train split, is left out, and so is a validation sample.  Built-in datasets keep the published splits, in
which equal images may be on two sides; `count_trained_on` counts them.

With validation, a share of the training normals and of the abnormal test samples moves to the validation side, and
the protocol's id gains a "v".  Normal test samples that share a group with a moved abnormal sample are left out.  All
other samples stay on their sides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data.catalog import DATASETS, FIRST_IS_NORMAL, ONE_IS_NORMAL, OTHERS
from data.sources.layouts import ANY
from data.storage.loader import Dataset

TRAIN_SHARE = 0.8
VALIDATION_STREAM = 1  # second word of the seed that draws the validation side, so that it differs from the split's own
SEEDS = 2**32

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Sides = tuple[Indices, Indices]


@dataclass(frozen=True, eq=False)
class Split:
    """Sides of a split, as positions in the dataset's arrays; a sample is on at most one side.

    Attributes:
        train: int64 [n], positions of the training samples; normals only.
        test: int64 [m], positions of the test samples; normals first.
        test_labels: uint8 [m], 1 = abnormal.
        validation: int64 [k], positions of the validation samples; normals first; empty without validation.
        validation_labels: uint8 [k], 1 = abnormal.
        hash: 64 hexadecimal digits over content, protocol, class, seed, shares and sides.
    """

    train: Indices
    test: Indices
    test_labels: npt.NDArray[np.uint8]
    validation: Indices
    validation_labels: npt.NDArray[np.uint8]
    hash: str


def split(
    dataset: Dataset,
    protocol: str,
    abnormal: str,
    split_seed: int,
    validation: tuple[float, float] | None,
) -> Split:
    """Split a dataset into train, validation and test, with one abnormal class.

    Args:
        dataset: an open dataset.
        protocol: one of its protocols, plus a "v" if and only if `validation` is given.
        abnormal: name of the class that is held out of training.  If the first class is the only normal
            one, "any" stands for all other classes together.  In the one-class protocol, "not cat" stands for
            all classes but cat.
        split_seed: from 0 to 2^32 - 1.
        validation: share of the training normals, and share of the abnormal test samples, that move to the
            validation side; both in (0, 1).  They are shares of groups if the samples have groups.

    Raises:
        ValueError: if an argument is not legal, a side would be empty, or a group is on both sides of the
            source's own split; the message lists the legal values.
    """
    rule = _rule(dataset, protocol, validation)
    if not 0 <= split_seed < SEEDS:
        raise ValueError(f"split_seed {split_seed} is not legal: use 0 to {SEEDS - 1}")
    plain = protocol.removesuffix("v")
    is_abnormal = _abnormal(dataset, abnormal, plain)
    is_normal = dataset.labels == 0 if plain in FIRST_IS_NORMAL else ~is_abnormal
    equal = _equal_numbers(dataset)
    groups = _group_numbers(dataset, equal)
    train, test_normal = rule(dataset, is_normal, split_seed, groups)
    test_normal = test_normal[~_shares_group(test_normal, train, equal)]
    tested = dataset.source_split == "test" if plain in ONE_IS_NORMAL else np.ones(len(is_abnormal), np.bool_)
    test_abnormal = _positions(dataset, is_abnormal & tested)
    test_abnormal = test_abnormal[~_shares_group(test_abnormal, train, groups)]
    test_abnormal = test_abnormal[~_shares_group(test_abnormal, train, equal)]
    validation_normal = validation_abnormal = np.empty(0, np.int64)
    _refuse_empty(dataset, protocol, abnormal, train, test_normal, test_abnormal)
    if validation is not None:
        random = np.random.RandomState([split_seed, VALIDATION_STREAM])
        train, validation_normal = _carve(train, validation[0], random, "training normals", groups)
        test_abnormal, validation_abnormal = _carve(test_abnormal, validation[1], random, "test abnormals", groups)
        test_normal = test_normal[~_shares_group(test_normal, validation_abnormal, groups)]
        validation_normal = validation_normal[~_shares_group(validation_normal, train, equal)]
        held_out = np.concatenate([validation_normal, validation_abnormal])
        test_normal = test_normal[~_shares_group(test_normal, held_out, equal)]
        test_abnormal = test_abnormal[~_shares_group(test_abnormal, held_out, equal)]
        _refuse_empty(dataset, protocol, abnormal, train, test_normal, test_abnormal)
        if not len(validation_normal):
            raise ValueError(
                f"{dataset.name} has no validation normals under {protocol}: all of them are equal to training images; "
                "remove copies from its folder, or hold out a larger share"
            )
    test = np.concatenate([test_normal, test_abnormal])
    validated = np.concatenate([validation_normal, validation_abnormal])
    inputs = [dataset.fingerprint, protocol, abnormal, int(split_seed), validation]
    return Split(
        train=train,
        test=test,
        test_labels=is_abnormal[test].astype(np.uint8),
        validation=validated,
        validation_labels=is_abnormal[validated].astype(np.uint8),
        hash=_hash(inputs, train, test, validated),
    )


def _split_by_source(dataset: Dataset, normal: Mask, split_seed: int, groups: Indices) -> Sides:  # noqa: ARG001
    """Split the normals as the source does; the split seed is not needed here."""
    train, test = (np.flatnonzero(normal & (dataset.source_split == part)) for part in ("train", "test"))
    named = test[dataset.groups[test] != ""]
    shared = named[_shares_group(named, train, groups)]
    if len(shared):
        names = sorted(set(dataset.groups[shared].tolist()))
        raise ValueError(
            f"{dataset.name} has {len(names)} groups on both sides of its own split, such as {names[0]!r}: "
            "use a protocol that draws the sides by seed"
        )
    return train, test


def _split_by_seed(dataset: Dataset, normal: Mask, split_seed: int, groups: Indices) -> Sides:
    """Draw 80 % of all normals for training, or 80 % of their groups.

    Without groups the draw is that of the published code, which has none.
    """
    merged = _positions(dataset, normal)
    random = np.random.RandomState(split_seed)
    if not (dataset.groups[merged] != "").any() and len(np.unique(groups[merged])) == len(merged):
        return _draw_sides(merged, random)
    units, unit_of = _units(groups[merged])
    sides = zip(*(_draw_sides(kind, random) for kind in _kinds(dataset, normal, groups, units)), strict=True)
    rank = np.empty(len(units), np.int64)  # rank of each unit in the order of the draw
    train, test = (np.concatenate([np.empty(0, np.int64), *drawn]) for drawn in sides)
    rank[np.concatenate([train, test])] = np.arange(len(units))
    ordered = np.argsort(rank[unit_of], kind="stable")
    count = np.count_nonzero(rank[unit_of] < len(train))
    return merged[ordered[:count]], merged[ordered[count:]]


def _draw_sides(candidates: Indices, random: np.random.RandomState) -> Sides:
    drawn = np.arange(len(candidates))
    random.shuffle(drawn)
    count = int(TRAIN_SHARE * len(candidates))
    return candidates[drawn[:count]], candidates[drawn[count:]]


def _kinds(dataset: Dataset, normal: Mask, groups: Indices, units: Indices) -> list[Indices]:
    """Return the positions of the units by kind; units of one kind contain the same non-normal classes."""
    others: dict[int, set[int]] = {}
    rest = np.flatnonzero(~normal)
    mixed = rest[_shares_group(rest, units, groups)]
    for group, label in zip(groups[mixed].tolist(), dataset.labels[mixed].tolist(), strict=True):
        others.setdefault(group, set()).add(label)
    kinds: dict[frozenset[int], list[int]] = {}
    for position, unit in enumerate(units.tolist()):
        kinds.setdefault(frozenset(others.get(unit, ())), []).append(position)
    return [np.array(kinds[kind], np.int64) for kind in sorted(kinds, key=sorted)]


Rule = Callable[[Dataset, Mask, int, Indices], Sides]
RULES: dict[str, Rule] = {
    "D1": _split_by_seed, "M0": _split_by_source, "M1": _split_by_seed, "C0": _split_by_source, "C1": _split_by_seed,
    "F0": _split_by_source, "P1": _split_by_seed, "O1": _split_by_source,
}  # fmt: skip


def legal_protocols(dataset: Dataset) -> tuple[str, ...]:
    """Return the legal protocols of a dataset: from the catalog, or from the manifest of a user's own dataset."""
    return DATASETS[dataset.name].protocols if dataset.name in DATASETS else dataset.protocols


def _rule(dataset: Dataset, protocol: str, validation: tuple[float, float] | None) -> Rule:
    suffix = "" if validation is None else "v"
    legal = [known + suffix for known in legal_protocols(dataset)]
    if protocol not in legal:
        raise ValueError(
            f"protocol {protocol!r} is not legal for {dataset.name} with validation {validation}: "
            f"use one of {', '.join(legal)}"
        )
    return RULES[protocol.removesuffix("v")]


def _abnormal(dataset: Dataset, abnormal: str, protocol: str) -> Mask:
    first_is_normal = protocol in FIRST_IS_NORMAL
    prefix = OTHERS if protocol in ONE_IS_NORMAL else ""
    legal = [prefix + name for name in dataset.classes[1 if first_is_normal else 0 :]]
    is_abnormal: Mask
    if first_is_normal and abnormal == ANY:
        is_abnormal = dataset.labels != 0
    elif abnormal in legal:
        is_abnormal = dataset.labels == dataset.classes.index(abnormal.removeprefix(prefix))
    else:
        names = ", ".join([*legal, ANY] if first_is_normal else legal)
        raise ValueError(f"{dataset.name} has no class {abnormal!r}: use one of {names}")
    return ~is_abnormal if prefix else is_abnormal


def count_trained_on(dataset: Dataset, train: Indices, test: Indices) -> int:
    """Return the number of test samples whose image is that of a training sample, pixel for pixel."""
    if dataset.first_equal is None:
        return 0
    return int(np.count_nonzero(_shares_group(test, train, dataset.first_equal)))


def _equal_numbers(dataset: Dataset) -> Indices:
    """Return for each sample the position of the first one that must be on the same side, as it is equal; int64 [N]."""
    if dataset.first_equal is None or dataset.name in DATASETS:
        return np.arange(len(dataset.labels))
    return dataset.first_equal


def _group_numbers(dataset: Dataset, equal: Indices) -> Indices:
    """Return a number for the group of each sample: the position of the group's first sample, int64 [N].

    A sample without a group belongs to the first one of its equals that has no group either.  Equal samples of
    different named groups do not join these: blank patches would join all scans.
    """
    numbers = np.arange(len(dataset.labels))
    loose = np.flatnonzero(dataset.groups == "")
    if len(loose):
        _, first, inverse = np.unique(equal[loose], return_index=True, return_inverse=True)
        numbers[loose] = loose[first[inverse]]
    grouped = np.flatnonzero(dataset.groups != "")
    if len(grouped):
        _, first, inverse = np.unique(dataset.groups[grouped], return_index=True, return_inverse=True)
        numbers[grouped] = grouped[first[inverse]]
    return numbers


def _units(groups: Indices) -> tuple[Indices, Indices]:
    """Return the distinct groups in order of their first samples, and for each sample the position of its group."""
    positions = np.arange(len(groups))
    first = np.zeros(groups.max(initial=0) + 1, np.int64)
    first[groups[::-1]] = positions[::-1]
    begins = first[groups] == positions
    return groups[begins], (np.cumsum(begins) - 1)[first[groups]]


def _shares_group(side: Indices, other: Indices, groups: Indices) -> Mask:
    """Return a mask over a side, bool [len(side)]: True if the sample shares a group with the other side."""
    taken = np.zeros(len(groups), np.bool_)
    taken[groups[other]] = True
    return taken[groups[side]]


def _refuse_empty(
    dataset: Dataset, protocol: str, abnormal: str, train: Indices, test_normal: Indices, test_abnormal: Indices
) -> None:
    for side, title in (
        (test_abnormal, f"samples of the abnormal class {abnormal!r}"),
        (train, "training normals"),
        (test_normal, "test normals"),
    ):
        if not len(side):
            raise ValueError(f"{dataset.name} has no {title} under {protocol}; samples: {_counts(dataset)}")


def _positions(dataset: Dataset, chosen: Mask) -> Indices:
    """Return the positions of the chosen samples; those of the source's train split come first."""
    parts = ("train", "test", "all")
    return np.concatenate([np.flatnonzero(chosen & (dataset.source_split == part)) for part in parts])


def _carve(side: Indices, share: float, random: np.random.RandomState, title: str, groups: Indices) -> Sides:
    """Draw whole groups for validation; return the samples that stay and those that move, both in their order."""
    units, unit_of = _units(groups[side])
    count = int(share * len(units))
    if not (0 < share < 1 and count):
        whole = title if len(units) == len(side) else f"groups of {title}"
        raise ValueError(
            f"validation share {share} of {len(units)} {whole} is not legal: "
            f"use at least 1/{len(units)} and less than 1"
        )
    drawn = np.zeros(len(units), np.bool_)
    drawn[random.permutation(len(units))[:count]] = True
    validates = drawn[unit_of]
    return side[~validates], side[validates]


def _counts(dataset: Dataset) -> str:
    counts = np.bincount(dataset.labels, minlength=len(dataset.classes))
    return ", ".join(f"{title}: {count}" for title, count in zip(dataset.classes, counts, strict=True))


def _hash(inputs: list[Any], *sides: Indices) -> str:
    content = hashlib.sha256(json.dumps(inputs).encode())
    for side in sides:
        content.update(len(side).to_bytes(8, "little"))
        content.update(side.astype("<i8").tobytes())
    return content.hexdigest()
