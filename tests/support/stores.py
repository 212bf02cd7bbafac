"""What the tests of stores and leases share."""

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
    """What each call returns when all start in the same moment, in threads."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def script(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process of its own that can import the application."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def assert_no_chain(error: BaseException) -> None:
    """A user who sees the traceback sees no other error above this one."""
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
