"""Source to store: write a dataset as Parquet shards of prepared images, and its manifest last.

Shards keep the order of the source; each has a range of its items, and several are made in parallel.  A `put` that is
killed leaves no manifest, so its shards are never read as a dataset.  It leaves a record of each finished shard, from
which the next `put` of the same source continues.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from PIL import Image

from data.catalog import DatasetInfo, open_source
from data.catalog import dataset as dataset_info
from data.errors import DataError, ShardProblem, put_command
from data.sources.base import Plain, Skipped, Source
from data.storage.manifest import (
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
from data.storage.parallel import map_in_order
from data.storage.parquet import decode, encode
from data.storage.prepare import Duplicates, prepare, row_fingerprints

SHARD_BYTES = 16 * 2**20  # bytes of pixels: large compared with the latency of a fetch, and small compared with memory
SHARD_FORMAT = 2  # format of the shards alone: that of the manifest was raised once more
DECODERS = ("numpy", "pillow", "pyarrow", "scikit-learn")

Progress = Callable[[int, int], None]


def put(
    store: Store,
    dataset: str | DatasetInfo,
    *,
    size: int,
    root: Path | None,
    skip_bad: bool = False,
    progress: Progress | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Manifest:
    """Read a dataset from its source, prepare it and store it; the call is idempotent and resumable.

    If the same content is stored already, missing or damaged shards are written again and nothing else is
    changed.  If it was stored from the same source, as `Source.identity` shows, no other shard is prepared.

    Args:
        store: open store.
        dataset: name in the catalog, or the entry of a user's own dataset.
        size: side length of the prepared images, in pixels.
        root: folder of the source's files; None for sources that need none.
        skip_bad: True to skip images that cannot be read; the manifest lists them.
        progress: function that is called with (items done, items in all).
        shard_bytes: approximate bytes of pixels per shard; does not change the content.

    Returns:
        the manifest that is now in the store.

    Raises:
        ValueError: if the name or the size is not legal.
        DataError: if the source cannot be read, or other content is stored under this name and
            preparation; the message names the fix.
    """
    info = dataset_info(dataset) if isinstance(dataset, str) else dataset
    name, preparation = info.name, info.preparation(size)
    source = open_source(info, root, skip_bad)
    step = max(1, shard_bytes // (info.channels * size * size * source.samples_per_item))
    making = _Making(store, info, preparation, size, source, step, progress or _quiet)
    try:
        stored = read_manifest(store, name, preparation)
    except DamagedManifestError:
        return making.replace()
    if stored is None:
        return making.publish()
    same = bool(making.identity) and making.identity == stored.identity
    if not same:
        _refuse_other(store, stored, making.manifest(keep=False))
    problems = verify(store, name, preparation)
    if not problems or making.fix(stored, problems):
        return stored
    if same:
        _refuse_other(store, stored, making.manifest(keep=False))
    return making.replace()


def verify(store: Store, name: str, preparation: str) -> list[ShardProblem]:
    """Check every byte of a stored dataset.

    Returns:
        the missing or damaged shards; an empty list if the dataset is complete.

    Raises:
        DataError: if the dataset is not in the store, or its manifest is damaged.
    """
    shards = shard_paths(stored_manifest(store, name, preparation))
    checked = map_in_order(lambda path: compare_shard(path, shards[path], fetch(store, path)), shards)
    return [damage for damage in checked if damage is not None]


def stored_manifest(store: Store, name: str, preparation: str) -> Manifest:
    """Return the manifest of a dataset that must be stored.

    Raises:
        DataError: if it is not stored, or its manifest cannot be read; the message names the fix.
    """
    manifest = read_manifest(store, name, preparation)
    if manifest is None:
        raise DataError(f"{name} ({preparation}) is not in {store.url}; {put_command(name)}")
    return manifest


def shard_paths(manifest: Manifest) -> dict[str, Shard]:
    """Return a dataset's shards by their paths in the store, in source order."""
    return {f"{folder(manifest.name, manifest.preparation)}/{shard.file}": shard for shard in manifest.shards}


def fetch(store: Store, path: str) -> bytes | None:
    """Return the content of an object in the store; None if there is no such object."""
    return next((data for _, data in store.get_many([path])), None)


