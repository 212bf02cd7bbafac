"""State of a process on which numbers may depend: each trial leaves it as it was.

A process runs one trial after another.  A detector may change what belongs to the whole process: torch's default type,
a kernel switch, the random states, the working folder.  Without this module the next trial would compute other numbers
under the same key.

Not everything can be restored: a detector may replace a function of torch, or close a file.  So a process that has run
a user's own detector runs no other trial (`sweep.engine.tuner.ray_patches.end_after_own_detectors`).
"""

from __future__ import annotations

import gc
import locale
import os
import random
import socket
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

State = Mapping[str, Any]
"""Values by the names of `_SETTINGS`."""


class _Setting(NamedTuple):
    """One part of the state: how to read it, and how to set it."""

    read: Callable[[], Any]
    set: Callable[[Any], object]


def _attribute(owner: Any, name: str) -> _Setting:
    return _Setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def umask() -> int:
    """Return the permissions that new files do not get."""
    value = os.umask(0o077)
    os.umask(value)
    return value


def _working_folder() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was deleted
        return None


def _set_working_folder(path: str | None) -> None:
    if path is not None:
        os.chdir(path)


def _set_environment(values: Mapping[str, str]) -> None:
    for name in os.environ.keys() - values.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in values.items() if os.environ.get(name) != value})


def _flushes_denormals() -> bool:
    """Return True if this thread counts numbers below 2 ** -1022 as zero; torch can set that, but not say it."""
    smallest = torch.tensor(2.0**-1022, dtype=torch.float64, device="cpu")
    return bool((smallest / 2).item() == 0.0)


def _autocast(device: str) -> _Setting:
    def set_both(value: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(device, value[0])
        torch.set_autocast_dtype(device, value[1])

    return _Setting(lambda: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)), set_both)


def _default_device() -> torch.device | None:
    """Return the device that was set as the default; None if none was: setting one slows every call of torch."""
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return None if context is None else context.device


_backends = torch.backends
# Order matters where one setter changes another setting: the more general one comes first.
_SETTINGS: dict[str, _Setting] = {
    "torch.default_dtype": _Setting(torch.get_default_dtype, torch.set_default_dtype),
    "torch.default_device": _Setting(_default_device, torch.set_default_device),
    "torch.grad_enabled": _Setting(torch.is_grad_enabled, torch._C._set_grad_enabled),
    "torch.anomaly_mode": _Setting(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "torch.autocast.cpu": _autocast("cpu"),
    "torch.autocast.cuda": _autocast("cuda"),
    "torch.deterministic": _Setting(
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    ),
    "torch.fill_uninitialized_memory": _attribute(torch.utils.deterministic, "fill_uninitialized_memory"),
    "torch.threads": _Setting(torch.get_num_threads, torch.set_num_threads),
    "torch.flush_denormal": _Setting(_flushes_denormals, torch.set_flush_denormal),
    "torch.matmul_precision": _Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "torch.mkldnn": _Setting(torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled),
    "torch.mkldnn.matmul": _attribute(_backends.mkldnn.matmul, "fp32_precision"),  # type: ignore[attr-defined]
    "torch.mkldnn.conv": _attribute(_backends.mkldnn.conv, "fp32_precision"),  # type: ignore[attr-defined]
    "torch.cudnn": _Setting(torch._C._get_cudnn_enabled, torch._C._set_cudnn_enabled),
    "torch.cudnn.benchmark": _Setting(torch._C._get_cudnn_benchmark, torch._C._set_cudnn_benchmark),
    "torch.cudnn.deterministic": _Setting(torch._C._get_cudnn_deterministic, torch._C._set_cudnn_deterministic),
    "torch.cudnn.conv": _attribute(_backends.cudnn.conv, "fp32_precision"),  # type: ignore[attr-defined]
    "torch.cuda.matmul": _attribute(_backends.cuda.matmul, "fp32_precision"),
    "numpy.errors": _Setting(np.geterr, lambda value: np.seterr(**value)),
    "umask": _Setting(umask, os.umask),
    "working folder": _Setting(_working_folder, _set_working_folder),
    "environment": _Setting(lambda: dict(os.environ), _set_environment),
    "sys.path": _Setting(lambda: list(sys.path), lambda value: sys.path.__setitem__(slice(None), value)),
    "recursion limit": _Setting(sys.getrecursionlimit, sys.setrecursionlimit),
    "warning filters": _Setting(lambda: list(warnings.filters), lambda value: setattr(warnings, "filters", value)),
    "garbage collector": _Setting(gc.isenabled, lambda value: gc.enable() if value else gc.disable()),
    "locale": _Setting(lambda: locale.setlocale(locale.LC_ALL), lambda value: locale.setlocale(locale.LC_ALL, value)),
    "socket time-out": _Setting(socket.getdefaulttimeout, socket.setdefaulttimeout),
    "standard output": _attribute(sys, "stdout"),
    "standard errors": _attribute(sys, "stderr"),
}


def read_state() -> State:
    """Return the present state of this process, without the random states."""
    return {name: setting.read() for name, setting in _SETTINGS.items()}


def restore(state: State) -> list[str]:
    """Restore an earlier state; returns the names of what was changed since then."""
    changed = [name for name, setting in _SETTINGS.items() if setting.read() != state[name]]
    for name in changed:
        _SETTINGS[name].set(state[name])
    return changed


def python_random_states() -> dict[str, Any]:
    """Return the states of the global generators of Python and numpy, as values that a resume state may contain."""
    numpy = np.random.get_state(legacy=True)
    assert isinstance(numpy, tuple)
    return {
        "python": list(random.getstate()[1]),
        "numpy": [torch.tensor(numpy[1].tolist(), device="cpu"), *map(float, numpy[2:])],
    }


def set_python_random_states(states: Mapping[str, Any]) -> None:
    """Restore what `python_random_states` returned."""
    words, position, has_gauss, cached = states["numpy"]
    random.setstate((random.getstate()[0], tuple(states["python"]), None))
    np.random.set_state(("MT19937", words.numpy(), int(position), int(has_gauss), cached))


def seed_all(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def unchanged_process(seed: int) -> Iterator[None]:
    """Run the block with random states that depend on the seed alone; restore them, and all other state, after it.

    Args:
        seed: seed for the generators of Python, numpy and torch.
    """
    state, of_python, of_torch = read_state(), python_random_states(), torch.get_rng_state()
    seed_all(seed)
    try:
        yield
    finally:
        restore(state)
        set_python_random_states(of_python)
        torch.set_rng_state(of_torch)
