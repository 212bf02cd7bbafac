"""Parallel work on many items, with the results in the order of the items."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

MOST_THREADS = 8  # each thread has a shard or two in memory
WAITING_THREADS = 2  # threads beyond the number of cores, because some wait for disk or network

T = TypeVar("T")
R = TypeVar("R")


def map_in_order(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `work(item)` of every item, in order, computed by threads.

    Threads are enough because Pillow, zstd, hashes and sockets release the interpreter's lock.  At most
    one result more than the number of threads waits for the caller, so memory stays flat.  An exception
    of `work` is raised here in place of the item's result; items that have not started are cancelled.
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
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
