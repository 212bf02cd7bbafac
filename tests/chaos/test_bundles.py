"""Odd, damaged and hostile bundles: `verify` says what is wrong, imports nothing, and ends in order."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweep.store.records import seal
from tests.support.inputs import (
    Run,
    assert_refused,
    assert_said,
    odd_copies,
    write_bundle,
)
from tests.support.made_up import MadeUp


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("made up")
    made = MadeUp(folder, abnormal=[0, 1], seeds=2)
    made.launch()
    with zipfile.ZipFile(made.bundle(folder / "x.zip")) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("seed", range(4))
def test_odd_types_anywhere_in_the_spec_of_a_bundle(run: Run, packed: Any, seed: int, tmp_path: Path) -> None:
    for body in odd_copies(json.loads(packed["bundle.json"]), seed, 40):
        files = {**packed, "bundle.json": json.dumps(body).encode()}
        assert_said(run("verify", write_bundle(tmp_path / "x.zip", files)))


@pytest.mark.parametrize("seed", range(4))
def test_odd_types_anywhere_in_the_results_of_a_bundle(run: Run, packed: Any, seed: int, tmp_path: Path) -> None:
    results = json.loads(packed["results.json"])
    key = sorted(results)[0]
    for result in odd_copies(results[key], seed, 20):
        for fitted in (result, seal(result) if isinstance(result, dict) else result):
            data = json.dumps({**results, key: fitted}).encode()
            assert_said(run("verify", write_bundle(tmp_path / "x.zip", {**packed, "results.json": data})))


def bytes_of(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


COLUMN_KINDS = [
    pa.array([None]), pa.array([1]), pa.array([float("nan")]), pa.array([float("inf")]), pa.array(["\x1b[31m"]),
    pa.array([True]), pa.array([[1]]), pa.array([{"a": 1}]), pa.array([b"x"]), pa.array([2**63], pa.uint64()),
]  # fmt: skip


@pytest.mark.parametrize("kind", range(len(COLUMN_KINDS)))
def test_odd_columns_in_the_tables_of_a_bundle(run: Run, packed: Any, kind: int, tmp_path: Path) -> None:
    names = ["results.parquet", next(name for name in packed if name.startswith("scores/"))]
    for name in names:
        table = pq.read_table(io.BytesIO(packed[name]))
        for column in random.Random(kind).sample(table.column_names, min(8, len(table.column_names))):
            one = COLUMN_KINDS[kind]
            odd = pa.concat_arrays([one] * len(table))
            changed = table.set_column(table.column_names.index(column), column, odd)
            for data in (bytes_of(changed), bytes_of(table.drop_columns([column]))):
                assert_said(run("verify", write_bundle(tmp_path / "x.zip", {**packed, name: data})))


BODIES: dict[str, dict[str, bytes]] = {
    "deep spec": {"bundle.json": b'{"format": 1, "files": {}, "spec": ' + b"[" * 5000 + b"]" * 5000 + b"}"},
    "deep results": {"results.json": b'{"a":' * 5000 + b"1" + b"}" * 5000},
    "long integer": {"results.json": b'{"a": ' + b"9" * 5000 + b"}"},
    "NaN": {"results.json": b'{"a": NaN}'},
    "list": {"results.json": b"[]", "bundle.json": b"[]"},
    "no text": {"results.json": b"\xff\xfe", "bundle.json": b"\xff\xfe"},
    "no table": {"results.parquet": b"PAR1" + bytes(100) + b"PAR1"},
    "empty table": {"results.parquet": bytes_of(pa.table({}))},
    "odd csv": {"leaderboard.csv": b'"' + b"x" * 200_000},
    "NUL in csv": {"leaderboard.csv": b"a,b\0,c\n" * 3},
    "escapes in csv": {"leaderboard.csv": b"\x1b[31m,\x1b]0;x\x07\n\x1b[2J,1\n"},
}


@pytest.mark.parametrize("change", BODIES.values(), ids=BODIES.keys())
def test_an_odd_file_of_a_bundle(run: Run, packed: Any, change: dict[str, bytes], tmp_path: Path) -> None:
    found = run("verify", write_bundle(tmp_path / "x.zip", {**packed, **change}))
    assert_said(found)
    assert found[0] == 1


def test_a_truncated_or_flipped_bundle(run: Run, packed: Any, tmp_path: Path) -> None:
    whole = write_bundle(tmp_path / "x.zip", packed).read_bytes()
    rng = random.Random(0)
    for number in range(60):
        data = bytearray(whole[: rng.randrange(len(whole))] if number % 2 else whole)
        for _ in range(3):
            if data:
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (tmp_path / "y.zip").write_bytes(bytes(data))
        assert_said(run("verify", tmp_path / "y.zip"))


def in_spec(packed: Any, change: Callable[[dict[str, Any]], object]) -> dict[str, bytes]:
    body = json.loads(packed["bundle.json"])
    change(body["spec"]["sweep"])
    return {**packed, "bundle.json": json.dumps(body).encode()}


def test_2000_studies_in_the_spec_of_a_bundle(run: Run, packed: Any, tmp_path: Path) -> None:
    def change(plan: dict[str, Any]) -> None:
        (study,) = plan["studies"]
        every = {**study, "detectors": ["ganomaly", "knn", "pca"], "seeds": list(range(1000))}
        plan["studies"] = [{**every, "name": f"s{number}"} for number in range(2000)]

    assert_refused(run("verify", write_bundle(tmp_path / "x.zip", in_spec(packed, change))))


EVIL = "tests.chaos.not_to_be_imported:Evil"


@pytest.mark.parametrize(
    "studies",
    [
        lambda study: [{**study, "detectors": [EVIL]}],
        lambda study: [5, {**study, "detectors": [EVIL]}],
        lambda study: [{}, study, {**study, "name": "t", "detectors": [EVIL]}],
        lambda study: [{**study, "detectors": {EVIL: 1}}, study],
        lambda study: {"a": {**study, "detectors": [[EVIL]]}},
    ],
)
@pytest.mark.parametrize("words", [(), ("--rerun", "1")])
def test_no_code_that_a_bundle_names_is_imported(
    run: Run, packed: Any, studies: Callable[[Any], Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    files = in_spec(packed, lambda plan: plan.update(studies=studies(plan["studies"][0])))
    code, text = run("verify", write_bundle(tmp_path / "x.zip", files), *words)
    assert_said((code, text))
    assert "was imported" not in text
    assert EVIL in text
    if words:
        assert code == 1
        assert "add -y" in text
