"""Helpers of the tests of stores and leases."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def at_once(calls: Sequence[Callable[[], object]]) -> list[Any]:
    """Start all calls at the same moment, in threads, and return what each one returns."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def script(code: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a separate Python process that can import the application."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def assert_no_chain(error: BaseException) -> None:
    """Assert that a traceback of this error shows no other error above it."""
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
