"""Values that are computed from a dataset's images once per node: shared, resumed, evicted with their copy."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from data.errors import DataError
from data.storage import derived as module
from data.storage.cache import Copy
from data.storage.derived import derived
from data.storage.loader import Dataset, load
from data.storage.shards import put
from sweep.store import open_store
from sweep.store.base import Store

ROWS, CHUNKS = 1797, 18


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = open_store(str(tmp_path_factory.mktemp("stored") / "store"))
    put(made, "digits", size=8, root=None)
    return made


@pytest.fixture
def dataset(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setattr(module, "CHUNK", 100)
    return load(store, "digits", "s8-bilinear-1", tmp_path / "cache")


class Means:
    """Counts how many images it has seen; returns the mean of each, float16 [n, 1]."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float16]:
        self.seen += len(images)
        means: npt.NDArray[np.float16] = images.reshape(len(images), -1).mean(1, keepdims=True).astype(np.float16)
        return means


def finish(dataset: Dataset, compute: Any, identity: str = "abc", steps: int | None = None) -> npt.NDArray[Any] | None:
    """Compute all values, or those of some chunks; return them as one array if they are complete."""
    found: list[Any] = []
    for number, _ in enumerate(derived(dataset, identity, compute, math.inf, found), start=1):
        if number == steps:
            return None
    return np.concatenate(found)


def files(dataset: Dataset) -> list[str]:
    assert dataset.copy is not None
    return sorted(path.name for path in dataset.copy.folder.glob("features-*"))


def test_values_are_in_the_datasets_order_and_computed_once(dataset: Dataset) -> None:
    first, second = Means(), Means()
    made = finish(dataset, first)
    again = finish(dataset, second)
    expected = dataset.images.reshape(ROWS, -1).mean(1, keepdims=True).astype(np.float16)
    assert made is not None and again is not None
    assert np.array_equal(made, expected) and np.array_equal(again, expected)
    assert (first.seen, second.seen) == (ROWS, 0)
    assert files(dataset) == [f"features-abc-{number:05d}.npy" for number in range(CHUNKS)]


def test_another_identity_has_values_of_its_own(dataset: Dataset) -> None:
    finish(dataset, Means())
    other = Means()
    finish(dataset, other, identity="abd")
    assert other.seen == ROWS and len(files(dataset)) == 2 * CHUNKS


def test_what_a_stopped_process_has_computed_is_used(dataset: Dataset) -> None:
    finish(dataset, Means(), steps=7)
    assert len(files(dataset)) == 7
    rest = Means()
    assert finish(dataset, rest) is not None
    assert ROWS - 700 <= rest.seen <= ROWS - 697, "the last chunk has 97 images"


@pytest.mark.parametrize("spoil", [b"", b"\x93NUMPY", None])
def test_a_file_that_is_not_complete_is_made_again(dataset: Dataset, spoil: bytes | None) -> None:
    made = finish(dataset, Means())
    assert dataset.copy is not None and made is not None
    file = dataset.copy.folder / "features-abc-00003.npy"
    if spoil is None:
        np.save(file, np.zeros((5, 1), np.float16))  # of another number of rows
    else:
        file.write_bytes(spoil)
    again = Means()
    found = finish(dataset, again)
    assert found is not None and np.array_equal(found, made) and again.seen == 100


def test_processes_that_begin_together_share_the_work_and_agree(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads stand for two processes that begin at opposite chunks, and go on chunk by chunk in turn."""
    numbers = {"one": 0, "two": 9}
    monkeypatch.setattr(module, "SPREAD", 1)
    monkeypatch.setattr(os, "getpid", lambda: numbers[threading.current_thread().name])
    turns, counters, results = threading.Barrier(2), [Means(), Means()], {}

    def work(counter: Means) -> None:
        found: list[Any] = []
        for _ in derived(dataset, "abc", counter, math.inf, found):
            turns.wait(60)
        results[threading.current_thread().name] = np.concatenate(found)

    threads = [threading.Thread(target=work, args=(c,), name=n) for c, n in zip(counters, numbers, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert np.array_equal(results["one"], results["two"]) and len(files(dataset)) == CHUNKS
    assert sum(counter.seen for counter in counters) == ROWS, "no chunk was computed twice"


def test_values_go_with_their_copy_and_count_in_its_size(store: Store, dataset: Dataset, tmp_path: Path) -> None:
    assert dataset.copy is not None
    copy = Copy(dataset.copy.cache, dataset.copy.name)
    before = copy.size()
    finish(dataset, Means())
    assert copy.size() > before + 2 * ROWS
    assert not copy.remove_unused(), "a trial has it open"
    (copy.folder / "mine.txt").write_text("of the user")
    del dataset
    copy.remove()
    assert [path.name for path in copy.folder.iterdir()] == ["mine.txt"]


def test_a_cache_that_others_own_is_read_and_not_written(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refused)
    assert finish(dataset, Means()) is not None and files(dataset) == []


def test_a_full_disk_is_named_with_the_fix(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"cannot write the dataset cache .*No space left.*data\.cache"):
        finish(dataset, Means())
    assert files(dataset) == []


def test_a_dataset_in_memory_is_computed_without_files(dataset: Dataset) -> None:
    from dataclasses import replace

    found = finish(replace(dataset, copy=None), Means())
    assert found is not None and len(found) == ROWS and files(dataset) == []
