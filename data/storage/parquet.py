"""Conversion of rows to a shard's Parquet file and back.

Columns: image (C x S x S bytes of pixels), label, class, source (the file that the image was read from), split,
sample_id, group, and fingerprint, which is a hash of the row's image.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.storage.manifest import Rows

ROW_GROUP_BYTES = 4 * 2**20  # bytes of pixels in a row group
COMPRESSION_PIECE = 2**18  # bytes of pixels that are compressed as a test


def encode(rows: Rows, sources: list[str], classes: tuple[str, ...], fingerprints: list[bytes]) -> bytes:
    """Encode rows as the Parquet file of a shard.

    Args:
        rows: one or more rows.
        sources: the file that each row was read from.
        classes: class names by label.
        fingerprints: hash of each row's image, all of one length.
    """
    width = rows.images[0].size
    table = pa.table(
        {
            "image": _fixed_size_array(rows.images, width, len(sources)),
            "label": pa.array(rows.labels),
            "class": pa.array([classes[label] for label in rows.labels.tolist()]),
            "source": pa.array(sources),
            "split": pa.array(rows.splits.tolist()),
            "sample_id": pa.array(rows.sample_ids.tolist()),
            "group": pa.array(rows.groups.tolist()),
            "fingerprint": _fixed_size_array(b"".join(fingerprints), len(fingerprints[0]), len(sources)),
        }
    )
    sink = BytesIO()
    pq.write_table(
        table,
        sink,
        row_group_size=max(1, ROW_GROUP_BYTES // width),
        compression=dict.fromkeys(table.column_names, "zstd") | {"image": _compression(rows)},
        use_dictionary=["class", "source", "split", "group"],
        write_statistics=["label", "class", "split"],
    )
    return sink.getvalue()


def decode(data: bytes, shape: tuple[int, int, int]) -> Rows:
    """Decode the rows of a shard, without the columns that no trial needs; the caller has checked its hash.

    Args:
        data: content of the Parquet file.
        shape: (C, S, S) of its images.
    """
    file = pq.ParquetFile(pa.BufferReader(data))
    grouped = "group" in file.schema_arrow.names  # format 1 had no groups
    columns = ["image", "label", "split", "sample_id", *(["group"] if grouped else [])]
    table = file.read(columns=columns, use_threads=False).combine_chunks()
    pixels = np.frombuffer(_chunk(table, "image").buffers()[1], np.uint8, table.num_rows * int(np.prod(shape)))
    return Rows(
        images=pixels.reshape(table.num_rows, *shape),
        labels=_chunk(table, "label").to_numpy(),
        splits=np.array(table.column("split").to_pylist(), dtype=np.str_),
        sample_ids=np.array(table.column("sample_id").to_pylist(), dtype=np.str_),
        groups=np.array(table.column("group").to_pylist() if grouped else [""] * table.num_rows, dtype=np.str_),
    )


def _compression(rows: Rows) -> str:
    """Return "zstd" if it makes a piece of the pixels at least a tenth smaller, else "none".

    Photographs do not get smaller, and reading them would only take longer.
    """
    piece = rows.images.reshape(-1)[:COMPRESSION_PIECE].tobytes()
    return "zstd" if len(pa.compress(piece, "zstd", asbytes=True)) < 0.9 * len(piece) else "none"


def _fixed_size_array(values: object, width: int, count: int) -> pa.FixedSizeBinaryArray:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), count, [None, pa.py_buffer(values)])


def _chunk(table: pa.Table, column: str) -> pa.Array:
    return table.column(column).chunk(0)
