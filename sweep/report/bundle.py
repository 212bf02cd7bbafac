"""Bundle: a report with all its data in one zip (rows, per-sample scores, results, spec).

    bundle.json            spec, provenance, and the size and SHA-256 of every other file
    leaderboard.csv        every cell
    results.parquet        every row
    results.json           result records by key
    scores/<key>.parquet   per-sample scores of each finished trial

A reader of a bundle trusts nothing in it.  Names and sizes are checked before anything is unpacked, files are read one
by one in memory, and no path of the zip is ever used on disk.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep.errors import UserError, shown
from sweep.files import replacing, why_no_file
from sweep.leaderboard.rows import COLUMNS, METRICS, Row, checked_scores, to_parquet
from sweep.spec.trial import SELECTIONS
from sweep.store.records import (
    KEY_LENGTH,
    Record,
    Shape,
    canonical_json,
    matcher,
    mismatch,
    parse_json,
    result_problem,
    shown_name,
)

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
EPOCH = (1980, 1, 1, 0, 0, 0)  # time of every file, so that equal contents give equal bytes
NAMES = re.compile(rf"bundle\.json|leaderboard\.csv|results\.(?:json|parquet)|scores/[0-9a-f]{{{KEY_LENGTH}}}\.parquet")
REQUIRED = ("bundle.json", "leaderboard.csv", "results.json", "results.parquet")

# Limits of what is read, against zip bombs:
MEMBER_BYTES = 2**30  # unpacked bytes of one file
TOTAL_BYTES = 2**36  # unpacked bytes of all files
RATIO = 250  # unpacked / packed bytes of a file above 16 MiB; records of trials reach about 50
MEMBERS = 1_000_000
VALUES = 2**28  # numbers, or characters, of one table
FILE: Shape = {"sha256": str}  # entry of a file in bundle.json
# What zipfile and zlib raise for damaged bytes.
DAMAGED_ZIP = (
    zipfile.BadZipFile, RuntimeError, ValueError, EOFError, KeyError, IndexError, OverflowError, struct.error
)  # fmt: skip
SCORE_COLUMNS = ("sample_id", "label", "part", "evaluation", "epoch", "score", "reconstruction", "latent")


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
    """Write a bundle completely or not at all.

    Args:
        path: path of the zip.
        rows: rows of `sweep.leaderboard.rows.build_rows`.
        csv: text of leaderboard.csv for these rows.
        results: result records by key, for every key of `rows` that has one.
        scores: (key, bytes of scores.parquet) for each result with status "ok".
        spec: "sweep" and "platform" of the report.
        provenance: provenance of the report.

    Returns:
        Number of trials whose scores were packed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    listed: dict[str, dict[str, Any]] = {}
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:

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
    return sum(name.startswith("scores/") for name in listed)


