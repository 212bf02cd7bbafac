"""Manifest of a stored dataset, which is written last, and the fingerprint of its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from data.errors import DataError, put_command
from data.sources.base import Plain, Skipped

if TYPE_CHECKING:  # plans read manifests, and must not import numpy
    import numpy as np
    import numpy.typing as npt

FORMAT = 3  # format 1 had no groups, protocols or skipped items, and is read as without them; format 2 no `repeats`


class Store(Protocol):
    """Part of an open store's interface that datasets need; paths are relative and "/"-separated."""

    @property
    def url(self) -> str:
        """Address of the store, as a user would write it."""
        ...

    def put_once(self, path: str, data: bytes) -> bool:
        """Write an object; return False, and change nothing, if the path exists already."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Write or replace an object, atomically."""
        ...

    def get(self, path: str) -> bytes:
        """Return the content of an object."""
        ...

    def exists(self, path: str) -> bool:
        """Return True if there is an object with this path."""
        ...

    def get_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield path and content of those objects that exist."""
        ...

    def delete_tree(self, prefix: str) -> None:
        """Remove every object under prefix + "/"."""
        ...


@dataclass(frozen=True, eq=False)
class Rows:
    """Some consecutive samples of a prepared dataset.

    Attributes:
        images: uint8 [n, C, S, S].
        labels: int64 [n].
        splits, sample_ids: str [n].
        groups: str [n]; "" for a sample that is a group of its own.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    splits: npt.NDArray[np.str_]
    sample_ids: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]


class Fingerprint:
    """Hash over class names, pixels, labels, splits, ids and groups (if there are any), computed in source order.

    It depends neither on the boundaries of the shards nor on how Parquet encodes them.
    """

    def __init__(self, classes: tuple[str, ...], shape: tuple[int, int, int]) -> None:
        self._head = json.dumps([classes, shape])
        self._columns = [hashlib.sha256() for _ in range(5)]
        self._grouped = False

    def update(self, rows: Rows) -> None:
        """Add the next rows."""
        pixels, labels, splits, sample_ids, groups = self._columns
        images = rows.images if rows.images.flags.c_contiguous else rows.images.copy()
        pixels.update(images.data)
        labels.update(rows.labels.astype("<i8").tobytes())
        splits.update(_join_with_lengths(rows.splits))
        sample_ids.update(_join_with_lengths(rows.sample_ids))
        groups.update(_join_with_lengths(rows.groups))
        self._grouped |= bool((rows.groups != "").any())

    def hexdigest(self) -> str:
        """Return the hash of all rows so far, as 64 hexadecimal digits."""
        columns = self._columns if self._grouped else self._columns[:-1]
        parts = [self._head, *(column.hexdigest() for column in columns)]
        return sha256("\n".join(parts).encode())


@dataclass(frozen=True)
class Shard:
    """Entry of one shard, a Parquet file, in the manifest.

    Attributes:
        file: name of the file, which is in the manifest's folder.
        rows: number of samples in the file.
        bytes: length of the file.
        sha256: hash of the file, hexadecimal.
        first, stop: the file has items first to stop - 1 of the source; stop is 0 in format 1, which did not record it.
    """

    file: str
    rows: int
    bytes: int
    sha256: str
    first: int = 0
    stop: int = 0


@dataclass(frozen=True)
class Manifest:
    """Description of a stored dataset; a dataset without a manifest counts as not stored.

    Attributes:
        name, preparation: name of the dataset, and id of how its images were prepared.
        fingerprint: hash of the content, see `Fingerprint`.
        rows: number of samples in all shards.
        shape: (C, S, S) of an image.
        classes: class names; a label is an index into them.
        counts: number of samples of each class.
        shards: all shards, in source order.
        protocols: ids that `data.protocols.split` accepts, the default one first.
        parameters: parameters of the preparation: size, interpolation, revision, and those that the source adds.
        versions: versions of the libraries that decoded, resized and wrote the images.
        licence, citation: licence and citation of the source.
        skipped: items that could not be read, if the user chose to skip them.
        duplicates: number of test samples whose prepared image is, pixel for pixel, in the source's train split too;
            for a source without splits, the number of samples that repeat an earlier one.
        repeats: number of samples whose prepared image is, pixel for pixel, that of an earlier one, in either split;
            None up to format 2.
        identity: hash of source, preparation and versions; two calls of `put` with the same one give the same shards.
        format: version of the manifest's format.
    """

    name: str
    preparation: str
    fingerprint: str
    rows: int
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    counts: Mapping[str, int]
    shards: tuple[Shard, ...]
    parameters: Mapping[str, Plain]
    versions: Mapping[str, str]
    licence: str
    citation: str
    protocols: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    duplicates: int = 0
    repeats: int | None = None
    identity: str = ""
    format: int = FORMAT

    def to_json(self) -> bytes:
        """Return readable JSON that includes a hash of itself, so that damage is noticed."""
        fields = json.loads(json.dumps(asdict(self)))
        fields["skipped"] = [skipped._asdict() for skipped in self.skipped]
        return json.dumps({**fields, "self_sha256": _self_sha256(fields)}, indent=1).encode()


class DamagedManifestError(DataError):
    """The manifest in the store is damaged: it differs from what was written."""


class NewerManifestError(DataError):
    """A newer version of this program wrote the manifest; it is not damaged, and writing it again is not the fix."""


def folder(name: str, preparation: str) -> str:
    """Return the path, in the store, of the folder of a dataset's shards and manifest."""
    return f"datasets/{name}/{preparation}"


def manifest_path(name: str, preparation: str) -> str:
    """Return the path, in the store, of a dataset's manifest."""
    return f"{folder(name, preparation)}/manifest.json"


def read_manifest(store: Store, name: str, preparation: str) -> Manifest | None:
    """Return the manifest of a stored dataset; None if the dataset is not stored, or not completely.

    Raises:
        NewerManifestError: if a newer version of this program wrote it.
        DamagedManifestError: if it is damaged; the message names the fix.
    """
    path = manifest_path(name, preparation)
    if not store.exists(path):
        return None
    where = f"{store.url}: {path}"
    try:
        fields: dict[str, Any] = json.loads(store.get(path))
        newer = fields["format"] > FORMAT
        manifest = None if newer else _from_fields(fields)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedManifestError(f"{where}: the manifest is damaged; {put_command(name)}") from error
    if manifest is None:
        raise NewerManifestError(
            f"{where}: format {fields['format']} was written by a newer version of this program, and "
            f"this version reads formats up to {FORMAT}; update the program, or use another store"
        )
    return manifest


def _from_fields(fields: dict[str, Any]) -> Manifest:
    if fields.pop("self_sha256") != _self_sha256(fields):
        raise ValueError("the manifest's hash of itself differs")
    lists = {
        "shape": tuple(fields["shape"]),
        "classes": tuple(fields["classes"]),
        "protocols": tuple(fields.get("protocols", ())),
        "shards": tuple(Shard(**shard) for shard in fields["shards"]),
        "skipped": tuple(Skipped(**skipped) for skipped in fields.get("skipped", ())),
    }
    return Manifest(**{**fields, **lists})


def sha256(data: bytes) -> str:
    """Return the SHA-256 of the data, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _self_sha256(fields: Mapping[str, Any]) -> str:
    return sha256(json.dumps(fields, sort_keys=True).encode())


def _join_with_lengths(texts: npt.NDArray[np.str_]) -> bytes:
    """Join texts, each after its length: without lengths, ("ab", "c") and ("a", "bc") would have the same hash."""
    return "".join(f"{len(text)}:{text}" for text in texts.tolist()).encode()
