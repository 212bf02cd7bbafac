"""Work on many items side by side, the results in the order of the items."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

MOST_THREADS = 8  # each has a shard or two in memory
WAITING_THREADS = 2  # beyond the cores, since some wait for disk or network

T = TypeVar("T")
R = TypeVar("R")


def in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map(work, items)` in threads; Pillow, zstd, hashes and sockets let go of the interpreter meanwhile.

    At most one result more than there are threads waits to be taken, so memory stays flat.  What
    `work` raises is raised here, in the item's place, and nothing more is begun.
    """
    threads = min(_cores() + WAITING_THREADS, MOST_THREADS)
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, "data") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
