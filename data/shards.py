"""Source to store: a dataset becomes Parquet shards of prepared images, and a manifest, last.

Shards keep the order of the source.  A `put` that is killed leaves no manifest, so nothing that
anybody would read; the next one goes on from the shards that stand already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from io import BytesIO
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data.catalog import DatasetInfo, dataset
from data.catalog import preparation as preparation_id
from data.faults import DataError, Fault, mend
from data.manifest import (
    DamagedManifestError,
    Fingerprint,
    Manifest,
    Rows,
    Shard,
    Store,
    folder,
    manifest_path,
    read_manifest,
    sha256,
)
from data.source import Sample, Source

SHARD_BYTES = 16 * 2**20  # of pixels: a fetch worth its round trip, and memory stays flat
ROW_GROUP = 4096
DECODERS = ("numpy", "pillow", "pyarrow", "scikit-learn")

Images = npt.NDArray[np.uint8]
Progress = Callable[[int, int], None]


def put(
    store: Store,
    name: str,
    *,
    size: int,
    root: Path | None,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """Reads a dataset from its source, prepares it and stores it; idempotent.

    Where the same content is stored already, missing or damaged shards are written again and
    nothing else is touched.

    Args:
        store: open store.
        name: of the dataset.
        size: side length of the prepared images, in pixels.
        root: folder of the source's files; None for sources that need none.
        progress: called with (items done, items in all).
        shard_bytes: pixels per shard, at most; changes no content.

    Returns:
        The manifest that now stands in the store.

    Raises:
        ValueError: if name or size is not legal.
        DataError: if the source cannot be read, or other content is stored under this name and
            preparation; says the mend.
    """
    info = dataset(name)
    preparation = preparation_id(name, size)

    def prepare(keep: Callable[[str, bytes], None]) -> Manifest:
        source: Source = import_module(info.source).read(root)
        return _prepare(info, size, source, progress or _quiet, shard_bytes, keep)

    def keep(path: str, data: bytes) -> None:
        if not store.put_once(path, data) and store.get(path) != data:
            store.put(path, data)

    path = manifest_path(name, preparation)
    try:
        stored = read_manifest(store, name, preparation)
    except DamagedManifestError:
        manifest = prepare(keep)
        store.put(path, manifest.to_json())
        return manifest
    if stored is None:
        manifest = prepare(keep)
        if store.put_once(path, manifest.to_json()):
            return manifest
        stored = read_manifest(store, name, preparation)  # another put was faster
        assert stored is not None, f"{path} stands there, and nobody deletes it"
        _refuse_other(store, stored, manifest)
        return stored
    _refuse_other(store, stored, prepare(_nowhere))
    if verify(store, name, preparation):
        manifest = prepare(keep)
        store.put(path, manifest.to_json())
        return manifest
    return stored


def verify(store: Store, name: str, preparation: str) -> list[Fault]:
    """Checks every byte of a stored dataset; a whole one has no faults.

    Raises:
        DataError: if the dataset is not in the store, or its manifest is damaged.
    """
    manifest = stored_manifest(store, name, preparation)
    shards = shard_paths(manifest)
    faults = {path: fault(path, shard, None) for path, shard in shards.items()}
    for path, data in store.get_many(shards):
        faults[path] = fault(path, shards[path], data)
    return [found for found in faults.values() if found is not None]


def stored_manifest(store: Store, name: str, preparation: str) -> Manifest:
    """The manifest of a dataset that must be stored.

    Raises:
        DataError: if it is not, or cannot be read; says the mend.
    """
    manifest = read_manifest(store, name, preparation)
    if manifest is None:
        raise DataError(f"{name} ({preparation}) is not in {store.url}; {mend(name)}")
    return manifest


def shard_paths(manifest: Manifest) -> dict[str, Shard]:
    """Path in the store -> shard, in source order."""
    return {f"{folder(manifest.name, manifest.preparation)}/{shard.file}": shard for shard in manifest.shards}


def fault(path: str, shard: Shard, data: bytes | None) -> Fault | None:
    """What is wrong with a shard of this content (None: there is none); None if nothing."""
    found = None if data is None else sha256(data)
    if found == shard.sha256:
        return None
    return Fault(path, shard.sha256, found, shard.bytes, 0 if data is None else len(data))


def decode(data: bytes, shape: tuple[int, int, int]) -> Rows:
    """The rows of a shard whose hash was checked.

    Args:
        data: of the Parquet file.
        shape: (C, S, S) of its images.
    """
    file = pq.ParquetFile(pa.BufferReader(data))
    grouped = "group" in file.schema_arrow.names  # format 1 had no groups
    columns = ["image", "label", "split", "sample_id", *(["group"] if grouped else [])]
    table = file.read(columns=columns).combine_chunks()
    pixels = np.frombuffer(_chunk(table, "image").buffers()[1], np.uint8, table.num_rows * int(np.prod(shape)))
    return Rows(
        images=pixels.reshape(table.num_rows, *shape),
        labels=_chunk(table, "label").to_numpy(),
        splits=np.array(table.column("split").to_pylist(), dtype=np.str_),
        sample_ids=np.array(table.column("sample_id").to_pylist(), dtype=np.str_),
        groups=np.array(table.column("group").to_pylist() if grouped else [""] * table.num_rows, dtype=np.str_),
    )


def _chunk(table: pa.Table, column: str) -> pa.Array:
    return table.column(column).chunk(0)


def _prepare(
    info: DatasetInfo,
    size: int,
    source: Source,
    progress: Progress,
    shard_bytes: int,
    keep: Callable[[str, bytes], None],
) -> Manifest:
    """Walks the source once, hands every shard to `keep`, and says what the whole is."""
    preparation = preparation_id(info.name, size)
    shape = (info.channels, size, size)
    fingerprint = Fingerprint(info.classes, shape)
    counts: Counter[int] = Counter()
    shards: list[Shard] = []
    done = 0
    step = max(1, shard_bytes // (info.channels * size * size * source.samples_per_item))
    for first in range(0, source.count, step):
        stop = min(first + step, source.count)
        samples = list(source.samples(first, stop))
        rows = _resized(samples, info, size)
        fingerprint.update(rows)
        data = _encode(rows, samples, info.classes)
        shard = Shard(f"part-{len(shards):05d}.parquet", len(samples), len(data), sha256(data))
        keep(f"{folder(info.name, preparation)}/{shard.file}", data)
        shards.append(shard)
        counts.update(rows.labels.tolist())
        done += len(samples)
        progress(stop, source.count)
    return Manifest(
        name=info.name,
        preparation=preparation,
        fingerprint=fingerprint.hexdigest(),
        rows=done,
        shape=shape,
        classes=info.classes,
        counts={title: counts[label] for label, title in enumerate(info.classes)},
        shards=tuple(shards),
        parameters={"size": size, "interpolation": info.interpolation, "revision": info.revision},
        versions={package: version(package) for package in DECODERS},
        licence=info.licence,
        citation=info.citation,
    )


def _resized(samples: list[Sample], info: DatasetInfo, size: int) -> Rows:
    runs = (list(run) for _, run in groupby((sample.image for sample in samples), key=np.shape))
    images = [resize(np.stack(run), size, Image.Resampling[info.interpolation.upper()]) for run in runs]
    return Rows(
        images=np.concatenate(images),
        labels=np.array([sample.label for sample in samples], np.int64),
        splits=np.array([sample.split for sample in samples], np.str_),
        sample_ids=np.array([sample.sample_id for sample in samples], np.str_),
        groups=np.array([sample.group for sample in samples], np.str_),
    )


def resize(images: Images, size: int, resampling: Image.Resampling) -> Images:
    """Resizes many images with Pillow, first along x, then along y.

    Neither pass mixes lines, so the images go through each of them stacked as lines of one tall
    image, ten times faster than alone.  Pillow itself takes y first for some shapes since 13.0;
    here the order, and with it the rounding, is the same in all versions.

    Args:
        images: uint8 [n, C, H, W].
        size: side length of the result, in pixels.
        resampling: Pillow's filter.

    Returns:
        uint8 [n, C, size, size].
    """
    for _ in "xy":
        *stack, lines, length = images.shape
        tall = Image.fromarray(images.reshape(-1, length))
        resized = np.asarray(tall.resize((size, tall.height), resampling))
        images = resized.reshape(*stack, lines, size).swapaxes(-1, -2)
    return np.ascontiguousarray(images)


def _encode(rows: Rows, samples: list[Sample], classes: tuple[str, ...]) -> bytes:
    width = rows.images[0].size
    pixels = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(samples), [None, pa.py_buffer(rows.images)])
    table = pa.table(
        {
            "image": pixels,
            "label": pa.array(rows.labels),
            "class": pa.array([classes[sample.label] for sample in samples]),
            "source": pa.array([sample.source for sample in samples]),
            "split": pa.array([sample.split for sample in samples]),
            "sample_id": pa.array([sample.sample_id for sample in samples]),
            "group": pa.array([sample.group for sample in samples]),
        }
    )
    sink = BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP,
        compression="zstd",
        use_dictionary=["class", "source", "split", "group"],
        write_statistics=["label", "class", "split"],
    )
    return sink.getvalue()


def _refuse_other(store: Store, stored: Manifest, manifest: Manifest) -> None:
    if stored.fingerprint != manifest.fingerprint:
        where = folder(stored.name, stored.preparation)
        raise DataError(
            f"{store.url}: {where} holds other content than this source gives: fingerprint "
            f"{stored.fingerprint} there, {manifest.fingerprint} here (prepared there with "
            f"{_named(stored.versions)}, here with {_named(manifest.versions)}); mend: use the source that "
            f"was stored, or another storage, or delete {where} if no result of it is wanted any more"
        )


def _named(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{package} {number}" for package, number in versions.items())


def _nowhere(path: str, data: bytes) -> None:
    """Keeps nothing: only the content's fingerprint is asked for."""


def _quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""