class Bundle:
    """Bundle opened for reading.

    Args:
        path: path of the zip.

    Attributes:
        path: path of the zip.
        spec, provenance: as they were packed.
        problems: one text for each file that is missing, unlisted or changed.  A changed file is found when it is read.

    Raises:
        UserError: the file is not a bundle, or it is unsafe to unpack.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        if reason := why_no_file(path):
            raise UserError(f"{path} cannot be read: {reason}")
        try:
            self._archive = zipfile.ZipFile(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
        except DAMAGED_ZIP as error:
            raise UserError(
                f"{path} is not a bundle, or it is incomplete ({error}); get it again, or pack it again with "
                "report --bundle"
            ) from None
        self._members = {info.filename: info for info in self._archive.infolist()}
        problems = list(_hostile(self._archive.infolist()))
        problems += [f"{name} is missing" for name in REQUIRED if name not in self._members]
        if problems:
            raise UserError(problems[:20], heading=f"{path} was rejected: it is not a bundle of `report --bundle`")
        body = self.json("bundle.json", listed=False)
        if not isinstance(body, dict) or body.get("format") != FORMAT or not isinstance(body.get("files"), dict):
            raise UserError(f"{path}: bundle.json does not have format {FORMAT}, the only one that this version reads")
        problem = mismatch(body, {"spec?": (dict, None), "provenance?": (dict, None), "files": {str: FILE}})
        if problem is not None:
            raise UserError(f"{path}: bundle.json is not as `report --bundle` writes it: {problem}")
        self.spec: dict[str, Any] = body.get("spec") or {}
        self.provenance: dict[str, Any] = body.get("provenance") or {}
        self._listed: dict[str, Any] = body["files"]
        present = set(self._members) - {"bundle.json"}
        self.problems += [
            f"{name} is listed in bundle.json but missing" for name in sorted(set(self._listed) - present)
        ]
        self.problems += [
            f"{name} is present but not listed in bundle.json" for name in sorted(present - set(self._listed))
        ]

    def read(self, name: str, *, listed: bool = True) -> bytes:
        """Return the bytes of a file, and add it to `problems` if it was changed after packing.

        Args:
            name: name in the zip.
            listed: compare the SHA-256 with the list in bundle.json.

        Raises:
            UserError: the file cannot be unpacked.
        """
        try:
            data = self._archive.read(self._members[name])
        except (OSError, zlib.error, *DAMAGED_ZIP) as error:
            raise UserError(f"{self.path}: {name} cannot be unpacked: {error}") from None
        entry = self._listed.get(name) if listed else None
        if entry is not None and entry["sha256"] != hashlib.sha256(data).hexdigest():
            problem = f"{name} was changed after packing: its SHA-256 differs"
            self.problems += [] if problem in self.problems else [problem]
        return data

    def json(self, name: str, *, listed: bool = True) -> Any:
        """Return the contents of a JSON file.

        Raises:
            UserError: the file cannot be unpacked, or is not JSON.
        """
        try:
            return parse_json(self.read(name, listed=listed))
        except ValueError as error:
            raise UserError(f"{self.path}: {name} is not readable JSON: {error}") from None

    def results(self) -> tuple[dict[str, Record], list[str]]:
        """Return the results by key, and a text for each entry that is none.

        Raises:
            UserError: the file cannot be unpacked, or does not contain results.
        """
        found = self.json("results.json")
        if not isinstance(found, dict):
            raise UserError(f"{self.path}: results.json must have results by key, is {shown(found)}")
        problems = {key: result_problem(key, result) for key, result in found.items()}
        results = {key: result for key, result in found.items() if problems[key] is None}
        return results, [f"trial {shown_name(key)}: {text}" for key, text in sorted(problems.items()) if text]

    def rows(self) -> list[Row]:
        """Return every row of results.parquet.

        Raises:
            UserError: the table is damaged, or refused as too large.
        """
        rows: list[Row] = self._table("results.parquet", None).to_pylist()
        problem = next((text for number, row in enumerate(rows) if (text := _row_problem(number, row))), None)
        if problem is not None:
            raise UserError(f"{self.path}: results.parquet is not as `report --bundle` writes it: {problem}")
        return rows

    def scored_keys(self) -> set[str]:
        """Return the keys of the trials with scores."""
        return {name[7:-8] for name in self._members if name.startswith("scores/")}

    def scores(self, key: str) -> pa.Table:
        """Return the per-sample scores of a trial, with the columns of `SCORE_COLUMNS` that it has.

        Raises:
            UserError: the table is damaged, or refused as too large.
        """
        try:
            return checked_scores(self._table(f"scores/{key}.parquet", SCORE_COLUMNS))
        except ValueError as error:
            raise UserError(f"{self.path}: scores/{key}.parquet: {error}") from None

    def sha256(self, key: str) -> str:
        """Return the SHA-256 of a trial's scores."""
        return hashlib.sha256(self.read(f"scores/{key}.parquet")).hexdigest()

    def _table(self, name: str, columns: Sequence[str] | None) -> pa.Table:
        """Read a table, after a check of its size before unpacking.

        Raises:
            UserError: the table is too large, has a column that is not of numbers, booleans or short texts, or is not
                Parquet.
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
                raise UserError(f"{self.path}: {name} is refused: too large, or with columns of unexpected types {odd}")
            table = pq.read_table(io.BytesIO(data), columns=wanted, read_dictionary=texts)
            for column in texts:
                longest = max(
                    (len(v) for chunk in table[column].chunks for v in chunk.dictionary.to_pylist() if v), default=0
                )
                if longest * table.num_rows > VALUES:
                    raise UserError(f"{self.path}: {name} is refused: {column} has texts of {longest} characters")
            return table.cast(pa.schema([(c, schema.field(c).type) for c in wanted]))
        except (pa.ArrowException, OSError, KeyError, ValueError, OverflowError) as error:
            raise UserError(f"{self.path}: {name} is not a readable table: {error}") from None


def _row_problem(number: int, row: Row) -> str | None:
    """Return what no row of a report has: a name, seed or metric that is missing, or a value of another type."""
    finished = row.get("status") == "ok"
    if (_FITS_FINISHED_ROW if finished else _FITS_ROW)(row) and all(map(_FITS_CELL, row.values())):
        return None
    shape = _FINISHED_ROW if finished else _ROW
    return mismatch(row, shape, f"row {number}") or mismatch(row, {str: _CELL}, f"row {number}")


_NAMES = ("key", "study", "detector", "variant", "dataset", "protocol", "abnormal", "evaluation", "status")
_ROW: Shape = {
    **{f"{name}?": (kind, None) for name, kind in COLUMNS.items()},
    **dict.fromkeys(_NAMES, str), "selection": frozenset(SELECTIONS), "split_seed": int, "seed": int,
}  # fmt: skip
_ROW = {name: kind for name, kind in _ROW.items() if not (name.endswith("?") and name[:-1] in _ROW)}
_FINISHED_ROW: Shape = {
    **{name: kind for name, kind in _ROW.items() if name.removesuffix("?") not in METRICS},
    **{name: COLUMNS[name] for name in METRICS if name != "auroc_se"}, "epoch": int, "auroc_se?": (float, None),
}  # fmt: skip
_CELL: Shape = (str, int, float, bool, None)
_FITS_ROW, _FITS_FINISHED_ROW, _FITS_CELL = matcher(_ROW), matcher(_FINISHED_ROW), matcher(_CELL)


def _hostile(members: Sequence[zipfile.ZipInfo]) -> Iterator[str]:
    """Yield each reason why an archive must not be unpacked."""
    if len(members) > MEMBERS:
        yield f"it has {len(members)} files, more than {MEMBERS}"
    seen: set[str] = set()
    for info in members:
        if not NAMES.fullmatch(info.filename) or info.orig_filename != info.filename:
            yield f"it has an unexpected file {info.filename[:100]!r}"
        if info.filename in seen:
            yield f"it has more than one file {info.filename[:100]!r}"
        seen.add(info.filename)
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            yield f"{info.filename[:100]!r} is encrypted, or compressed by a method that no bundle uses"
        large = info.file_size > 2**24 and info.file_size > RATIO * max(1, info.compress_size)
        if info.file_size > MEMBER_BYTES or large:
            yield f"{info.filename[:100]!r} would unpack from {info.compress_size} to {info.file_size} bytes"
    if sum(info.file_size for info in members) > TOTAL_BYTES:
        yield f"it would unpack to more than {TOTAL_BYTES} bytes"
