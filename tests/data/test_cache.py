"""The node's cache: which copies are evicted and which are not, full disks, and killed processes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.storage.loader import ROW_BYTES, Dataset, load
from data.storage.shards import put
from sweep.store import open_store
from sweep.store.base import Store
from tests.conftest import unavailable

PROJECT = Path(__file__).parents[2]
SIZES = (8, 16, 32)
NEED = 1797 * (32 * 32 + ROW_BYTES)  # bytes of digits at 32 x 32


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with digits at three sizes."""
    store = open_store(str(tmp_path_factory.mktemp("stored") / "store"))
    for size in SIZES:
        put(store, "digits", size=size, root=None)
    return store


def open_copy(store: Store, cache: Path, size: int, cache_bytes: float = math.inf) -> Dataset:
    return load(store, "digits", f"s{size}-bilinear-1", cache, cache_bytes)


def cached_sizes(cache: Path) -> list[int]:
    """Return the image sizes of the copies in the cache, sorted."""
    folders = (path.name for path in cache.iterdir() if path.is_dir())
    return sorted(int(name.split("-")[1].removeprefix("s")) for name in folders)


def set_age(cache: Path, size: int, seconds: int) -> None:
    """Set the time when a copy was last opened to `seconds` before a fixed time."""
    (used,) = cache.glob(f"digits-s{size}-*/content.json")
    os.utime(used, (1e9 - seconds, 1e9 - seconds))


@pytest.mark.parametrize(("oldest", "stays"), [(8, 16), (16, 8)])
def test_the_least_recently_used_copy_goes_first(oldest: int, stays: int, store: Store, tmp_path: Path) -> None:
    for size in (8, 16):
        open_copy(store, tmp_path, size)
    set_age(tmp_path, stays, 10)
    set_age(tmp_path, oldest, 20)
    total = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    open_copy(store, tmp_path, 32, cache_bytes=total + NEED - 1)
    assert cached_sizes(tmp_path) == sorted([stays, 32])


def test_files_of_others_in_the_cache_folder_stay(store: Store, tmp_path: Path) -> None:
    """A user may choose any folder for the cache, for example one with a lock file and a folder of the same name."""
    (tmp_path / "poetry.lock").touch()
    others = [tmp_path / "poetry/pages.txt", tmp_path / "poetry.building/a/b.txt"]
    open_copy(store, tmp_path, 8)
    others += [next(tmp_path.glob("digits-s8-*/content.json")).with_name("notes.txt")]
    for file in others:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    open_copy(store, tmp_path, 16, cache_bytes=1)
    assert [file.read_text() for file in others] == ["mine"] * 3
    assert not list(tmp_path.glob("digits-s8-*/*.npy")), "what was ours is evicted"


def test_opening_a_copy_is_using_it(store: Store, tmp_path: Path) -> None:
    open_copy(store, tmp_path, 8)
    open_copy(store, tmp_path, 16)
    set_age(tmp_path, 8, 20)
    set_age(tmp_path, 16, 10)
    open_copy(store, tmp_path, 8)
    open_copy(store, tmp_path, 32, cache_bytes=NEED + 300_000)
    assert cached_sizes(tmp_path) == [8, 32]


def test_what_is_open_is_never_evicted(store: Store, tmp_path: Path) -> None:
    first = open_copy(store, tmp_path, 8)
    before = first.images.copy()
    second = open_copy(store, tmp_path, 16, cache_bytes=1)
    assert cached_sizes(tmp_path) == [8, 16]
    assert np.array_equal(first.images, before)
    del first
    open_copy(store, tmp_path, 32, cache_bytes=1)
    assert cached_sizes(tmp_path) == [16, 32]
    assert len(second.images) == 1797


def test_a_copy_that_another_process_has_open_stays_until_that_one_dies(store: Store, tmp_path: Path) -> None:
    code = """
import pathlib, sys
from data.storage.loader import load
from sweep.store import open_store
dataset = load(open_store(sys.argv[1]), "digits", "s8-bilinear-1", pathlib.Path(sys.argv[2]))
print("open", flush=True)
sys.stdin.read()
"""
    words = [sys.executable, "-c", code, store.url, str(tmp_path)]
    with subprocess.Popen(words, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        open_copy(store, tmp_path, 16, cache_bytes=1)
        assert cached_sizes(tmp_path) == [8, 16]
        process.send_signal(signal.SIGKILL)
    open_copy(store, tmp_path, 32, cache_bytes=1)
    assert cached_sizes(tmp_path) == [32]


def test_what_a_killed_process_left_half_written_goes_first(store: Store, tmp_path: Path) -> None:
    open_copy(store, tmp_path, 8)
    (tmp_path / "digits-s64-left.lock").touch()
    (tmp_path / "digits-s64-left.building").mkdir()
    (tmp_path / "digits-s64-left.building" / "images.npy").write_bytes(bytes(10**6))
    open_copy(store, tmp_path, 16, cache_bytes=1_500_000)
    assert cached_sizes(tmp_path) == [8, 16]
    assert not (tmp_path / "digits-s64-left.building").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yield the folder of a file system of 3 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        unavailable(f"a small file system cannot be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_evicts_what_is_not_open_and_else_says_so(store: Store, small_disk: Path) -> None:
    cache = small_disk / "cache"
    open_copy(store, cache, 16)
    (small_disk / "others").write_bytes(bytes(900_000))
    kept = open_copy(store, cache, 32)
    assert cached_sizes(cache) == [32]
    with pytest.raises(DataError, match=r"No space left on device; no other copy there can be removed; make room"):
        open_copy(store, cache, 16)
    assert cached_sizes(cache) == [32]
    assert kept.images.max() == 255
    del kept
    open_copy(store, cache, 16)
    assert cached_sizes(cache) == [16]
