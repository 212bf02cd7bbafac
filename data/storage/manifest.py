"""What stands in the store about a dataset: its manifest, written last, and its content's hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from data.errors import DataError, fix
from data.sources.base import Plain, Skipped

if TYPE_CHECKING:  # plans read manifests without numpy
    import numpy as np
    import numpy.typing as npt

FORMAT = 2  # 1 had neither groups, protocols nor what was skipped; it is read as having none


class Store(Protocol):
    """The part of an open store that datasets need; paths are relative, "/"-separated."""

    @property
    def url(self) -> str:
        """As a user would write it."""
        ...

    def put_once(self, path: str, data: bytes) -> bool:
        """True if written whole; False if something stood there already, which is untouched."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Replaces atomically."""
        ...

    def get(self, path: str) -> bytes:
        """The whole object."""
        ...

    def exists(self, path: str) -> bool:
        """Whether an object stands there."""
        ...

    def get_many(self, paths: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Path and content of those that exist."""
        ...

    def delete_tree(self, prefix: str) -> None:
        """Removes every object under prefix + "/"."""
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
    """Hash over class names, pixels, labels, splits, ids and, where there are any, groups, fed in source order.

    Neither where shards begin nor how Parquet encodes them changes it.
    """

    def __init__(self, classes: tuple[str, ...], shape: tuple[int, int, int]) -> None:
        self._head = json.dumps([classes, shape])
        self._columns = [hashlib.sha256() for _ in range(5)]
        self._grouped = False

    def update(self, rows: Rows) -> None:
        """Takes in the next rows."""
        pixels, labels, splits, sample_ids, groups = self._columns
        images = rows.images if rows.images.flags.c_contiguous else rows.images.copy()
        pixels.update(images.data)
        labels.update(rows.labels.astype("<i8").tobytes())
        splits.update(_join_with_lengths(rows.splits))
        sample_ids.update(_join_with_lengths(rows.sample_ids))
        groups.update(_join_with_lengths(rows.groups))
        self._grouped |= bool((rows.groups != "").any())

    def hexdigest(self) -> str:
        """64 hexadecimal digits for all rows so far."""
        columns = self._columns if self._grouped else self._columns[:-1]
        parts = [self._head, *(column.hexdigest() for column in columns)]
        return sha256("\n".join(parts).encode())


@dataclass(frozen=True)
class Shard:
    """One Parquet file.

    Attributes:
        file: name beside the manifest.
        rows: samples in it.
        bytes: length of the file.
        sha256: of the file.
        first, stop: it holds items first to stop - 1 of the source; stop 0 in format 1, which did not say.
    """

    file: str
    rows: int
    bytes: int
    sha256: str
    first: int = 0
    stop: int = 0


@dataclass(frozen=True)
class Manifest:
    """What a stored dataset is; a dataset without a manifest is not there.

    Attributes:
        name, preparation: which dataset, and the id of how its images were prepared.
        fingerprint: hash of the content, see `Fingerprint`.
        rows: samples in all shards.
        shape: (C, S, S) of an image.
        classes: class names; a label is an index into them.
        counts: samples of each class.
        shards: in source order.
        protocols: ids understood by `data.protocols.split`, the default one first.
        parameters: of the preparation: size, interpolation, revision, and what the source adds.
        versions: of the libraries that decoded, resized and wrote.
        licence, citation: of the source.
        skipped: what could not be read, where the user chose to go on without it.
        duplicates: samples whose prepared image stands, pixel for pixel, in the source's other split, too;
            of a source without splits those that repeat an earlier one.
        identity: of source, preparation and versions; a `put` with the same one gives the same shards.
        format: version of this layout.
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
    identity: str = ""
    format: int = FORMAT

    def to_json(self) -> bytes:
        """Readable JSON with a hash of itself, so that a damaged manifest is noticed."""
        fields = json.loads(json.dumps(asdict(self)))
        fields["skipped"] = [skipped._asdict() for skipped in self.skipped]
        return json.dumps({**fields, "self_sha256": _self_sha256(fields)}, indent=1).encode()


class DamagedManifestError(DataError):
    """The manifest in the store is not what was written."""


class NewerManifestError(DataError):
    """A newer version of this program wrote the manifest: it is not damaged, and nothing here fixes it."""


def folder(name: str, preparation: str) -> str:
    """Path in the store of a dataset's shards and manifest."""
    return f"datasets/{name}/{preparation}"


def manifest_path(name: str, preparation: str) -> str:
    """Path in the store of a dataset's manifest."""
    return f"{folder(name, preparation)}/manifest.json"


def read_manifest(store: Store, name: str, preparation: str) -> Manifest | None:
    """The manifest of a stored dataset; None where the dataset is not (wholly) stored.

    Raises:
        NewerManifestError: if a newer version wrote it.
        DamagedManifestError: if it is damaged; says the fix.
    """
    path = manifest_path(name, preparation)
    if not store.exists(path):
        return None
    where = f"{store.url}: {path}"
    try:
        fields: dict[str, Any] = json.loads(store.get(path))
        newer = fields["format"] > FORMAT
        manifest = None if newer else _from_fields(fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedManifestError(f"{where}: the manifest is damaged; {fix(name)}") from error
    if manifest is None:
        raise NewerManifestError(
            f"{where}: format {fields['format']} was written by a newer version of this program, and "
            f"this one reads up to {FORMAT}; update it, or use another store"
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
    """64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _self_sha256(fields: Mapping[str, Any]) -> str:
    return sha256(json.dumps(fields, sort_keys=True).encode())


def _join_with_lengths(texts: npt.NDArray[np.str_]) -> bytes:
    """Without the lengths, ("ab", "c") and ("a", "bc") would hash alike."""
    return "".join(f"{len(text)}:{text}" for text in texts.tolist()).encode()
