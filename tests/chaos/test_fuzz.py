"""Fuzzers of everything that reads strangers' bytes: only our own errors may leave a reader.

SWEEP_FUZZ_SECONDS is the time of each fuzzer, and SWEEP_FUZZ_SEED chooses other inputs.  A failure shows the input.
"""

from __future__ import annotations

import json
import os
import random
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from data.errors import DataError
from data.storage import shards
from data.storage.manifest import read_manifest
from sweep.errors import UserError
from sweep.report.bundle import Bundle
from sweep.report.verify import verify
from sweep.spec import yamlfile
from sweep.spec.load import resolve
from sweep.store import launch_status
from sweep.store.base import StoreError
from sweep.store.ledger import Ledger
from tests.chaos.test_inputs import CORPUS, MADE
from tests.support.inputs import ODD, places, replaced, write_bundle
from tests.support.made_up import MadeUp

SECONDS = float(os.environ.get("SWEEP_FUZZ_SECONDS", "2"))
SEED = int(os.environ.get("SWEEP_FUZZ_SEED", "0"))
OURS = (UserError, StoreError, DataError)
SYNTAX = [
    b"[",
    b"]",
    b"{",
    b"}",
    b"&a ",
    b"*a",
    b"<<: ",
    b"!!",
    b"\n",
    b"\t",
    b"- ",
    b": ",
    b"'",
    b'"',
    b"\\0",
    b"9" * 50,
]


def spoil(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with a few random changes: flips, cuts, repeats, and pieces of syntax."""
    made = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(made) + 1)
        match rng.randrange(5):
            case 0 if made:
                made[at % len(made)] ^= 1 << rng.randrange(8)
            case 1:
                del made[at : at + rng.randrange(1, 40)]
            case 2:
                made[at:at] = made[at : at + rng.randrange(1, 40)] * rng.randrange(1, 4)
            case 3:
                made[at:at] = rng.choice(SYNTAX)
            case _:
                del made[at:]
    return bytes(made)


def rounds(name: str) -> Iterator[random.Random]:
    """Yield a random generator for each round, until the time is over; a failure names the round."""
    until, number = time.monotonic() + SECONDS, 0
    while time.monotonic() < until or number < 20:
        yield random.Random(f"{name} {SEED} {number}")
        number += 1


def assert_ours(read: Callable[[], object], what: object) -> None:
    try:
        read()
    except OURS as error:
        assert str(error), what
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} left the reader of {what!r}") from error


def odd(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with odd values at one or two random places."""
    for _ in range(rng.randint(1, 2)):
        value = replaced(value, rng.choice(list(places(value))), rng.choice(ODD))
    return value


def test_yaml() -> None:
    texts = [*(path.read_bytes() for path in CORPUS), *(data for data in MADE.values() if len(data) < 10_000)]
    for rng in rounds("yaml"):
        text = spoil(rng.choice(texts), rng).decode("utf-8", "replace")
        assert_ours(lambda text=text: yamlfile.parse(text, "x.yaml"), text)  # type: ignore[misc]


def test_values_of_a_spec(tmp_path: Path) -> None:
    made = MadeUp(tmp_path, abnormal=[0], seeds=1)
    written = yaml.safe_load(made.config.read_text())
    whole = {
        **written,
        "trial": made.sweep.trial.model_dump(mode="json"),
        "budget": {"max_hours": 1, "max_usd": 1},
        "cluster": {"provider": "aws", "zones": ["us-east-1a"], "tags": {"a": "b"}},
    }
    for rng in rounds("spec"):
        body = odd(rng.choice([written, whole]), rng)
        if isinstance(body, dict):
            assert_ours(lambda body=body: resolve(body), body)  # type: ignore[misc]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    made = MadeUp(tmp_path_factory.mktemp("made up"), abnormal=[0], seeds=2)
    made.launch()
    shards.put(made.store, "digits", size=16, root=None)
    launch_status.write(made.store, "test", launch_status.LaunchStatus(1, "running"))
    made.ledger.put_attempt("k", {"status": "failed", "cause": "x", "launch": 1})
    made.ledger.put_ask("s", 0, {"params": {"nz": 8}})
    made.ledger.put_prune("s", 0, {"step": 1})
    return made


def test_objects_of_a_store(made: MadeUp) -> None:
    key = made.planned[0].key
    readers: dict[str, Callable[[], object]] = {
        f"trials/{key}/result.json": lambda: Ledger(made.store, "test").result(key),
        f"trials/{key}/scores.parquet": lambda: Ledger(made.store, "test").file(key, "scores.parquet"),
        "trials/k/attempts/0001.json": lambda: Ledger(made.store, "test").attempts_of("k"),
        "sweeps/test/specs/0001.json": lambda: Ledger(made.store, "test").specs(),
        "sweeps/test/studies/s/asks/00000.json": lambda: Ledger(made.store, "test").asks("s"),
        "sweeps/test/studies/s/prunes/00000.json": lambda: Ledger(made.store, "test").prunes("s"),
        "sweeps/test/head.json": lambda: launch_status.read(made.store, "test"),
        "datasets/digits/s16-bilinear-1/manifest.json": lambda: read_manifest(made.store, "digits", "s16-bilinear-1"),
    }
    whole = {path: made.store.get(path) for path in readers}
    for rng in rounds("store"):
        path = rng.choice(list(readers))
        data = whole[path]
        if path.endswith(".json") and rng.randrange(2):
            data = json.dumps(odd(json.loads(data), rng)).encode()
        else:
            data = spoil(data, rng)
        made.store.put(path, data)
        assert_ours(readers[path], (path, data[:500]))
        made.store.put(path, whole[path])


def test_bundles(made: MadeUp, tmp_path: Path) -> None:
    path = made.bundle(tmp_path / "whole.zip")
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    packed = path.read_bytes()
    for rng in rounds("bundle"):
        name = rng.choice(list(files))
        changed = tmp_path / "changed.zip"
        if not rng.randrange(3):
            changed.write_bytes(spoil(packed, rng))
        elif name.endswith(".json") and rng.randrange(2):
            write_bundle(changed, {**files, name: json.dumps(odd(json.loads(files[name]), rng)).encode()})
        else:
            write_bundle(changed, {**files, name: spoil(files[name], rng)})
        assert_ours(lambda changed=changed: verify(Bundle(changed)), name)  # type: ignore[misc]
