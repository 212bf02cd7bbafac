"""A trial's key is a pure function of its spec, the same on every machine and forever."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep.spec.trial import Numerics, Timing, TrialSpec, Validation

EXAMPLE = TrialSpec(
    detector="ganomaly",
    revision=1,
    variant="repo_head",
    hyperparameters={"epochs": 15, "lr": 2e-4, "nz": 100, "w_con": 50.0, "note": "ü", "flag": True},
    dataset="mnist",
    preparation="s32-bilinear-1",
    protocol="M0",
    protocol_revision=1,
    scoring_revision=1,
    abnormal="2",
)
PINNED = {  # users' stores hold results under these keys, so they must never change
    "d12d491953aecf7525fd": EXAMPLE,
    "3b2e70ebb2f13554b77b": dataclasses.replace(EXAMPLE, seed=1, split_seed=7, eval_every=0, evaluations=()),
    "739504ab0bff79687d09": dataclasses.replace(
        EXAMPLE,
        protocol="M0v",
        validation=Validation(normal=0.1, abnormal=0.25),
        numerics=Numerics(precision="float32", threads=4),
        device="NVIDIA H100",
    ),
}


@pytest.mark.parametrize(("key", "spec"), PINNED.items())
def test_pinned_keys_never_change(key: str, spec: TrialSpec) -> None:
    assert spec.key == key


def test_key_does_not_depend_on_the_order_of_hyperparameters() -> None:
    reordered = dict(reversed(list(EXAMPLE.hyperparameters.items())))
    assert dataclasses.replace(EXAMPLE, hyperparameters=reordered).key == EXAMPLE.key


def test_key_does_not_depend_on_the_process() -> None:
    code = "import json, sys, sweep.spec.trial as t; print(t.TrialSpec.from_dict(json.load(sys.stdin)).key)"
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(EXAMPLE.to_dict()),
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == EXAMPLE.key


CHANGES: dict[str, Any] = {
    "detector": "other", "revision": 2, "variant": "paper", "hyperparameters": {"nz": 1}, "dataset": "digits",
    "preparation": "s64-bilinear-1", "protocol": "M1", "protocol_revision": 2, "scoring_revision": 2,
    "abnormal": "3", "split_seed": 1, "seed": 1, "validation": Validation(), "evaluations": (),
    "eval_every": 2, "numerics": Numerics(threads=2), "device": "gpu", "timing": Timing(),
}  # fmt: skip


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrialSpec)])
def test_key_changes_with_every_field(name: str) -> None:
    assert dataclasses.replace(EXAMPLE, **{name: CHANGES[name]}).key != EXAMPLE.key


scalars = st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text())


timings = st.none() | st.builds(
    Timing, st.lists(st.integers(1, 64), min_size=1).map(tuple), st.integers(), st.integers()
)


@given(hyperparameters=st.dictionaries(st.text(), scalars, max_size=5), validated=st.booleans(), timing=timings)
def test_a_spec_survives_json(hyperparameters: dict[str, Any], validated: bool, timing: Timing | None) -> None:
    validation = Validation() if validated else None
    spec = dataclasses.replace(EXAMPLE, hyperparameters=hyperparameters, validation=validation, timing=timing)
    again = TrialSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.key == spec.key


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_hyperparameter_that_equals_nothing_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        _ = dataclasses.replace(EXAMPLE, hyperparameters={"lr": value}).key
