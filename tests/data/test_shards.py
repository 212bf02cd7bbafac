"""Source to store: what `put` writes, and its behaviour if it is repeated, killed, or given other content."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.catalog import DATASETS
from data.errors import DataError
from data.sources import digits
from data.sources.base import Sample, Skipped, Source
from data.storage.loader import load
from data.storage.manifest import FORMAT, read_manifest
from data.storage.shards import put, verify
from sweep.store import open_store
from sweep.store.base import Store
from sweep.store.local import LocalStore

PROJECT = Path(__file__).parents[2]
SHARD = 200 * 64  # bytes per shard: 200 digits of 8 x 8 pixels, so 9 shards in all
DIGITS = "datasets/digits/s8-bilinear-1"


def read(root: Path | None) -> Source:
    """Open the source of the dataset `made_up`; `root` is a file that contains the seed of its content."""
    assert root is not None
    random = np.random.RandomState(int(root.read_text()))
    images = random.randint(0, 256, (30, 3, 5, 7)).astype(np.uint8)

    def samples(first: int, stop: int) -> Iterator[Sample]:
        return (Sample(images[at], at % 2, "made up", "all", f"é{at}") for at in range(first, stop))

    return Source(30, samples)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a dataset of 30 coloured images, 7 x 5 pixels, whose content the test may change."""
    info = replace(DATASETS["digits"], name="made_up", source=__name__, classes=("a", "b"), channels=3)
    monkeypatch.setitem(DATASETS, "made_up", info)
    return "made_up"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "a store with 'quotes' and ünicode"))


def put_digits(store: Store) -> dict[str, bytes]:
    """Store digits and return all objects of the store."""
    put(store, "digits", size=8, root=None, shard_bytes=SHARD)
    return objects(store)


def objects(store: Store) -> dict[str, bytes]:
    return {path: store.get(path) for path in store.list("datasets")}


def test_the_manifest_says_what_is_stored(store: Store) -> None:
    manifest = put(store, "digits", size=8, root=None, shard_bytes=SHARD)
    assert manifest == read_manifest(store, "digits", "s8-bilinear-1")
    assert (manifest.rows, manifest.shape, len(manifest.shards)) == (1797, (1, 8, 8), 9)
    assert manifest.counts == {"0": 178, "1": 182, "2": 177, "3": 183, "4": 181, "5": 182, "6": 181, "7": 179,
                               "8": 174, "9": 180}  # fmt: skip
    assert sum(shard.rows for shard in manifest.shards) == 1797
    assert manifest.parameters == {"size": 8, "interpolation": "bilinear", "revision": 1}
    assert manifest.licence == "CC BY 4.0" and "Alpaydin" in manifest.citation
    assert set(manifest.versions) == {"numpy", "pillow", "pyarrow", "scikit-learn"}
    assert sorted(objects(store)) == [
        *(f"{DIGITS}/{name}" for name in ("manifest.json",)),
        *(f"{DIGITS}/part-{number:05d}.parquet" for number in range(9)),
    ]


def test_shards_are_plain_parquet_in_source_order(store: Store) -> None:
    from sklearn.datasets import load_digits

    put_digits(store)
    tables = [pq.read_table(pa.BufferReader(data)) for path, data in objects(store).items() if "part" in path]
    table = pa.concat_tables(tables)
    assert table.schema.field("image").type == pa.binary(64)
    assert table.column("label").to_pylist() == load_digits().target.tolist()
    assert table.column("class").to_pylist() == [str(label) for label in load_digits().target]
    assert set(table.column("split").to_pylist()) == {"all"}
    assert set(table.column("source").to_pylist()) == {"sklearn.datasets.load_digits"}
    assert table.column("sample_id").to_pylist() == sorted(set(table.column("sample_id").to_pylist()))
    image = np.frombuffer(table.column("image")[3].as_py(), np.uint8).reshape(8, 8)
    assert np.array_equal(image, np.rint(load_digits().images[3] * 255 / 16))


def test_prepared_digits_never_change_without_a_new_revision(store: Store) -> None:
    fingerprints = [put(store, "digits", size=size, root=None).fingerprint[:16] for size in (8, 32)]
    assert fingerprints == ["bd1d4ebb5f587924", "3d311baa6cafa024"]


