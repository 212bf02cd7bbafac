"""Store to arrays through the node's cache: pages are shared, checked once, and never incomplete or wrong."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.sources import digits
from data.storage.loader import load
from data.storage.manifest import Manifest, manifest_path, read_manifest
from data.storage.shards import put
from sweep.store import open_store
from sweep.store.base import Store
from sweep.store.local import LocalStore

PROJECT = Path(__file__).parents[2]
PREPARATION = "s8-bilinear-1"
SHARD = 200 * 64  # bytes per shard: gives 9 shards


@pytest.fixture(scope="module")
def stored_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a store with digits; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("stored") / "store"
    put(open_store(str(folder)), "digits", size=8, root=None, shard_bytes=SHARD)
    return folder


@pytest.fixture
def store(stored_folder: Path, tmp_path: Path) -> Store:
    shutil.copytree(stored_folder, tmp_path / "store")
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "a cache with 'quotes' and ünicode"


class Shardless(LocalStore):
    """A store that fails if a shard is read."""

    def get_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        raise AssertionError("shards are fetched again")


def manifest_of(store: Store, preparation: str = PREPARATION) -> Manifest:
    manifest = read_manifest(store, "digits", preparation)
    assert manifest is not None
    return manifest


def copies(cache: Path) -> list[str]:
    """Return the names of everything in the cache except locks."""
    return [path.name for path in cache.glob("*") if path.suffix != ".lock"]


def copy_of(store: Store) -> str:
    """Return the name of the cached copy of digits."""
    return f"digits-{PREPARATION}-{manifest_of(store).fingerprint}"


def test_the_arrays_are_the_source_in_its_order(store: Store, cache: Path) -> None:
    dataset = load(store, "digits", PREPARATION, cache)
    samples = list(digits.read().samples())
    assert np.array_equal(dataset.images, [sample.image for sample in samples])
    assert dataset.images.dtype == np.uint8 and dataset.images.shape == (1797, 1, 8, 8)
    assert np.array_equal(dataset.labels, [sample.label for sample in samples])
    assert dataset.labels.dtype == np.int64
    assert dataset.sample_ids.tolist() == [sample.sample_id for sample in samples]
    assert dataset.source_split.tolist() == ["all"] * 1797
    assert dataset.groups.tolist() == [""] * 1797
    assert (dataset.name, dataset.preparation, len(dataset.classes)) == ("digits", PREPARATION, 10)
    assert dataset.fingerprint == manifest_of(store).fingerprint


def test_a_second_open_fetches_no_shard_and_copies_nothing(store: Store, cache: Path) -> None:
    first = load(store, "digits", PREPARATION, cache)
    second = load(Shardless(store.url), "digits", PREPARATION, cache)
    for name in ("images", "labels", "sample_ids", "source_split"):
        one, two = getattr(first, name), getattr(second, name)
        assert isinstance(one, np.memmap) and isinstance(two, np.memmap)
        assert not two.flags.owndata
        assert one.filename is not None and two.filename is not None
        assert os.path.samefile(one.filename, two.filename)


def test_a_trial_cannot_write_to_what_others_see(store: Store, cache: Path) -> None:
    dataset = load(store, "digits", PREPARATION, cache)
    for name in ("images", "labels", "sample_ids", "source_split", "groups"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(dataset, name)[0] = 1


LOAD = """
import hashlib, os, pathlib, signal, sys
from data.storage.loader import load
from sweep.store.local import LocalStore

class Watched(LocalStore):
    "Logs each shard that is fetched, and is killed after a number of them."
    def get_many(self, paths):
        for path, data in super().get_many(paths):
            with open(log, "a") as file:
                print(path, file=file)
            if len(pathlib.Path(log).read_text().splitlines()) > int(survives):
                os.kill(os.getpid(), signal.SIGKILL)
            yield path, data