def compare_shard(path: str, shard: Shard, data: bytes | None) -> ShardProblem | None:
    """Compare a shard's content with its entry in the manifest.

    Args:
        path: path of the shard in the store.
        shard: its entry in the manifest.
        data: stored content; None if the shard is missing.

    Returns:
        the difference; None if there is none.
    """
    digest = None if data is None else sha256(data)
    if digest == shard.sha256:
        return None
    return ShardProblem(path, shard.sha256, digest, shard.bytes, 0 if data is None else len(data))


@dataclass(frozen=True, eq=False)
class _Made:
    """One shard made of a range of the source's items.

    Attributes:
        shard: its entry in the manifest; None if no item of the range could be read.
        data: content of the Parquet file.
        rows: samples in the shard.
        skipped: items that could not be read.
        fingerprints: hash of each row's image.
    """

    shard: Shard | None
    data: bytes
    rows: Rows
    skipped: tuple[Skipped, ...]
    fingerprints: list[bytes]


@dataclass(frozen=True)
class _Making:
    """One preparation of one source, which is stored or compared with what is stored.

    Attributes:
        step: number of the source's items per shard.
    """

    store: Store
    info: DatasetInfo
    preparation: str
    size: int
    source: Source
    step: int
    progress: Progress

    @cached_property
    def identity(self) -> str:
        """Hash of everything that decides the shards' bytes; "" if the source has no identity."""
        decides = [
            self.source.identity, self.info.name, self.info.classes, self.parameters, self.versions, self.step,
            SHARD_FORMAT,
        ]  # fmt: skip
        return sha256(json.dumps(decides, sort_keys=True).encode()) if self.source.identity else ""

    @cached_property
    def parameters(self) -> dict[str, Plain]:
        own: dict[str, Plain] = {
            "size": self.size,
            "interpolation": self.info.interpolation,
            "revision": self.info.revision,
        }
        return {**own, **self.source.parameters}

    @cached_property
    def versions(self) -> dict[str, str]:
        return {package: version(package) for package in DECODERS}

    def publish(self) -> Manifest:
        """Store all shards that are not stored yet, then the manifest."""
        manifest = self.manifest(keep=True)
        if not self.store.put_once(manifest_path(self.info.name, self.preparation), manifest.to_json()):
            stored = stored_manifest(self.store, self.info.name, self.preparation)  # another `put` was faster
            _refuse_other(self.store, stored, manifest)
            manifest = stored
        self.store.delete_tree(self._records)
        return manifest

    def replace(self) -> Manifest:
        """Store all shards and the manifest, and replace those that are damaged."""
        manifest = self.manifest(keep=True)
        self.store.put(manifest_path(self.info.name, self.preparation), manifest.to_json())
        self.store.delete_tree(self._records)
        return manifest

    def fix(self, stored: Manifest, problems: list[ShardProblem]) -> bool:
        """Make the damaged shards again and store them.

        Returns False at the first shard whose new content differs from its entry in the manifest; that shard is not
        stored.
        """
        shards = shard_paths(stored)
        for damage in problems:
            shard = shards[damage.path]
            made = self._make(shard.first // self.step) if shard.stop else None
            if made is None or made.shard != shard:
                return False
            self.store.put(damage.path, made.data)
        return True

    def manifest(self, *, keep: bool) -> Manifest:
        """Read the source once and return the manifest of its content.

        Args:
            keep: True to store every shard; False to make the shards for comparison only.

        Raises:
            DataError: if the source cannot be read, or gives no image of some class.
        """
        shape = (self.info.channels, self.size, self.size)
        fingerprint = Fingerprint(self.info.classes, shape)
        counts: Counter[int] = Counter()
        duplicates = Duplicates()
        shards: list[Shard] = []
        skipped: list[Skipped] = []
        ranges = range(-(-self.source.count // self.step))
        for number, made in enumerate(map_in_order(self._restore_or_make if keep else self._make, ranges)):
            skipped += made.skipped
            if made.shard is not None:
                shards.append(made.shard)
                fingerprint.update(made.rows)
                duplicates.update(made.rows, made.fingerprints)
                counts.update(made.rows.labels.tolist())
            self.progress(min((number + 1) * self.step, self.source.count), self.source.count)
        if not shards:
            first = f"; the first: {skipped[0].source}: {skipped[0].reason}" if skipped else ""
            raise DataError(f"{self.info.name}: its source gives no image; {len(skipped)} could not be read{first}")
        empty = [title for label, title in enumerate(self.info.classes) if not counts[label]]
        if empty:
            raise DataError(
                f"{self.info.name}: its source gives no image of class {', '.join(empty)} ({len(skipped)} could not be "
                "read), so no trial can use it as normal or abnormal class; fix its images, or leave the class out"
            )
        return Manifest(
            name=self.info.name,
            preparation=self.preparation,
            fingerprint=fingerprint.hexdigest(),
            rows=counts.total(),
            shape=shape,
            classes=self.info.classes,
            counts={title: counts[label] for label, title in enumerate(self.info.classes)},
            shards=tuple(shards),
            parameters=self.parameters,
            versions=self.versions,
            licence=self.info.licence,
            citation=self.info.citation,
            protocols=self.info.protocols,
            skipped=tuple(skipped),
            duplicates=duplicates.count(),
            repeats=duplicates.repeats(),
            identity=self.identity,
        )

    def _restore_or_make(self, number: int) -> _Made:
        """Return a shard that is in the store: one that an earlier `put` finished, or a new one."""
        record = f"{self._records}/{number:05d}.json"
        finished = self._restore(record) if self.identity else None
        if finished is not None:
            return finished
        made = self._make(number)
        if made.shard is not None:
            path = f"{self._folder}/{made.shard.file}"
            if not self.store.put_once(path, made.data) and self.store.get(path) != made.data:
                self.store.put(path, made.data)
        if self.identity:
            shard = None if made.shard is None else asdict(made.shard)
            skipped = [entry._asdict() for entry in made.skipped]
            self.store.put(record, json.dumps({"identity": self.identity, "shard": shard, "skipped": skipped}).encode())
        return made

    def _restore(self, record: str) -> _Made | None:
        """Return the shard of a record that a killed `put` of the same source left; None if it is not complete."""
        data = fetch(self.store, record)
        if data is None:
            return None
        try:
            fields = json.loads(data)
            if fields["identity"] != self.identity or fields["shard"] is None:
                return None
            shard = Shard(**fields["shard"])
            skipped = tuple(Skipped(**entry) for entry in fields["skipped"])
        except (ValueError, TypeError, KeyError):
            return None  # the record is damaged: its shard is made again
        path = f"{self._folder}/{shard.file}"
        data = fetch(self.store, path)
        if data is None or compare_shard(path, shard, data) is not None:
            return None
        rows = decode(data, (self.info.channels, self.size, self.size))
        return _Made(shard, data, rows, skipped, row_fingerprints(rows.images))

    def _make(self, number: int) -> _Made:
        first, stop = number * self.step, min((number + 1) * self.step, self.source.count)
        resampling = Image.Resampling[self.info.interpolation.upper()]
        prepared = prepare(self.source.read(first, stop), self.info.channels, self.size, resampling)
        rows = prepared.rows
        if not len(rows.labels):
            return _Made(None, b"", rows, prepared.skipped, [])
        fingerprints = row_fingerprints(rows.images)
        data = encode(rows, prepared.sources, self.info.classes, fingerprints)
        shard = Shard(f"part-{number:05d}.parquet", len(rows.labels), len(data), sha256(data), first, stop)
        return _Made(shard, data, rows, prepared.skipped, fingerprints)

    @property
    def _folder(self) -> str:
        return folder(self.info.name, self.preparation)

    @property
    def _records(self) -> str:
        return f"{self._folder}/unfinished"


def _refuse_other(store: Store, stored: Manifest, manifest: Manifest) -> None:
    if stored.fingerprint != manifest.fingerprint:
        where = folder(stored.name, stored.preparation)
        raise DataError(
            f"{store.url}: {where} holds other content than this source gives. "
            f"The stored fingerprint is {stored.fingerprint}, made with {_versions_text(stored.versions)}. "
            f"This source's fingerprint is {manifest.fingerprint}, made with {_versions_text(manifest.versions)}; "
            f"fix: use the source that was stored, or another storage, or delete {where} if none of its results is "
            "needed any more"
        )


def _versions_text(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{package} {number}" for package, number in versions.items())


def _quiet(done: int, total: int) -> None:
    """Ignore progress."""
