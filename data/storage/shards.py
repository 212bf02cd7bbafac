"""Source to store: a dataset becomes Parquet shards of prepared images, and a manifest, last.

Shards keep the order of the source, and each is made of a range of its items, side by side.  A `put`
that is killed leaves no manifest, so nothing that anybody would read; it leaves a record of each shard
that it finished, and the next `put` from the same source goes on from these.
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
from data.errors import DataError, Fault, fix
from data.sources.base import Plain, Skipped, Source
from data.storage.manifest import (
    FORMAT,
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
from data.storage.parallel import in_order
from data.storage.parquet import decode, encode
from data.storage.prepare import Duplicates, prepare, row_fingerprints

SHARD_BYTES = 16 * 2**20  # of pixels: a fetch worth its round trip, and memory stays flat
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
    """Reads a dataset from its source, prepares it and stores it; idempotent and resumable.

    Where the same content is stored already, missing or damaged shards are written again and
    nothing else is touched; where it was stored from this very source, as `Source.identity` tells,
    nothing else is prepared, either.

    Args:
        store: open store.
        dataset: a name of the catalog, or a user's own.
        size: side length of the prepared images, in pixels.
        root: folder of the source's files; None for sources that need none.
        skip_bad: go on without images that cannot be read; the manifest lists them.
        progress: called with (items done, items in all).
        shard_bytes: pixels per shard, about; changes no content.

    Returns:
        The manifest that now stands in the store.

    Raises:
        ValueError: if name or size is not legal.
        DataError: if the source cannot be read, or other content is stored under this name and
            preparation; says the fix.
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


def verify(store: Store, name: str, preparation: str) -> list[Fault]:
    """Checks every byte of a stored dataset; a whole one has no problems.

    Raises:
        DataError: if the dataset is not in the store, or its manifest is damaged.
    """
    shards = shard_paths(stored_manifest(store, name, preparation))
    found = in_order(lambda path: problem(path, shards[path], fetch(store, path)), shards)
    return [wrong for wrong in found if wrong is not None]


def stored_manifest(store: Store, name: str, preparation: str) -> Manifest:
    """The manifest of a dataset that must be stored.

    Raises:
        DataError: if it is not, or cannot be read; says the fix.
    """
    manifest = read_manifest(store, name, preparation)
    if manifest is None:
        raise DataError(f"{name} ({preparation}) is not in {store.url}; {fix(name)}")
    return manifest


def shard_paths(manifest: Manifest) -> dict[str, Shard]:
    """Path in the store -> shard, in source order."""
    return {f"{folder(manifest.name, manifest.preparation)}/{shard.file}": shard for shard in manifest.shards}


def fetch(store: Store, path: str) -> bytes | None:
    """An object's content; None where there is none."""
    return next((data for _, data in store.get_many([path])), None)


def problem(path: str, shard: Shard, data: bytes | None) -> Fault | None:
    """What is wrong with a shard of this content (None: there is none); None if nothing."""
    found = None if data is None else sha256(data)
    if found == shard.sha256:
        return None
    return Fault(path, shard.sha256, found, shard.bytes, 0 if data is None else len(data))


@dataclass(frozen=True, eq=False)
class _Made:
    """What became of a range of the source's items.

    Attributes:
        shard: how it is stored; None where no item of the range could be read.
        data: of the shard.
        rows, skipped: what is in it, and what is not.
        fingerprints: of the rows.
    """

    shard: Shard | None
    data: bytes
    rows: Rows
    skipped: tuple[Skipped, ...]
    fingerprints: list[bytes]


