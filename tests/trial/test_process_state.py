"""A trial leaves its process as it was, whatever a detector does to it; the next trial computes the same numbers."""

from __future__ import annotations

import gc
import locale
import os
import random
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from sweep.trial.process_state import (
    python_random_states,
    read_state,
    restore,
    set_python_random_states,
    unchanged_process,
)

SPOILERS: dict[str, Callable[[], object]] = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "grad mode": lambda: torch.set_grad_enabled(False),
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "autocast dtype": lambda: torch.set_autocast_dtype("cpu", torch.float16),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "denormals": lambda: torch.set_flush_denormal(True),
    "matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "mkldnn": lambda: torch._C._set_mkldnn_enabled(False),
    "cudnn": lambda: torch._C._set_cudnn_deterministic(True),
    "numpy errors": lambda: np.seterr(all="raise"),
    "umask": lambda: os.umask(0o777),
    "working folder": lambda: os.chdir("/"),
    "new variable": lambda: os.environ.update(SPOILED="1"),
    "changed variable": lambda: os.environ.update(PATH="/nowhere"),
    "deleted variable": lambda: os.environ.pop("PATH"),
    "sys.path": lambda: sys.path.insert(0, "/nowhere"),
    "recursion limit": lambda: sys.setrecursionlimit(5000),
    "warnings": lambda: warnings.simplefilter("ignore"),
    "garbage collector": gc.disable,
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C"),
    "sockets": lambda: socket.setdefaulttimeout(0.001),
    "standard output": lambda: setattr(sys, "stdout", None),
}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Restore the state of the test process, should the code under test fail to."""
    state = read_state()
    yield
    restore(state)


@pytest.mark.parametrize("spoil", SPOILERS.values(), ids=SPOILERS)
def test_what_a_trial_changes_is_restored(spoil: Callable[[], object]) -> None:
    before = read_state()
    with unchanged_process(seed=1):
        spoil()
        spoiled = read_state()
    assert spoiled != before, "the test spoils what is watched"
    assert read_state() == before


def test_it_is_restored_after_an_error_as_well() -> None:
    before = read_state()
    with pytest.raises(ValueError, match="of the detector"), unchanged_process(seed=1):
        for spoil in SPOILERS.values():
            spoil()
        raise ValueError("of the detector")
    assert read_state() == before


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_random_numbers_depend_on_the_seed_alone_and_those_of_others_go_on() -> None:
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    undisturbed = [draw(), draw()]
    torch.manual_seed(5), random.seed(5), np.random.seed(5)
    found = [draw()]
    with unchanged_process(seed=1):
        one = [draw(), draw()]
    found.append(draw())
    with unchanged_process(seed=1):
        again = [draw(), draw()]
    with unchanged_process(seed=2):
        other = [draw(), draw()]
    assert found == undisturbed
    assert one == again
    assert not set(one[0]) & set(other[0])


def test_random_states_survive_a_resume_state(tmp_path: Path) -> None:
    np.random.standard_normal()  # numpy keeps the second number of a pair
    torch.save(python_random_states(), tmp_path / "state.pt")
    expected = [random.random(), np.random.standard_normal(), np.random.random()]
    set_python_random_states(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [random.random(), np.random.standard_normal(), np.random.random()] == expected
