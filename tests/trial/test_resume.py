"""A resume state saves time and nothing else: whatever is wrong with it, the trial gives the numbers that it would."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sweep.spec.trial import TrialSpec
from sweep.store.base import Store, StoreError
from sweep.store.local import LocalStore
from sweep.trial.checkpoint import Checkpoints
from sweep.trial.options import Options
from sweep.trial.run import run_trial
from tests.trial.test_run import finish, interrupt, numbers


def test_only_what_a_state_lacks_is_trained_again(store: Store, cache: Path) -> None:
    """Without damage the state is used: the tests of damaged states below would pass without any resume."""
    spec = interrupt(store, cache)
    assert next(run_trial(spec, store, Options(cache=cache, lambda_default=0.0, slice_seconds=0.0))).epoch == 1


def relabel(store: Store, spec: TrialSpec, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the newest state, and give it a hash that fits."""
    folder = f"trials/{spec.key}/checkpoint"
    latest = json.loads(store.get(f"{folder}/latest.json"))
    state = torch.load(io.BytesIO(store.get(latest["path"])), weights_only=True)
    change(state)
    data = io.BytesIO()
    torch.save(state, data)
    store.put(latest["path"], data.getvalue())
    digest = hashlib.sha256(data.getvalue()).hexdigest()
    store.put(f"{folder}/latest.json", json.dumps({**latest, "sha256": digest}).encode())


def spoil_moments(state: dict[str, Any]) -> None:
    moments = next(iter(state["detector"]["optimisers"].values()))["moments"]
    count, first, second = moments[0]
    moments[0] = (count, first.flatten()[:1], second)


STATES: dict[str, Callable[[dict[str, Any]], object]] = {
    "empty": lambda state: state.clear(),
    "without detector": lambda state: state.pop("detector"),
    "without random": lambda state: state.pop("random"),
    "short random": lambda state: state.update(random=[torch.zeros(3, dtype=torch.uint8)]),
    "no weights": lambda state: state["detector"]["weights"].clear(),
    "other shape": lambda state: state["detector"]["weights"].update(
        {name: weight.flatten()[:1] for name, weight in state["detector"]["weights"].items() if weight.dim() > 1}
    ),
    "other moments": spoil_moments,
    "no optimisers": lambda state: state["detector"].update(optimisers={}),
    "later epoch": lambda state: state.update(epoch=1000),
    "negative epoch": lambda state: state.update(epoch=-1),
    "epoch as text": lambda state: state.update(epoch="1"),
    "sums of text": lambda state: state.update(sums={"loss": "1"}),
    "history of numbers": lambda state: state.update(history=[1]),
    "chosen of text": lambda state: state.update(chosen={"last": "x"}),
    "seconds of text": lambda state: state.update(seconds="x"),
}


@pytest.mark.parametrize("change", STATES.values(), ids=STATES.keys())
def test_a_state_that_does_not_fit_costs_time_and_no_truth(
    store: Store, cache: Path, change: Callable[[dict[str, Any]], object], capfd: pytest.CaptureFixture[str]
) -> None:
    spec = interrupt(store, cache)
    relabel(store, spec, change)
    assert_starts_again(store, cache, spec, capfd)


LATEST = [
    b"", b"{}", b"[]", b"null", b"text", b'{"path": "x", "number": 1}', b'{"path": 1, "number": 1, "sha256": "x"}',
    b'{"path": "../x", "number": 1, "sha256": "x"}', b'{"path": "a\\u0000b", "number": 1, "sha256": "x"}',
    b'{"path": "trials/x/result.json", "number": "one", "sha256": "x"}', b"[" * 5000, b"\xff\xfe",
    b'{"number": ' + b"9" * 5000 + b"}",
]  # fmt: skip


@pytest.mark.parametrize("data", LATEST, ids=range(len(LATEST)))
def test_a_damaged_pointer_to_the_state_costs_time_and_no_truth(
    store: Store, cache: Path, data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = interrupt(store, cache)
    store.put(f"trials/{spec.key}/checkpoint/latest.json", data)
    assert_starts_again(store, cache, spec, capfd)


@pytest.mark.parametrize("change", [lambda data: data[:-7], lambda data: b"", lambda data: b"x" * len(data), None])
def test_a_damaged_resume_state_costs_time_and_no_truth(
    store: Store, cache: Path, change: Callable[[bytes], bytes] | None, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = interrupt(store, cache)
    (path,) = [p for p in store.list(f"trials/{spec.key}/checkpoint") if p.endswith(".pt")]
    if change is None:
        store.delete(path)
    else:
        store.put(path, change(store.get(path)))
    assert_starts_again(store, cache, spec, capfd)


def assert_starts_again(store: Store, cache: Path, spec: TrialSpec, capfd: pytest.CaptureFixture[str]) -> None:
    """Assert that the trial starts again, says why, and ends as if it had never been interrupted."""
    capfd.readouterr()
    damaged = finish(spec, store, cache)
    assert f"{spec.key}/checkpoint: the resume state cannot be used (" in capfd.readouterr().err
    assert not [path for path in store.list(f"trials/{spec.key}") if "checkpoint" in path]
    files = {p: store.get(p) for p in store.list(f"trials/{spec.key}") if p.endswith((".parquet", ".safetensors"))}
    store.delete_tree(f"trials/{spec.key}")
    assert numbers(damaged) == numbers(finish(spec, store, cache))
    assert {p: store.get(p) for p in files} == files


def test_a_lease_that_cannot_be_released_does_not_fail_a_finished_trial(tmp_path: Path) -> None:
    """Its result is stored by then, and the lease expires by itself."""

    class Refusing(LocalStore):
        refuses = False

        def put_if(self, path: str, data: bytes, tag: str | None) -> str | None:
            if self.refuses:
                raise StoreError("no answer")
            return super().put_if(path, data, tag)

    store = Refusing(str(tmp_path))
    states = Checkpoints(store, "k", "a test", seconds=0.0)
    states.write({"epoch": 1})
    states.finish()
    store.refuses = True
    states.remove()
    assert not [*store.list("trials")]