@dataclass(frozen=True)
class _Making:
    """One preparation of one source, to be stored or compared.

    Attributes:
        step: items a shard.
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
        """Of everything that decides the shards' bytes; "" where the source does not know its own."""
        decides = [
            self.source.identity, self.info.name, self.info.classes, self.parameters, self.versions, self.step, FORMAT,
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
        """Stores what is not there yet, the manifest last."""
        manifest = self.manifest(keep=True)
        if not self.store.put_once(manifest_path(self.info.name, self.preparation), manifest.to_json()):
            stored = stored_manifest(self.store, self.info.name, self.preparation)  # another put was faster
            _refuse_other(self.store, stored, manifest)
            manifest = stored
        self.store.delete_tree(self._unfinished)
        return manifest

    def replace(self) -> Manifest:
        """Stores it over what is damaged there."""
        manifest = self.manifest(keep=True)
        self.store.put(manifest_path(self.info.name, self.preparation), manifest.to_json())
        self.store.delete_tree(self._unfinished)
        return manifest

    def fix(self, stored: Manifest, problems: list[Fault]) -> bool:
        """Makes the damaged shards again; False where one comes out otherwise than it was, which is not stored."""
        shards = shard_paths(stored)
        for wrong in problems:
            shard = shards[wrong.path]
            made = self._make(shard.first // self.step) if shard.stop else None
            if made is None or made.shard != shard:
                return False
            self.store.put(wrong.path, made.data)
        return True

    def manifest(self, *, keep: bool) -> Manifest:
        """Walks the source once, keeps every shard if it is to be kept, and says what the whole is.

        Raises:
            DataError: if the source cannot be read, or nothing in it.
        """
        shape = (self.info.channels, self.size, self.size)
        fingerprint = Fingerprint(self.info.classes, shape)
        counts: Counter[int] = Counter()
        duplicates = Duplicates()
        shards: list[Shard] = []
        skipped: list[Skipped] = []
        ranges = range(-(-self.source.count // self.step))
        for number, made in enumerate(in_order(self._keep_or_make if keep else self._make, ranges)):
            skipped += made.skipped
            if made.shard is not None:
                shards.append(made.shard)
                fingerprint.update(made.rows)
                duplicates.update(made.rows, made.fingerprints)
                counts.update(made.rows.labels.tolist())
            self.progress(min((number + 1) * self.step, self.source.count), self.source.count)
        if not shards:
            first = f"; the first: {skipped[0].source}: {skipped[0].reason}" if skipped else ""
            raise DataError(f"{self.info.name}: its source gives no image, {len(skipped)} could not be read{first}")
        empty = [title for label, title in enumerate(self.info.classes) if not counts[label]]
        if empty:
            raise DataError(
                f"{self.info.name}: its source gives no image of class {', '.join(empty)} ({len(skipped)} could not be "
                "read): no trial could train on it or hunt it; fix its images, or leave it out"
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
            identity=self.identity,
        )

    def _keep_or_make(self, number: int) -> _Made:
        """The shard of this number, in the store: what an earlier `put` left, or made now."""
        record = f"{self._unfinished}/{number:05d}.json"
        found = self._find_record(record) if self.identity else None
        if found is not None:
            return found
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

    def _find_record(self, record: str) -> _Made | None:
        """What a killed `put` of the same source left, if it is whole."""
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
            return None  # damaged: its shard is made again
        path = f"{self._folder}/{shard.file}"
        data = fetch(self.store, path)
        if data is None or problem(path, shard, data) is not None:
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
    def _unfinished(self) -> str:
        return f"{self._folder}/unfinished"


def _refuse_other(store: Store, stored: Manifest, manifest: Manifest) -> None:
    if stored.fingerprint != manifest.fingerprint:
        where = folder(stored.name, stored.preparation)
        raise DataError(
            f"{store.url}: {where} holds other content than this source gives: fingerprint "
            f"{stored.fingerprint} there, {manifest.fingerprint} here (prepared there with "
            f"{_versions_text(stored.versions)}, here with {_versions_text(manifest.versions)}); fix: use the source "
            f"that was stored, or another storage, or delete {where} if no result of it is wanted any more"
        )


def _versions_text(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{package} {number}" for package, number in versions.items())


def _quiet(done: int, total: int) -> None:
    """Progress that nobody watches."""