store, cache, log, survives = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
dataset = load(Watched(store), "digits", "s8-bilinear-1", pathlib.Path(cache))
print(hashlib.sha256(dataset.images.tobytes()).hexdigest())
"""


def start_loading(store: Store, cache: Path, log: Path, survives: int = 1000) -> subprocess.Popen[str]:
    """Start a process that opens digits when it reads a line."""
    return subprocess.Popen(
        [sys.executable, "-c", LOAD, store.url, str(cache), str(log), str(survives)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_processes_that_open_first_at_once_decode_once_and_agree(store: Store, cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "fetched"
    processes = [start_loading(store, cache, log) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    seen = {process.communicate()[0] for process in processes}
    assert {process.returncode for process in processes} == {0}
    images = load(store, "digits", PREPARATION, cache).images
    assert seen == {hashlib.sha256(images.tobytes()).hexdigest() + "\n"}
    assert sorted(log.read_text().split()) == sorted(set(log.read_text().split()))
    assert copies(cache) == [copy_of(store)]


def test_a_process_killed_while_decoding_leaves_nothing_that_is_taken_for_whole(
    store: Store, cache: Path, tmp_path: Path
) -> None:
    process = start_loading(store, cache, tmp_path / "fetched", survives=4)
    process.communicate("go\n")
    assert process.returncode == -signal.SIGKILL
    assert not (cache / copy_of(store)).exists()
    samples = list(digits.read().samples())
    assert np.array_equal(load(store, "digits", PREPARATION, cache).images, [sample.image for sample in samples])
    assert copies(cache) == [copy_of(store)]


@pytest.mark.parametrize("kind", ["bit flip", "truncated", "empty", "missing"])
def test_a_damaged_shard_is_named_with_both_hashes_and_the_fix(kind: str, store: Store, cache: Path) -> None:
    shard = manifest_of(store).shards[4]
    path = f"datasets/digits/{PREPARATION}/{shard.file}"
    data = bytearray(store.get(path))
    data[-100] ^= 1
    damaged = {"bit flip": data, "truncated": data[:-7], "empty": b"", "missing": None}[kind]
    if damaged is None:
        store.delete(path)
    else:
        store.put(path, bytes(damaged))
    with pytest.raises(DataError, match=r"part-00004\.parquet.*fix: python -m sweep data put digits") as caught:
        load(store, "digits", PREPARATION, cache)
    assert shard.sha256 in str(caught.value)
    assert ("missing" if damaged is None else hashlib.sha256(damaged).hexdigest()) in str(caught.value)
    assert copies(cache) == []
    put(store, "digits", size=8, root=None, shard_bytes=SHARD)
    assert len(load(store, "digits", PREPARATION, cache).images) == 1797


def test_whole_shards_of_another_content_are_refused(store: Store, cache: Path) -> None:
    manifest = replace(manifest_of(store), fingerprint="0" * 64)
    store.put(manifest_path("digits", PREPARATION), manifest.to_json())
    with pytest.raises(DataError, match=f"their manifest has {'0' * 64}; fix"):
        load(store, "digits", PREPARATION, cache)
    assert copies(cache) == []


def test_a_dataset_that_is_not_stored_says_how_to_store_it(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(DataError, match=r"digits \(s8-bilinear-1\) is not in .*data put digits CONFIG"):
        load(open_store(str(tmp_path / "empty")), "digits", PREPARATION, cache)


def test_a_cached_copy_of_other_content_is_not_served(store: Store, cache: Path) -> None:
    images = load(store, "digits", PREPARATION, cache).images.copy()
    copy = cache / copy_of(store)
    np.save(copy / "images.npy", 255 - images)
    described = json.loads((copy / "content.json").read_text())
    (copy / "content.json").write_text(json.dumps({**described, "fingerprint": "0" * 64}))
    assert np.array_equal(load(store, "digits", PREPARATION, cache).images, images)


def test_stored_content_that_changed_is_decoded_again(store: Store, cache: Path) -> None:
    load(store, "digits", PREPARATION, cache)
    store.delete_tree("datasets")
    other = open_store(f"{store.url}-other")
    put(other, "digits", size=16, root=None)
    manifest = replace(manifest_of(other, "s16-bilinear-1"), preparation=PREPARATION)
    for path in other.list("datasets"):
        store.put(path.replace("s16-bilinear-1", PREPARATION), other.get(path))
    store.put(manifest_path("digits", PREPARATION), manifest.to_json())
    assert load(store, "digits", PREPARATION, cache).images.shape == (1797, 1, 16, 16)


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "sample_ids.npy", "groups.npy", "content.json"])
@pytest.mark.parametrize("kind", ["truncated", "empty", "missing"])
def test_a_damaged_cached_copy_is_made_anew(kind: str, name: str, store: Store, cache: Path) -> None:
    before = load(store, "digits", PREPARATION, cache)
    path = cache / copy_of(store) / name
    content = path.read_bytes()
    path.unlink()  # removed, not overwritten, so that the mapping above keeps the old pages
    if kind != "missing":
        path.write_bytes(content[: len(content) // 2] if kind == "truncated" else b"")
    again = load(store, "digits", PREPARATION, cache)
    assert np.array_equal(again.images, before.images) and np.array_equal(again.labels, before.labels)
    assert np.array_equal(again.sample_ids, before.sample_ids)


def test_a_cache_that_cannot_be_written_is_a_clear_error(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write the dataset cache .*Not a directory; choose a cache folder"):
        load(store, "digits", PREPARATION, tmp_path / "file" / "cache")


LOAD_ON_A_FULL_DISK = """
import pathlib, resource, signal, sys
from data.errors import DataError
from data.storage.loader import load
from sweep.store import open_store

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    load(open_store(sys.argv[1]), "digits", "s8-bilinear-1", pathlib.Path(sys.argv[2]))
except DataError as error:
    print(error)
"""


def test_a_disk_that_fills_up_is_a_clear_error_and_leaves_nothing(store: Store, cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ON_A_FULL_DISK, store.url, str(cache)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"cannot write the dataset cache {cache}: File too large; no other copy there can")
    assert copies(cache) == []
