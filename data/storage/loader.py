"""Store to arrays: each node decodes a dataset once; every trial on it shares the same pages."""

from __future__ import annotations

import json
import math
import os
import shutil
import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.format import write_array_header_1_0

from data.errors import DataError, fix
from data.storage.cache import USED, Copy, explain_disk_errors, make_room
from data.storage.manifest import Fingerprint, Manifest, Rows, Store
from data.storage.parallel import in_order
from data.storage.parquet import decode
from data.storage.shards import fetch, problem, shard_paths, stored_manifest

ARRAYS = ("images", "labels", "sample_ids", "source_split", "groups")
ROW_BYTES = 256  # of the columns beside the images, about

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared dataset; all arrays are in source order and have N rows.

    The arrays are read-only mappings of the node's cache.  Their pages are shared by all processes of
    the node, come from disk when they are touched and go again when memory is short, so a set may be
    larger than memory; and only what a trial looks at is read.  While a Dataset lives, its copy is not
    evicted.

    Attributes:
        name, preparation: which dataset, and how its images were prepared.
        fingerprint: hash of its content.
        classes: class names; a label is an index into them.
        images: uint8 [N, C, S, S].
        labels: int64 [N].
        sample_ids: str [N].
        source_split: str [N], the source's own split: "train", "test", or "all".
        groups: str [N]; samples of one group stay on one side of every split, "" is a group of its own.
        protocols: ids of legal protocols, as the manifest says; () of a set stored before it said so.
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
    protocols: tuple[str, ...] = ()


def load(store: Store, name: str, preparation: str, cache: Path, cache_bytes: float = math.inf) -> Dataset:
    """Opens a stored dataset through this node's cache.

    The first call on a node fetches the shards, checks every byte against the manifest and
    decodes them; later calls map what the first one wrote.  Safe under concurrent calls: one
    decodes, the others wait.  A call that is killed leaves nothing that another would take for
    whole.  A cached copy is used only where its content is what the store has now.

    Args:
        store: open store that holds the dataset.
        name, preparation: of the dataset.
        cache: folder on a local disk, made where it does not exist.
        cache_bytes: that all copies there may have; the least recently used ones which nobody has
            open are removed for a new one, also where the disk is full.

    Raises:
        DataError: if the dataset is not in the store, a shard is missing, truncated or damaged
            (names it, both hashes and the fix), or the cache cannot be written.
    """
    manifest = stored_manifest(store, name, preparation)
    copy = Copy(cache, f"{name}-{preparation}-{manifest.fingerprint}")
    with explain_disk_errors(cache):
        opened = _open(copy, manifest)
        if opened is None:
            cache.mkdir(parents=True, exist_ok=True)
            with copy.writing():
                opened = _open(copy, manifest)
                if opened is None:
                    make_room(copy, manifest.rows * (math.prod(manifest.shape) + ROW_BYTES), cache_bytes)
                    _build(store, manifest, copy)
                    opened = _open(copy, manifest)
    assert opened is not None, f"{copy.folder} was just written whole"
    return opened


def _open(copy: Copy, manifest: Manifest) -> Dataset | None:
    """The cached copy; None where there is none, or not a whole one of this content."""
    use = copy.pin()
    if use is None:
        return None
    opened = _map(copy.folder, manifest)
    if opened is None or not copy.is_used_by(use):
        os.close(use)
        return None
    weakref.finalize(opened, os.close, use)
    with suppress(PermissionError):  # another user's copy: he has it open as often
        os.utime(use)
    return opened


def _map(folder: Path, manifest: Manifest) -> Dataset | None:
    try:
        described = json.loads((folder / USED).read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
    except (OSError, ValueError, EOFError):
        return None
    if described != _description(manifest) or arrays["images"].shape != (manifest.rows, *manifest.shape):
        return None
    return Dataset(
        name=manifest.name,
        preparation=manifest.preparation,
        fingerprint=manifest.fingerprint,
        classes=manifest.classes,
        protocols=manifest.protocols,
        **arrays,
    )


def _description(manifest: Manifest) -> dict[str, Any]:
    return {"fingerprint": manifest.fingerprint, "rows": manifest.rows}


def _build(store: Store, manifest: Manifest, copy: Copy) -> None:
    """Writes the copy beside its place, then renames it: it is there whole or not at all."""
    shutil.rmtree(copy.beside, ignore_errors=True)  # of a process that was killed: the lock is ours
    shutil.rmtree(copy.folder, ignore_errors=True)  # damaged: a whole one is opened, not built
    copy.beside.mkdir()
    try:
        for name, column in _write_images(copy.beside / "images.npy", store, manifest).items():
            _save(copy.beside / f"{name}.npy", column)
        (copy.beside / USED).write_text(json.dumps(_description(manifest)))
        os.replace(copy.beside, copy.folder)
    except BaseException:
        shutil.rmtree(copy.beside, ignore_errors=True)
        raise


def _write_images(path: Path, store: Store, manifest: Manifest) -> dict[str, Array]:
    """Decodes the shards and returns the small columns.

    Raises:
        DataError: if a shard is not what the manifest says, or all of them together are not, which may
            be where the manifest is another set's.
    """
    fingerprint = Fingerprint(manifest.classes, manifest.shape)
    columns: dict[str, list[Array]] = defaultdict(list)
    # Written, not mapped: a full disk is then an error that can be told, and not a bus error.
    with open(path, "wb") as file:
        shape = (manifest.rows, *manifest.shape)
        write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.flush()
        if hasattr(os, "posix_fallocate"):  # no room is then told before anything is fetched
            os.posix_fallocate(file.fileno(), 0, file.tell() + math.prod(shape))
        for rows in _verified_rows(store, manifest):
            file.write(rows.images.data)
            fingerprint.update(rows)
            columns["labels"].append(rows.labels)
            columns["source_split"].append(rows.splits)
            columns["sample_ids"].append(rows.sample_ids)
            columns["groups"].append(rows.groups)
        file.flush()
        os.fsync(file.fileno())
    if fingerprint.hexdigest() != manifest.fingerprint:
        raise DataError(
            f"{manifest.name} ({manifest.preparation}): the shards have fingerprint "
            f"{fingerprint.hexdigest()}, their manifest says {manifest.fingerprint}; {fix(manifest.name)}"
        )
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _verified_rows(store: Store, manifest: Manifest) -> Iterator[Rows]:
    """The rows of each shard, in source order."""
    shards = shard_paths(manifest)

    def rows(path: str) -> Rows:
        data = fetch(store, path)
        found = problem(path, shards[path], data)
        if data is None or found is not None:
            raise DataError(f"{store.url}: {found}; {fix(manifest.name)}")
        return decode(data, manifest.shape)

    return in_order(rows, shards)


def _save(path: Path, array: Array) -> None:
    with open(path, "wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