def test_where_shards_begin_changes_no_content(store: Store, tmp_path: Path) -> None:
    other = open_store(str(tmp_path / "other"))
    first = put(store, "digits", size=8, root=None, shard_bytes=SHARD)
    second = put(other, "digits", size=8, root=None, shard_bytes=1000)
    assert len(second.shards) == 120
    assert first.fingerprint == second.fingerprint


def test_progress_counts_samples_up_to_all_of_them(store: Store) -> None:
    seen: list[tuple[int, int]] = []
    put(store, "digits", size=8, root=None, shard_bytes=SHARD, progress=lambda *at: seen.append(at))
    assert seen == [(min(200 * number, 1797), 1797) for number in range(1, 10)]


def test_a_second_put_writes_nothing(store: Store) -> None:
    first = put_digits(store)
    assert put_digits(ReadOnly(store.url)) == first


class AppendOnly(LocalStore):
    """A store that fails if an existing shard or manifest is written again."""

    def put(self, path: str, data: bytes) -> None:
        if "/unfinished/" not in path:
            raise AssertionError(f"{path} is written again")
        super().put(path, data)


class ReadOnly(AppendOnly):
    """A store that fails if anything is written."""

    def put(self, path: str, data: bytes) -> None:
        raise AssertionError(f"{path} is written again")

    def put_once(self, path: str, data: bytes) -> bool:
        raise AssertionError(f"{path} is written again")


PUT_UNTIL_KILLED = """
import os, signal, sys
from data.storage.shards import put
from sweep.store import open_store

def progress(done, total):
    if done >= 600:
        os.kill(os.getpid(), signal.SIGKILL)

put(open_store(sys.argv[1]), "digits", size=8, root=None, shard_bytes=int(sys.argv[2]), progress=progress)
"""


