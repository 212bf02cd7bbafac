"""Store to arrays: each node decodes a dataset once, and all its trials share the same pages of memory."""

from __future__ import annotations

import json
import math
import os
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

from data.errors import DataError, put_command
from data.storage.cache import ARRAYS, USED, Copy, explain_disk_errors, make_room
from data.storage.manifest import Fingerprint, Manifest, Rows, Store
from data.storage.parallel import map_in_order
from data.storage.parquet import decode
from data.storage.prepare import first_equal, row_fingerprints
from data.storage.shards import compare_shard, fetch, shard_paths, stored_manifest

ROW_BYTES = 256  # estimate for the columns other than the images, per row

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Dataset:
    """A prepared dataset; all arrays are in source order and have N rows.

    The arrays are read-only mappings of files in the node's cache.  All processes of the node share their
    pages.  The kernel reads a page from disk when a trial touches it, and drops it when memory is short.  So
    a dataset may be larger than memory, and only the pages that a trial uses are read.  The cached copy is
    not evicted as long as a Dataset that maps it exists.

    Attributes:
        name, preparation: name of the dataset, and id of how its images were prepared.
        fingerprint: hash of its content.
        classes: class names; a label is an index into them.
        images: uint8 [N, C, S, S].
        labels: int64 [N].
        sample_ids: str [N].
        source_split: str [N], the source's own split: "train", "test", or "all".
        groups: str [N]; samples of one group stay on one side of every split; "" is a group of its own.
        protocols: ids of the legal protocols, from the manifest; () if an older version wrote the manifest.
        first_equal: int64 [N], for each sample the position of the first one with the same pixels; None if no two
            count as equal.
        copy: the copy in the node's cache that the arrays map; None for arrays in memory.
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
    first_equal: npt.NDArray[np.int64] | None = None
    copy: Copy | None = None


def load(store: Store, name: str, preparation: str, cache: Path, cache_bytes: float = math.inf) -> Dataset:
    """Open a stored dataset through this node's cache.

    The first call on a node fetches the shards, checks every byte against the manifest and
    decodes them; later calls map the files that the first one wrote.  Concurrent calls are safe: one
    decodes, the others wait.  If a call is killed, its incomplete copy is never used.  A cached copy
    is used only if its content is what the store has now.

    Args:
        store: open store that holds the dataset.
        name, preparation: name of the dataset, and id of its preparation.
        cache: folder on a local disk; it is made if it does not exist.
        cache_bytes: limit of the size of all copies in the cache.  If a new copy needs room under this limit
            or on the disk, the least recently used copies that no process has open are removed.

    Raises:
        DataError: if the dataset is not in the store, a shard is missing, truncated or damaged, or the cache
            cannot be written.  The message names the fix, and for a shard its path and both hashes.
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
    assert opened is not None, f"{copy.folder} was just written completely"
    return opened


def _open(copy: Copy, manifest: Manifest) -> Dataset | None:
    """Open the cached copy; return None if there is no complete copy of this content."""
    pin = copy.pin()
    if pin is None:
        return None
    opened = _map(copy, manifest)
    if opened is None or not copy.is_used_by(pin):
        os.close(pin)
        return None
    weakref.finalize(opened, os.close, pin)
    with suppress(PermissionError):  # another user owns the copy: that user's own calls record its use
        os.utime(pin)
    return opened


def _map(copy: Copy, manifest: Manifest) -> Dataset | None:
    folder = copy.folder
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
        copy=copy,
        **arrays,
    )


def _description(manifest: Manifest) -> dict[str, Any]:
    return {"fingerprint": manifest.fingerprint, "rows": manifest.rows}


def _build(store: Store, manifest: Manifest, copy: Copy) -> None:
    """Write the copy under a temporary name, then rename it, so that an incomplete copy is never used."""
    copy.remove()  # a killed process has left it, or it is damaged: a complete copy would have been opened
    copy.beside.mkdir()
    try:
        for name, column in _write_images(copy.beside / "images.npy", store, manifest).items():
            _save(copy.beside / f"{name}.npy", column)
        (copy.beside / USED).write_text(json.dumps(_description(manifest)))
        os.replace(copy.beside, copy.folder)
    except BaseException:
        copy.remove()
        raise


def _write_images(path: Path, store: Store, manifest: Manifest) -> dict[str, Array]:
    """Decode the shards, write their images to the file, and return the other columns.

    Raises:
        DataError: if a shard differs from its entry in the manifest, or the whole content differs from the
            manifest's fingerprint, as it does if the manifest belongs to another dataset.
    """
    fingerprint = Fingerprint(manifest.classes, manifest.shape)
    of_rows: list[bytes] = []
    columns: dict[str, list[Array]] = defaultdict(list)
    # The file is written, not mapped: a full disk then raises an OSError instead of killing the process (SIGBUS).
    with open(path, "wb") as file:
        shape = (manifest.rows, *manifest.shape)
        write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.flush()
        if hasattr(os, "posix_fallocate"):  # a full disk then raises an error before any shard is fetched
            os.posix_fallocate(file.fileno(), 0, file.tell() + math.prod(shape))
        for rows in _verified_rows(store, manifest):
            file.write(rows.images.data)
            fingerprint.update(rows)
            of_rows += row_fingerprints(rows.images)
            columns["labels"].append(rows.labels)
            columns["source_split"].append(rows.splits)
            columns["sample_ids"].append(rows.sample_ids)
            columns["groups"].append(rows.groups)
        file.flush()
        os.fsync(file.fileno())
    if fingerprint.hexdigest() != manifest.fingerprint:
        raise DataError(
            f"{manifest.name} ({manifest.preparation}): the shards have fingerprint "
            f"{fingerprint.hexdigest()}, but their manifest has {manifest.fingerprint}; {put_command(manifest.name)}"
        )
    return {**{name: np.concatenate(parts) for name, parts in columns.items()}, "first_equal": first_equal(of_rows)}


def _verified_rows(store: Store, manifest: Manifest) -> Iterator[Rows]:
    """Yield the rows of each shard, in source order, after a check of its hash."""
    shards = shard_paths(manifest)

    def read_rows(path: str) -> Rows:
        data = fetch(store, path)
        damage = compare_shard(path, shards[path], data)
        if data is None or damage is not None:
            raise DataError(f"{store.url}: {damage}; {put_command(manifest.name)}")
        return decode(data, manifest.shape)

    return map_in_order(read_rows, shards)


def _save(path: Path, array: Array) -> None:
    with open(path, "wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
