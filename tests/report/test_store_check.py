"""The check of a store names everything that is damaged, how it is made again, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from data.storage import shards
from sweep.cli.app import app
from sweep.report.store_check import StoreCheck, check_store
from sweep.store.base import Store
from tests.support.made_up import MadeUp

Spoil = Callable[[Store, str], object]


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    made = MadeUp(tmp_path, abnormal=[0, 1], seeds=2)
    made.launch()
    made.ledger.put_ask("s", 0, {"params": {"nz": 8}})
    made.ledger.put_prune("s", 0, {"step": 2})
    made.ledger.put_attempt(made.planned[0].key, {"status": "failed", "cause": "x", "launch": 1})
    shards.put(made.store, "digits", size=16, root=None)
    return made


def check(made: MadeUp) -> StoreCheck:
    return check_store(made.sweep.storage, Console(quiet=True))


def verify(*words: str) -> tuple[int, str]:
    run = CliRunner().invoke(app, ["verify", *words])
    return run.exit_code, run.output


def test_a_whole_store_is_whole(made: MadeUp) -> None:
    found = check(made)
    assert found.damaged == ()
    assert (found.records, found.files, found.datasets) == (6 + 4, 6, 1)
    code, output = verify(made.sweep.storage)
    assert code == 0
    assert "10 records, 6 files of trials, 1 datasets: all are whole" in output


def flip(path: str) -> Spoil:
    def spoil(store: Store, key: str) -> None:
        where = path.format(key=key)
        data = bytearray(store.get(where))
        data[len(data) // 2] ^= 1
        store.put(where, bytes(data))

    return spoil


def edit(store: Store, key: str) -> None:
    path = f"trials/{key}/result.json"
    store.put(path, store.get(path).replace(b'"auroc":0', b'"auroc":1', 1))


SHARD = "datasets/digits/s16-bilinear-1/part-00000.parquet"
SPOILS: list[tuple[Spoil, str, str]] = [
    (edit, "trials/{key}/result.json", "delete trials/{key} there and launch again"),
    (flip("trials/{key}/scores.parquet"), "trials/{key}/scores.parquet", "delete trials/{key} there and launch again"),
    (
        lambda store, key: store.delete(f"trials/{key}/scores.parquet"),
        "trials/{key}/scores.parquet",
        "delete trials/{key} there and launch again",
    ),
    (
        lambda store, key: store.put(f"trials/{key}/attempts/0001.json", b"{}"),
        "trials/{key}/attempts/0001.json",
        "delete trials/{key} there and launch again",
    ),
    (
        lambda store, key: store.put("sweeps/test/specs/0001.json", b"["),
        "sweeps/test/specs/0001.json",
        "restore it from a copy",
    ),
    (
        lambda store, key: store.put("sweeps/test/studies/s/asks/00000.json", b'{"params": 1}'),
        "sweeps/test/studies/s/asks/00000.json",
        "restore it from a copy",
    ),
    (
        lambda store, key: store.put("sweeps/test/studies/s/prunes/00000.json", b'{"step": "x"}'),
        "sweeps/test/studies/s/prunes/00000.json",
        "restore it from a copy",
    ),
    (flip(SHARD), SHARD, "python -m sweep data verify CONFIG --repair"),
    (
        lambda store, key: store.put("datasets/digits/s16-bilinear-1/manifest.json", b"[" * 5000),
        "datasets/digits/s16-bilinear-1/manifest.json",
        "python -m sweep data verify CONFIG --repair",
    ),
]


@pytest.mark.parametrize(("spoil", "path", "fix"), SPOILS, ids=range(len(SPOILS)))
def test_what_is_damaged_is_named_with_the_fix(made: MadeUp, spoil: Spoil, path: str, fix: str) -> None:
    key = made.planned[0].key
    spoil(made.store, key)
    (damage,) = check(made).damaged
    assert (damage.path, damage.fix) == (path.format(key=key), fix.format(key=key))
    code, output = verify(made.sweep.storage, "--json")
    found: dict[str, Any] = json.loads(output)
    assert code == 1
    assert [entry["path"] for entry in found["damaged"]] == [damage.path]
    code, output = verify(made.sweep.storage)
    assert code == 1
    assert output.startswith(f"{damage.path}: ") and "1 are damaged" in output


def test_weights_that_were_deleted_later_are_no_damage_and_changed_ones_are(made: MadeUp) -> None:
    first, second, _, _ = (planned.key for planned in made.planned[:4])
    for key in (first, second):
        path = f"trials/{key}/result.json"
        record = made.ledger.result(key)
        assert record is not None
        hashes = {**record["files"], "weights.safetensors": made.ledger.put_file(key, "weights.safetensors", b"w")}
        made.store.delete(path)
        made.ledger.put_result(key, {**record, "files": hashes})
    made.store.delete(f"trials/{first}/weights.safetensors")
    assert check(made).damaged == ()
    made.store.put(f"trials/{second}/weights.safetensors", b"v")
    assert [damage.path for damage in check(made).damaged] == [f"trials/{second}/weights.safetensors"]


def test_results_of_an_older_version_are_counted_as_not_checked(made: MadeUp) -> None:
    path = f"trials/{made.planned[0].key}/result.json"
    record = json.loads(made.store.get(path))
    made.store.put(path, json.dumps({k: v for k, v in record.items() if k not in ("files", "self_sha256")}).encode())
    found = check(made)
    assert (found.damaged, found.unchecked) == ((), 1)
    assert "not checked: 1 results of an older version, which have no hashes" in found.text()


def test_foreign_files_are_no_damage(made: MadeUp) -> None:
    for path in ("notes", "trials/README", "trials/k/attempts/x", "sweeps/test/specs/notes", "datasets/x/y/z"):
        made.store.put(path, b"x")
    assert check(made).damaged == ()


def test_options_of_a_bundle_are_refused_for_a_store_and_the_other_way_round(made: MadeUp, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["verify", made.sweep.storage, "--rerun", "1"])
    assert "name the zip file of one" in str(run.exception)
    run = CliRunner().invoke(app, ["verify", str(made.bundle(tmp_path / "x.zip")), "--json"])
    assert "name its folder or s3:// address" in str(run.exception)
