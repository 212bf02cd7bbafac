"""A report with all that it was made from in one zip: rows, per-sample scores, results, spec.

    bundle.json            what is in it: the spec, provenance, size and SHA-256 of every other file
    leaderboard.csv        every cell
    results.parquet        every row
    results.json           result records by key
    scores/<key>.parquet   per-sample scores of each finished trial

Who reads one trusts nothing in it: it is read in memory, file by file, names and sizes are checked before
anything is unpacked, and no path in it is ever used on disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.errors import UserError
from sweep.leaderboard.rows import Row, to_parquet
from sweep.spec.trial import KEY_LENGTH
from sweep.store.ledger import canonical_json

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
EPOCH = (1980, 1, 1, 0, 0, 0)  # equal contents make equal bytes
NAMES = re.compile(rf"bundle\.json|leaderboard\.csv|results\.(?:json|parquet)|scores/[0-9a-f]{{{KEY_LENGTH}}}\.parquet")
REQUIRED = ("bundle.json", "leaderboard.csv", "results.json", "results.parquet")

MEMBER_BYTES = 2**30  # of one file, unpacked
TOTAL_BYTES = 2**36
RATIO = 250  # of a file's size to its packed size, from 16 MiB on; records of trials reach about 50
MEMBERS = 1_000_000
VALUES = 2**28  # numbers, or characters, that one table may come to
SCORE_COLUMNS = ("label", "part", "evaluation", "epoch", "score", "reconstruction", "latent")


def pack(
    path: Path,
    rows: Sequence[Row],
    *,
    csv: str,
    results: Mapping[str, Mapping[str, Any]],
    scores: Iterable[tuple[str, bytes]],
    spec: Mapping[str, Any],
    provenance: Mapping[str, object],
) -> int:
    """Write a bundle, whole or not at all; returns how many trials have scores in it.

    Args:
        path: of the zip.
        rows: of `sweep.leaderboard.rows.gather`.
        csv: leaderboard.csv of these rows.
        results: result records of every key of `rows` that has one.
        scores: (key, scores.parquet) of those whose status is "ok".
        spec: "sweep" and "platform" of what is shown.
        provenance: as at the head of a report.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    listed: dict[str, dict[str, Any]] = {}
    try:
        with zipfile.ZipFile(beside, "w") as archive:

            def add(name: str, data: bytes, packing: int = zipfile.ZIP_DEFLATED) -> None:
                listed[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                info = zipfile.ZipInfo(name, EPOCH)
                info.external_attr = 0o644 << 16
                archive.writestr(info, data, packing)

            add("leaderboard.csv", csv.encode())
            add("results.parquet", to_parquet(rows))
            add("results.json", canonical_json(dict(results)).encode())
            for key, data in scores:
                add(f"scores/{key}.parquet", data, zipfile.ZIP_STORED)
            body = {"format": FORMAT, "spec": dict(spec), "provenance": dict(provenance), "files": dict(listed)}
            add("bundle.json", json.dumps(body, indent=1, default=str).encode())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return sum(name.startswith("scores/") for name in listed)


class Bundle:
    """A bundle to read.

    Args:
        path: of the zip.

    Attributes:
        spec, provenance: as packed.
        problems: files that are missing, unlisted, or not what was packed; found as they are read.

    Raises:
        UserError: it is no bundle, or one that must not be unpacked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        try:
            self._archive = zipfile.ZipFile(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise UserError(
                f"{path} is no bundle, or not all of one ({error}); get it again, or pack it again with report --bundle"
            ) from None
        self._members = {info.filename: info for info in self._archive.infolist()}
        problems = list(_hostile(self._archive.infolist()))
        problems += [f"{name} is missing" for name in REQUIRED if name not in self._members]
        if problems:
            raise UserError(problems[:20], heading=f"{path} is not read: no bundle that `report --bundle` wrote")
        body = self.json("bundle.json", listed=False)
        if not isinstance(body, dict) or body.get("format") != FORMAT or not isinstance(body.get("files"), dict):
            raise UserError(f"{path}: bundle.json is not of format {FORMAT}, the one that this version reads")
        self.spec: dict[str, Any] = body.get("spec") or {}
        self.provenance: dict[str, Any] = body.get("provenance") or {}
        self._listed: dict[str, Any] = body["files"]
        there = set(self._members) - {"bundle.json"}
        self.problems += [
            f"{name} is listed in bundle.json and not there" for name in sorted(set(self._listed) - there)
        ]
        self.problems += [
            f"{name} is there and not listed in bundle.json" for name in sorted(there - set(self._listed))
        ]

    def read(self, name: str, *, listed: bool = True) -> bytes:
        """Bytes of a file; what is not as it was packed is noted in `problems`.

        Raises:
            UserError: it is damaged beyond reading.
        """
        try:
            data = self._archive.read(self._members[name])
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError) as error:
            raise UserError(f"{self.path}: {name} cannot be unpacked: {error}") from None
        entry = self._listed.get(name) if listed else None
        if isinstance(entry, dict) and entry.get("sha256") != hashlib.sha256(data).hexdigest():
            problem = f"{name} is not what was packed: its SHA-256 is another"
            self.problems += [] if problem in self.problems else [problem]
        return data

    def json(self, name: str, *, listed: bool = True) -> Any:
        """What a JSON file holds."""
        try:
            return json.loads(self.read(name, listed=listed))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{self.path}: {name} is no readable JSON: {error}") from None

    def rows(self) -> list[Row]:
        """Every row."""
        found: list[Row] = self._table("results.parquet", None).to_pylist()
        return found

    def scored_keys(self) -> set[str]:
        """Keys of trials with scores."""
        return {name[7:-8] for name in self._members if name.startswith("scores/")}

    def scores(self, key: str) -> pa.Table:
        """Per-sample scores of a trial, without the samples' names."""
        return self._table(f"scores/{key}.parquet", SCORE_COLUMNS)

    def _table(self, name: str, columns: Sequence[str] | None) -> pa.Table:
        """A table whose size is known before it is unpacked.

        Raises:
            UserError: it is too large, holds anything but numbers, truth values and short texts, or is
                no Parquet.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        data = self.read(name)
        try:
            file = pq.ParquetFile(io.BytesIO(data))
            schema = file.schema_arrow
            wanted = [column for column in schema.names if columns is None or column in columns]
            texts = [column for column in wanted if pa.types.is_string(schema.field(column).type)]
            simple = (
                pa.types.is_integer,
                pa.types.is_floating,
                pa.types.is_boolean,
                pa.types.is_string,
                pa.types.is_null,
            )
            odd = [c for c in wanted if not any(kind(schema.field(c).type) for kind in simple)]
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            unpacked = sum(group.total_byte_size for group in groups)
            if odd or file.metadata.num_rows * len(wanted) > VALUES or unpacked > MEMBER_BYTES:
                raise UserError(f"{self.path}: {name} is refused: too large, or of columns that no report has {odd}")
            table = pq.read_table(io.BytesIO(data), columns=wanted, read_dictionary=texts)
            for column in texts:
                longest = max(
                    (len(v) for chunk in table[column].chunks for v in chunk.dictionary.to_pylist() if v), default=0
                )
                if longest * table.num_rows > VALUES:
                    raise UserError(f"{self.path}: {name} is refused: {column} has texts of {longest} characters")
            return table.cast(pa.schema([(c, schema.field(c).type) for c in wanted]))
        except (pa.ArrowException, OSError, KeyError) as error:
            raise UserError(f"{self.path}: {name} is no readable table: {error}") from None


def _hostile(members: Sequence[zipfile.ZipInfo]) -> Iterator[str]:
    """Why an archive must not be unpacked."""
    if len(members) > MEMBERS:
        yield f"it has {len(members)} files"
    seen: set[str] = set()
    for info in members:
        if not NAMES.fullmatch(info.filename) or info.orig_filename != info.filename:
            yield f"no bundle has a file {info.filename[:100]!r}"
        if info.filename in seen:
            yield f"{info.filename[:100]!r} is in it twice"
        seen.add(info.filename)
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            yield f"{info.filename[:100]!r} is encrypted or packed in a way that no bundle is"
        large = info.file_size > 2**24 and info.file_size > RATIO * max(1, info.compress_size)
        if info.file_size > MEMBER_BYTES or large:
            yield f"{info.filename[:100]!r} would unpack from {info.compress_size} to {info.file_size} bytes"
    if sum(info.file_size for info in members) > TOTAL_BYTES:
        yield f"it would unpack to more than {TOTAL_BYTES} bytes"
