"""The fast test of a record's shape and the slow one, which says what is wrong, agree on everything."""

from __future__ import annotations

import random

import pytest

from sweep.store.records import ASK, ATTEMPT, LAUNCH, PRUNE, RESULT, Shape, matcher, mismatch
from tests.support.inputs import ODD, places, replaced
from tests.support.records import result_record

METRICS = {
    "selection": "last", "evaluation": "clean", "epoch": 1, "auroc": 0.5, "ap": 0.5, "fpr95": 1, "base_rate": 0.1,
    "n_normal": 1, "n_abnormal": 1, "ties": 0.0, "auroc_se": None,
}  # fmt: skip
RECORDS = [
    (RESULT, result_record(metrics=[METRICS], validation={"lambda": [None], "auroc": [0.5]}, files={"a": "b"})),
    (ATTEMPT, {"status": "failed", "cause": "x", "launch": 1, "log": "", "time": 1.0}),
    (LAUNCH, {"versions": {"a": "b"}, "argv": ["a"], "time": 1, "dirty": None}),
    (ASK, {"params": {"nz": 1, "lr": 0.1, "name": "x", "flag": True}}),
    (PRUNE, {"step": 1}),
]


@pytest.mark.parametrize(("shape", "record"), RECORDS, ids=range(len(RECORDS)))
def test_both_tests_of_a_shape_agree(shape: Shape, record: object) -> None:
    fits, rng, refused = matcher(shape), random.Random(0), 0
    assert fits(record) and mismatch(record, shape) is None
    for path in places(record):
        for value in (*ODD, float("inf"), float("nan"), rng.random()):
            changed = replaced(record, path, value)
            assert fits(changed) == (mismatch(changed, shape) is None), (path, value)
            refused += not fits(changed)
    assert refused
