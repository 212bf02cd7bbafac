"""The ledger: append-only records of launches, candidates, attempts and results in a store.

    trials/<key>/result.json                        result of a finished trial, shared by every sweep
    trials/<key>/attempts/<n>.json                  an attempt that ended without a result, with its cause
    sweeps/<id>/specs/<n>.json                      the spec of one launch
    sweeps/<id>/studies/<study>/asks/<n>.json       a candidate that Optuna proposed
    sweeps/<id>/studies/<study>/prunes/<n>.json     the decision to give up a candidate, and its step

The ledger is the only source of truth.  No record is ever changed.  "Running" is not recorded, because
that record would be wrong after a crash.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from zipfile import BadZipFile

from sweep.store.base import ObjectNotFound, Store, StoreError

Record = dict[str, Any]


class Damaged(StoreError):
    """Damage: an object of the store no longer has the content that was written."""


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn errors from decoding an object's bytes inside the block into `Damaged`.

    Raises:
        Damaged: the bytes cannot be decoded; names the object and the fix.
    """
    try:
        yield
    except (ValueError, KeyError, EOFError, OSError, zlib.error, BadZipFile) as error:
        why = str(error).strip().split("\n")[0] or type(error).__name__
        trial = path.startswith("trials/")
        fix = f"delete {'/'.join(path.split('/')[:2])} there and launch again" if trial else "restore it from a copy"
        raise Damaged(f"{path} in the store is damaged ({why}); {fix}") from None


class Index(NamedTuple):
    """Keys of finished trials, and the paths of attempts by key, oldest first."""

    finished: set[str]
    attempts: dict[str, list[str]]


class Ledger:
    """Records in one store.  `sweep` is the id under which launches and searches are recorded."""

    def __init__(self, store: Store, sweep: str) -> None:
        self.store = store
        self.sweep = sweep

    # -- trials ---------------------------------------------------------------------------------

    def index(self) -> Index:
        """Return which trials have a result, and the paths of all attempts, from one listing of the store."""
        finished, attempts = set(), dict[str, list[str]]()
        for path in self.store.list("trials"):
            _, key, rest = path.split("/", 2)
            if rest == "result.json":
                finished.add(key)
            elif rest.startswith("attempts/"):
                attempts.setdefault(key, []).append(path)
        return Index(finished, attempts)

    def results(self, keys: Iterable[str]) -> dict[str, Record]:
        """Return results by key, for those of `keys` that have one."""
        paths = [f"trials/{key}/result.json" for key in keys]
        return {path.split("/")[1]: _record(path, data) for path, data in self.store.get_many(paths)}

    def result(self, key: str) -> Record | None:
        """Return the result of one trial; None if it has none yet."""
        return self._read(f"trials/{key}/result.json")

    def put_result(self, key: str, result: Record) -> bool:
        """Store a result.  Return False if another run of this trial stored one first; that one is kept."""
        return self.store.put_once(f"trials/{key}/result.json", _encode(result))

    def attempts(self, index: Index, keys: Iterable[str]) -> dict[str, list[Record]]:
        """Return attempts by key, oldest first, for those of `keys` that have any."""
        paths = [path for key in keys for path in index.attempts.get(key, ())]
        found: dict[str, list[Record]] = {}
        for path, data in self.store.get_many(paths):
            found.setdefault(path.split("/")[1], []).append(_record(path, data))
        return found

    def attempts_of(self, key: str) -> list[Record]:
        """Return the attempts of one trial, oldest first."""
        paths = [f"trials/{key}/attempts/{name}" for name in self.store.names(f"trials/{key}/attempts")]
        return [_record(path, data) for path, data in self.store.get_many(paths)]

    def put_attempt(self, key: str, attempt: Record) -> int:
        """Append an attempt, and return its number, from 1."""
        number = len(self.store.names(f"trials/{key}/attempts")) + 1
        while not self.store.put_once(f"trials/{key}/attempts/{number:04d}.json", _encode(attempt)):
            number += 1
        return number

    # -- launches -------------------------------------------------------------------------------

    def specs(self) -> list[Record]:
        """Return the resolved spec of every launch of this sweep, oldest first."""
        paths = list(self.store.list(f"sweeps/{self.sweep}/specs"))
        return [_record(path, data) for path, data in sorted(self.store.get_many(paths))]

    def spec(self, number: int) -> Record | None:
        """Return the spec of the launch with this number; None if there is none."""
        return self._read(f"sweeps/{self.sweep}/specs/{number:04d}.json")

    def put_spec(self, spec: Record) -> int:
        """Append the spec of a new launch, and return its number, from 1."""
        number = len(self.store.names(f"sweeps/{self.sweep}/specs")) + 1
        while not self.store.put_once(f"sweeps/{self.sweep}/specs/{number:04d}.json", _encode(spec)):
            number += 1
        return number

    # -- searches -------------------------------------------------------------------------------

    def asks(self, study: str) -> dict[int, Record]:
        """Return the candidates of a search by number."""
        return self._read_numbered(f"sweeps/{self.sweep}/studies/{study}/asks")

    def put_ask(self, study: str, number: int, ask: Record) -> Record:
        """Record a candidate, and return the record that is stored: this one, or an earlier one of that number."""
        return self._put_once(f"sweeps/{self.sweep}/studies/{study}/asks/{number:05d}.json", ask)

    def prunes(self, study: str) -> dict[int, Record]:
        """Return the prune decisions of a search by candidate number."""
        return self._read_numbered(f"sweeps/{self.sweep}/studies/{study}/prunes")

    def put_prune(self, study: str, number: int, prune: Record) -> Record:
        """Record that a candidate was given up, and return the record that is stored, maybe an earlier one."""
        return self._put_once(f"sweeps/{self.sweep}/studies/{study}/prunes/{number:05d}.json", prune)

    # -- objects --------------------------------------------------------------------------------

    def _read_numbered(self, prefix: str) -> dict[int, Record]:
        found = self.store.get_many(list(self.store.list(prefix)))
        return {int(path.rsplit("/", 1)[1].removesuffix(".json")): _record(path, data) for path, data in found}

    def _put_once(self, path: str, record: Record) -> Record:
        if self.store.put_once(path, _encode(record)):
            return record
        return _record(path, self.store.get(path))

    def _read(self, path: str) -> Record | None:
        try:
            return _record(path, self.store.get(path))
        except ObjectNotFound:
            return None


def _record(path: str, data: bytes) -> Record:
    with reading(path):
        record = json.loads(data)
        if not isinstance(record, dict) or not record:
            raise ValueError("not a record")
        if path.startswith("trials/") and not isinstance(record.get("status"), str):
            raise ValueError('it does not contain how the trial ended (key "status")')
        return record


def _encode(record: Mapping[str, Any]) -> bytes:
    return canonical_json(dict(record)).encode()


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, shortest decimals that read back equal."""
    return _ENCODER.encode(value)
