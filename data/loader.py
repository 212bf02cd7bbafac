"""Store to arrays: each node decodes a dataset once; every trial on it shares the same pages."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import write_array_header_1_0

from data.encoding import decode
from data.faults import DataError, Fault, mend
from data.manifest import Fingerprint, Manifest, Rows, Store
from data.shards import fault, shard_paths, stored_manifest

ARRAYS = ("images", "labels", "sample_ids", "source_split", "groups")
CHECKED_ROWS = 16_384  # at once: memory stays flat

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared dataset; all arrays are in source order and have N rows.

    The arrays are private mappings of the node's cache: pages are shared by all processes of the
    node until one writes to them, and what one writes no other sees.

    Attributes:
        name, preparation: which dataset, and how its images were prepared.
        fingerprint: hash of its content.
        classes: class names; a label is an index into them.
        images: uint8 [N, C, S, S].
        labels: int64 [N].
        sample_ids: str [N].
        source_split: str [N], the source's own split: "train", "test", or "all".
        groups: str [N]; samples of one group stay on one side of every split, "" is a group of its own.
    """

    name: str
    preparation: str
    fingerprint: str
    classes: tuple[str, ...]
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    sample_ids: npt.NDArray[np.str_]
    source_split: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]


def load(store: Store, name: str, preparation: str, cache: Path) -> Dataset:
    """Opens a stored dataset through this node's cache.

    The first call on a node fetches the shards, checks every byte against the manifest and
    decodes them; later calls map what the first one wrote.  Safe under concurrent calls: one
    decodes, the others wait.  A call that is killed leaves nothing that another would take for
    whole.  A cached copy is used only where its content is what the store has now.

    Args:
        store: open store that holds the dataset.
        name, preparation: of the dataset.
        cache: folder on a local disk, made where it does not exist.

    Raises:
        DataError: if the dataset is not in the store, a shard is missing, truncated or damaged
            (names it, both hashes and the mend), or the cache cannot be written.
    """
    manifest = stored_manifest(store, name, preparation)
    folder = cache / f"{name}-{preparation}-{manifest.fingerprint}"
    opened = _open(folder, manifest)
    if opened is None:
        with _writing(folder):
            opened = _open(folder, manifest)
            if opened is None:
                _build(store, manifest, folder)
                opened = _open(folder, manifest)
    assert opened is not None, f"{folder} was just written whole"
    return opened


def _open(folder: Path, manifest: Manifest) -> Dataset | None:
    """The cached copy; None where there is none, or not a whole one of this content."""
    try:
        described = json.loads((folder / "content.json").read_text())
        arrays = _map(folder)
    except (OSError, ValueError, EOFError):
        return None
    if described != _description(manifest) or arrays["images"].shape != (manifest.rows, *manifest.shape):
        return None
    return Dataset(
        name=manifest.name,
        preparation=manifest.preparation,
        fingerprint=manifest.fingerprint,
        classes=manifest.classes,
        **arrays,
    )


def _map(folder: Path) -> dict[str, Any]:
    return {name: np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False) for name in ARRAYS}


def _description(manifest: Manifest) -> dict[str, Any]:
    return {"fingerprint": manifest.fingerprint, "rows": manifest.rows}


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """One process at a time; the kernel frees the lock of one that dies."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with open(folder.with_name(folder.name + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Closing alone would leave the lock to a child that was forked meanwhile.
                fcntl.flock(lock, fcntl.LOCK_UN)
    except OSError as error:
        raise DataError(
            f"cannot write the dataset cache {folder.parent}: {error}; "
            "make room there, or choose a cache folder on a disk with room"
        ) from error


def _build(store: Store, manifest: Manifest, folder: Path) -> None:
    """Writes the copy beside its place, then renames it: it is there whole or not at all."""
    beside = folder.with_name(folder.name + ".building")
    shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed: the lock is ours
    shutil.rmtree(folder, ignore_errors=True)  # damaged: a whole one is opened, not built
    beside.mkdir()
    try:
        for name, column in _write_images(beside / "images.npy", store, manifest).items():
            _save(beside / f"{name}.npy", column)
        _check_fingerprint(beside, manifest)
        (beside / "content.json").write_text(json.dumps(_description(manifest)))
        os.replace(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _write_images(path: Path, store: Store, manifest: Manifest) -> dict[str, Array]:
    """Decodes the shards, in whatever order they come, and returns the small columns."""
    shape = (manifest.rows, *manifest.shape)
    labels = np.empty(manifest.rows, np.int64)
    splits, sample_ids, groups = (np.empty(manifest.rows, np.object_) for _ in range(3))
    # Written, not mapped: a full disk is then an error that can be told, and not a bus error.
    with open(path, "wb") as file:
        write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        start = file.tell()
        for first, rows in _verified(store, manifest):
            file.seek(start + first * int(np.prod(manifest.shape)))
            file.write(rows.images.data)
            chosen = slice(first, first + len(rows.labels))
            labels[chosen], splits[chosen] = rows.labels, rows.splits
            sample_ids[chosen], groups[chosen] = rows.sample_ids, rows.groups
        file.flush()
        os.fsync(file.fileno())
    return {
        "labels": labels,
        "source_split": splits.astype(np.str_),
        "sample_ids": sample_ids.astype(np.str_),
        "groups": groups.astype(np.str_),
    }


def _verified(store: Store, manifest: Manifest) -> Iterator[tuple[int, Rows]]:
    """Number of the first row, and rows, of each shard."""
    shards = shard_paths(manifest)
    firsts = dict(zip(shards, accumulate((shard.rows for shard in shards.values()), initial=0), strict=False))
    for path, data in store.get_many(shards):
        _refuse(store, manifest, fault(path, shards[path], data))
        yield firsts.pop(path), decode(data, manifest.shape)
    for path in firsts:
        _refuse(store, manifest, fault(path, shards[path], None))


def _refuse(store: Store, manifest: Manifest, found: Fault | None) -> None:
    if found is not None:
        raise DataError(f"{store.url}: {found}; {mend(manifest.name)}")


def _save(path: Path, array: Array) -> None:
    with open(path, "wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def _check_fingerprint(beside: Path, manifest: Manifest) -> None:
    """Shards may each be what the manifest says, and the manifest be another set's."""
    fingerprint = Fingerprint(manifest.classes, manifest.shape)
    columns = _map(beside)
    for first in range(0, manifest.rows, CHECKED_ROWS):
        chosen = slice(first, first + CHECKED_ROWS)
        fingerprint.update(
            Rows(
                images=columns["images"][chosen],
                labels=columns["labels"][chosen],
                splits=columns["source_split"][chosen],
                sample_ids=columns["sample_ids"][chosen],
                groups=columns["groups"][chosen],
            )
        )
    if fingerprint.hexdigest() != manifest.fingerprint:
        raise DataError(
            f"{manifest.name} ({manifest.preparation}): the shards have fingerprint "
            f"{fingerprint.hexdigest()}, their manifest says {manifest.fingerprint}; {mend(manifest.name)}"
        )