def read_ranges(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return a list to which each range of digits' items is appended when it is read."""
    ranges: list[tuple[int, int]] = []
    honest = digits.read

    def open_watched(root: Path | None = None) -> Source:
        source = honest(root)

        def read(first: int, stop: int) -> Iterator[Sample | Skipped]:
            ranges.append((first, stop))
            return source.read(first, stop)

        return replace(source, read=read)

    monkeypatch.setattr(digits, "read", open_watched)
    return ranges


def test_a_killed_put_leaves_no_manifest_and_the_next_one_prepares_what_is_missing(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = 20 * 64  # bytes per shard: 90 shards, so that some have not started when 30 are done
    killed = subprocess.run([sys.executable, "-c", PUT_UNTIL_KILLED, store.url, str(small)], cwd=PROJECT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert read_manifest(store, "digits", "s8-bilinear-1") is None
    left = {path: data for path, data in objects(store).items() if path.endswith(".parquet")}
    finished = {int(path[-10:-5]) for path in objects(store) if "/unfinished/" in path}
    assert 30 <= len(finished) < 90
    ranges = read_ranges(monkeypatch)
    put(AppendOnly(store.url), "digits", size=8, root=None, shard_bytes=small)
    assert sorted(ranges) == [
        (20 * number, min(20 * number + 20, 1797)) for number in range(90) if number not in finished
    ]
    undisturbed = open_store(str(tmp_path / "undisturbed"))
    put(undisturbed, "digits", size=8, root=None, shard_bytes=small)
    assert objects(store) == objects(undisturbed)
    assert left.items() <= objects(store).items()


def test_a_second_put_from_the_same_source_prepares_nothing_but_damaged_shards(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = put_digits(store)
    ranges = read_ranges(monkeypatch)
    put_digits(ReadOnly(store.url))
    assert ranges == []
    damage(store, "truncated")
    assert put_digits(store) == whole
    assert ranges == [(800, 1000)]


def test_a_shard_left_by_a_killed_put_of_another_source_or_damaged_is_made_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = put_digits(store)
    records = {}

    def remember(path: str, data: bytes) -> None:
        records[path] = data
        LocalStore.put(elsewhere, path, data)

    elsewhere = LocalStore(f"{store.url}-elsewhere")
    monkeypatch.setattr(elsewhere, "put", remember)
    put_digits(elsewhere)
    store.delete(f"{DIGITS}/manifest.json")
    damage(store, "bit flip")
    for path, data in records.items():
        other = path.endswith("00006.json")
        store.put(path, data.replace(b'"identity": "', b'"identity": "0') if other else data)
    ranges = read_ranges(monkeypatch)
    assert put_digits(store) == whole
    assert sorted(ranges) == [(800, 1000), (1200, 1400)]  # sorted, because they are read in parallel


@pytest.mark.parametrize("record", [b'{"identity"', b"[]", b"{}"])
def test_a_damaged_record_of_a_killed_put_is_no_record(store: Store, record: bytes) -> None:
    whole = put_digits(store)
    store.delete(f"{DIGITS}/manifest.json")
    store.put(f"{DIGITS}/unfinished/00000.json", record)
    assert put_digits(store) == whole


def test_other_content_left_by_a_killed_put_is_replaced(store: Store) -> None:
    store.put(f"{DIGITS}/part-00003.parquet", b"of another version of the source")
    put_digits(store)
    assert verify(store, "digits", "s8-bilinear-1") == []


def test_other_content_under_the_same_preparation_is_refused(store: Store, made_up: str, tmp_path: Path) -> None:
    (tmp_path / "1").write_text("1")
    (tmp_path / "2").write_text("2")
    stored = put(store, made_up, size=8, root=tmp_path / "1")
    before = objects(store)
    with pytest.raises(DataError, match="holds other content than this source gives") as caught:
        put(store, made_up, size=8, root=tmp_path / "2")
    assert stored.fingerprint in str(caught.value)
    assert "fix: use the source that was stored, or another storage, or delete datasets/made_up" in str(caught.value)
    assert objects(store) == before


def test_content_stored_by_a_faster_put_is_taken_if_equal_and_refused_if_not(
    store: Store, made_up: str, tmp_path: Path
) -> None:
    for seed in "12":
        (tmp_path / seed).write_text(seed)

    def overtaken(done: int, total: int) -> None:
        put(store, made_up, size=8, root=tmp_path / "1")

    taken = put(store, made_up, size=8, root=tmp_path / "1", progress=overtaken)
    assert taken == read_manifest(store, made_up, "s8-bilinear-1")
    store.delete_tree("datasets")
    with pytest.raises(DataError, match="holds other content"):
        put(store, made_up, size=8, root=tmp_path / "2", progress=overtaken)


def damage(store: Store, kind: str) -> str:
    """Damage one shard and return its path."""
    path = f"{DIGITS}/part-00004.parquet"
    data = bytearray(store.get(path))
    if kind == "missing":
        store.delete(path)
    else:
        data[len(data) // 2] ^= 1
        store.put(path, bytes(data) if kind == "bit flip" else bytes(data[:1000]))
    return path


KINDS = ("bit flip", "truncated", "missing")


@pytest.mark.parametrize("kind", KINDS)
def test_verify_names_the_damaged_shard_with_both_hashes_and_put_fixes_it(kind: str, store: Store) -> None:
    whole = put_digits(store)
    manifest = read_manifest(store, "digits", "s8-bilinear-1")
    assert manifest is not None
    path = damage(store, kind)
    (problem,) = verify(store, "digits", "s8-bilinear-1")
    assert (problem.path, problem.expected) == (path, manifest.shards[4].sha256)
    assert problem.found != problem.expected and (problem.found is None) == (kind == "missing")
    assert put_digits(store) == whole
    assert verify(store, "digits", "s8-bilinear-1") == []


def test_a_shard_that_is_encoded_differently_today_is_replaced_with_its_manifest(store: Store) -> None:
    put_digits(store)
    damage(store, "missing")
    put(store, "digits", size=8, root=None, shard_bytes=2 * SHARD)
    assert verify(store, "digits", "s8-bilinear-1") == []


def test_verify_of_what_is_not_stored_says_how_to_store_it(store: Store) -> None:
    with pytest.raises(DataError, match=r"digits \(s8-bilinear-1\) is not in .*data put digits CONFIG"):
        verify(store, "digits", "s8-bilinear-1")


def damaged_manifests(manifest: bytes) -> Iterator[bytes]:
    yield b""
    yield manifest[:-20]
    yield b"[]"
    yield manifest.replace(b'"rows": 1797', b'"rows": 1799')
    yield manifest.replace(b'"classes": [\n  "0"', b'"classes": [\n  "1"')


def test_a_damaged_manifest_is_refused_and_put_fixes_it(store: Store) -> None:
    whole = put_digits(store)
    path = f"{DIGITS}/manifest.json"
    for damaged in damaged_manifests(whole[path]):
        assert damaged != whole[path]
        store.put(path, damaged)
        with pytest.raises(DataError, match=r"the manifest is damaged; fix: .*data put digits CONFIG"):
            read_manifest(store, "digits", "s8-bilinear-1")
        assert put_digits(store) == whole


def test_a_manifest_of_a_newer_version_is_refused_and_left_alone(store: Store) -> None:
    path = f"{DIGITS}/manifest.json"
    newer = json.dumps({"format": FORMAT + 1, "anything": "else"}).encode()
    put_digits(store)
    store.put(path, newer)
    with pytest.raises(DataError, match=f"format {FORMAT + 1} was written by a newer version"):
        put_digits(store)
    assert store.get(path) == newer


def bad_read(root: Path | None) -> Source:
    """Open a source of 30 items of 8 x 8 and 16 x 16 pixels.

    Items 10 to 19 cannot be read.  Item 3, in the test split, has the same image as item 4, in the train split.
    """

    def one(at: int) -> Sample | Skipped:
        if 10 <= at < 20:
            return Skipped(f"{at}.png", "truncated")
        random = np.random.RandomState(4 if at == 3 else at)
        side = 8 if at < 10 else 16
        image = random.randint(0, 256, (3, side, side)).astype(np.uint8)
        return Sample(image, at % 2, f"{at}.png", "test" if at % 2 else "train", str(at), f"scan {at // 3}")

    return Source(30, lambda first, stop: map(one, range(first, stop)), parameters={"scale": {"chosen": 0.5}})


def test_what_cannot_be_read_is_listed_and_what_stands_on_both_sides_is_counted(
    store: Store, made_up: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "read", bad_read)
    manifest = put(store, made_up, size=8, root=None, shard_bytes=5 * 3 * 64)
    assert manifest == read_manifest(store, made_up, "s8-bilinear-1")
    assert manifest.skipped == tuple(Skipped(f"{at}.png", "truncated") for at in range(10, 20))
    assert [shard.file for shard in manifest.shards] == [f"part-{at:05d}.parquet" for at in (0, 1, 4, 5)]
    assert (manifest.rows, manifest.duplicates, manifest.repeats) == (20, 1, 1)
    assert manifest.parameters["scale"] == {"chosen": 0.5}
    loaded = load(store, made_up, "s8-bilinear-1", tmp_path / "cache")
    assert loaded.sample_ids.tolist() == [str(at) for at in range(30) if not 10 <= at < 20]
    assert loaded.groups.tolist() == [f"scan {at // 3}" for at in range(30) if not 10 <= at < 20]
    assert verify(store, made_up, "s8-bilinear-1") == []
    assert put(ReadOnly(store.url), made_up, size=8, root=None) == manifest


def test_a_source_of_which_nothing_can_be_read_is_refused(
    store: Store, made_up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Source(2, lambda first, stop: (Skipped(f"{at}.png", "truncated") for at in range(first, stop)))
    monkeypatch.setattr(sys.modules[__name__], "read", lambda _: nothing)
    with pytest.raises(DataError, match=r"gives no image; 2 could not be read; the first: 0\.png: truncated"):
        put(store, made_up, size=8, root=None)
    assert objects(store) == {}


def test_a_class_of_which_nothing_can_be_read_is_refused(
    store: Store, made_up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = Source(
        30,
        lambda first, stop: (
            found for found in bad_read(None).read(first, stop) if isinstance(found, Sample) and found.label == 0
        ),
    )
    monkeypatch.setattr(sys.modules[__name__], "read", lambda _: half)
    with pytest.raises(DataError, match="gives no image of class"):
        put(store, made_up, size=8, root=None)
    assert read_manifest(store, made_up, "s8-bilinear-1") is None


def test_every_row_names_its_content(store: Store) -> None:
    first, *_ = (data for path, data in put_digits(store).items() if path.endswith(".parquet"))
    table = pq.read_table(pa.BufferReader(first))
    for pixels, fingerprint in zip(table.column("image"), table.column("fingerprint"), strict=True):
        assert hashlib.blake2b(pixels.as_py(), digest_size=16).digest() == fingerprint.as_py()
