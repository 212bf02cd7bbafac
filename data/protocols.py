"""Who is trained, validated and tested on: a pure function of content, class and split seed.

M0, M1, C0, C1 and D1 are the splits of the published code (samet-akcay/ganomaly, lib/data.py), which
tests on all abnormal samples, those of the source's training split included:

    M0, C0        train: normals of the train split.  Test: normals of the test split, all abnormals.
    M1, C1, D1    both splits merged; train: 80 % of the normals.  Test: the others, all abnormals.

With validation a share of the training normals and of the test's abnormals moves there, the
protocol's id gains a "v", and nobody else changes sides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from data.catalog import dataset as dataset_info
from data.loader import Dataset

TRAIN_SHARE = 0.8
VALIDATION_STREAM = 1  # second word of the seed of the carving: draws apart from the split's own
SEEDS = 2**32

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Sides = tuple[Indices, Indices]


@dataclass(frozen=True, eq=False)
class Split:
    """Positions in the dataset's arrays of who is on which side; a sample is on at most one.

    Attributes:
        train: int64 [n], normals only.
        test: int64 [m], normals first.
        test_labels: uint8 [m], 1 = abnormal.
        validation: int64 [k], normals first; empty without validation.
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
    """Splits a dataset, one class being abnormal.

    Args:
        dataset: an open dataset.
        protocol: one of its protocols, with a "v" appended exactly if validation is asked for.
        abnormal: name of the class that is held out of training.
        split_seed: from 0 to 2^32 - 1.
        validation: share of the training normals, and of the test's abnormals, that validate;
            both inside (0, 1).

    Raises:
        ValueError: if an argument is not legal, or a side would be empty; lists what is legal.
    """
    rule = _rule(dataset, protocol, validation)
    if not 0 <= split_seed < SEEDS:
        raise ValueError(f"split_seed {split_seed} is not legal: use 0 to {SEEDS - 1}")
    is_abnormal = dataset.labels == _label(dataset, abnormal)
    test_abnormal = _merged(dataset, is_abnormal)
    train, test_normal = rule(dataset, ~is_abnormal, split_seed)
    for side, who in (
        (test_abnormal, f"samples of the abnormal class {abnormal!r}"),
        (train, "training normals"),
        (test_normal, "test normals"),
    ):
        if not len(side):
            raise ValueError(f"{dataset.name} has no {who} under {protocol}; samples: {_counts(dataset)}")
    validation_normal = validation_abnormal = np.empty(0, np.int64)
    if validation is not None:
        random = np.random.RandomState([split_seed, VALIDATION_STREAM])
        train, validation_normal = _carve(train, validation[0], random, "training normals")
        test_abnormal, validation_abnormal = _carve(test_abnormal, validation[1], random, "test's abnormals")
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


def _by_source(dataset: Dataset, normal: Mask, split_seed: int) -> Sides:  # noqa: ARG001 (a rule)
    """The source's own split; the seed draws nothing but the validation."""
    train, test = (np.flatnonzero(normal & (dataset.source_split == part)) for part in ("train", "test"))
    return train, test


def _by_seed(dataset: Dataset, normal: Mask, split_seed: int) -> Sides:
    """80 % of all normals, drawn as the published code draws them."""
    drawn = np.arange(np.count_nonzero(normal))
    np.random.RandomState(split_seed).shuffle(drawn)
    shuffled = _merged(dataset, normal)[drawn]
    count = int(TRAIN_SHARE * len(shuffled))
    return shuffled[:count], shuffled[count:]


RULES: dict[str, Callable[[Dataset, Mask, int], Sides]] = {
    "D1": _by_seed, "M0": _by_source, "M1": _by_seed, "C0": _by_source, "C1": _by_seed,
}  # fmt: skip


def _rule(
    dataset: Dataset, protocol: str, validation: tuple[float, float] | None
) -> Callable[[Dataset, Mask, int], Sides]:
    suffix = "" if validation is None else "v"
    legal = [known + suffix for known in dataset_info(dataset.name).protocols]
    if protocol not in legal:
        raise ValueError(
            f"protocol {protocol!r} is not legal for {dataset.name} with validation {validation}: "
            f"use one of {', '.join(legal)}"
        )
    return RULES[protocol.removesuffix("v")]


def _label(dataset: Dataset, abnormal: str) -> int:
    if abnormal not in dataset.classes:
        raise ValueError(f"{dataset.name} has no class {abnormal!r}: use one of {', '.join(dataset.classes)}")
    return dataset.classes.index(abnormal)


def _merged(dataset: Dataset, chosen: Mask) -> Indices:
    """Positions of the chosen, those of the source's train split first."""
    parts = ("train", "test", "all")
    return np.concatenate([np.flatnonzero(chosen & (dataset.source_split == part)) for part in parts])


def _carve(side: Indices, share: float, random: np.random.RandomState, who: str) -> Sides:
    """Who stays and who validates; both keep their order."""
    count = int(share * len(side))
    if not (0 < share < 1 and count):
        raise ValueError(
            f"validation share {share} of {len(side)} {who} is not legal: use at least 1/{len(side)} and less than 1"
        )
    validates = np.zeros(len(side), np.bool_)
    validates[random.permutation(len(side))[:count]] = True
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
