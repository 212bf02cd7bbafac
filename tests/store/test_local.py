"""Properties that only a store in a folder can violate."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import stat
import time
from functools import partial
from pathlib import Path

import pytest

from sweep.store import open_store
from sweep.store.base import StoreError
from sweep.store.local import LEFTOVER_SECONDS, LocalStore
from tests.support.stores import assert_no_chain, at_once, script


@pytest.fixture
def local(folder_url: str) -> LocalStore:
    store = open_store(folder_url)
    assert isinstance(store, LocalStore)
    return store


WRITER = """
import hashlib, itertools, os, random, sys
from sweep.store.local import LocalStore
store = LocalStore(sys.argv[1])
for n in itertools.count():
    data = random.randbytes(random.randrange(400_000))
    data = hashlib.sha256(data).digest() + data
    store.put("put", data)
    store.put_once(f"once/{os.getpid()}-{n}", data)
    if n == 0:
        print("writing", flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_whole_objects_alone(local: LocalStore) -> None:
    def check(data: bytes) -> None:
        assert hashlib.sha256(data[32:]).digest() == data[:32]

    for _ in range(12):
        writer = script(WRITER, local.url)
        assert writer.stdout and writer.stdout.readline() == "writing\n"
        until = time.monotonic() + random.random() * 0.02
        while time.monotonic() < until:
            check(local.get("put"))
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        check(local.get("put"))
    seen = 0
    for path, data in local.get_many(local.list("")):
        assert path == "put" or path.startswith("once/")
        check(data)
        seen += 1
    assert seen > 12


def test_temporary_and_hidden_files_are_never_listed(local: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append([*local.list(""), *local.names("")]))
    local.put("a/x", b"1")
    (Path(local.url) / "a" / ".nfs0001").write_bytes(b"")
    assert seen[0] == []
    assert [*local.list(""), *local.names("a")] == ["a/x", "x"]
    assert local.names("") == ["a"]


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_put_once_returns(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, bool]] = []

    def record(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), local.exists("a/x")))

    monkeypatch.setattr(os, "fsync", record)
    local.put_once("a/x", b"1")
    assert synced == [(False, False), (True, True)]


def test_leftovers_of_dead_writers_are_removed_when_the_store_is_opened(local: LocalStore) -> None:
    local.put("x", b"1")
    temporary = Path(local.url) / ".store" / "tmp"
    old = time.time() - LEFTOVER_SECONDS - 60
    for name in ("old", "young"):
        (temporary / name).write_bytes(b"half")
        (temporary / f"{name} tree").mkdir()
    for name in ("old", "old tree"):
        os.utime(temporary / name, (old, old))
    open_store(local.url)
    assert sorted(os.listdir(temporary)) == ["young", "young tree"]


def test_a_full_disk_is_reported_with_the_fix_and_leaves_nothing_behind(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    local.put("x", b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StoreError, match=r"cannot write x in .*No space left.*free some space") as caught:
            local.put("x", b"new")
    assert_no_chain(caught.value)
    assert local.get("x") == b"old"
    assert os.listdir(Path(local.url) / ".store" / "tmp") == []


def test_an_object_and_a_folder_cannot_share_a_path(local: LocalStore) -> None:
    local.put("a", b"1")
    local.put("b/c", b"1")
    for path in ("a/x", "a/x/y", "b"):
        for write in (local.put, local.put_once):
            with pytest.raises(StoreError, match="either an object or a folder") as caught:
                write(path, b"2")
            assert_no_chain(caught.value)
    assert list(local.list("")) == ["a", "b/c"]


def test_compare_and_swap_does_not_overrun_a_put_or_a_delete(local: LocalStore) -> None:
    def swap(tag: str) -> None:
        local.put_if("x", b"swapped", tag)

    for _ in range(150):
        local.put("x", b"old")
        at_once([partial(swap, local.get_tagged("x")[1]), partial(local.put, "x", b"put")])
        assert local.get("x") == b"put"
        at_once([partial(swap, local.get_tagged("x")[1]), partial(local.delete, "x")])
        assert not local.exists("x")


def test_writers_and_deleters_of_one_folder_do_not_disturb_each_other(local: LocalStore) -> None:
    def churn(name: str) -> None:
        for _ in range(150):
            assert local.put_once(f"deep/folder/{name}", b"1")
            assert local.get(f"deep/folder/{name}") == b"1"
            local.delete(f"deep/folder/{name}")

    at_once([partial(churn, name) for name in "abcd"])
    assert local.names("") == []
