"""The ledger: append-only records of launches, candidates, attempts and results in a store.

    trials/<key>/result.json                        result of a finished trial, shared by every sweep
    trials/<key>/attempts/<n>.json                  an attempt that ended without a result, with its cause
    sweeps/<id>/specs/<n>.json                      the spec of one launch
    sweeps/<id>/studies/<study>/asks/<n>.json       a candidate that Optuna proposed
    sweeps/<id>/studies/<study>/prunes/<n>.json     the decision to give up a candidate, and its step

    trials/<key>/scores.parquet, ...                files of a result, which has their hashes

The ledger is the only source of truth.  No record is ever changed.  "Running" is not recorded, because
that record would be wrong after a crash.  Objects under other names are ignored: they are not ours.
"""

from __future__ import annotations

import re
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from typing import NamedTuple
from zipfile import BadZipFile

from sweep.store.base import ObjectNotFound, Store, StoreError
from sweep.store.records import FILES, canonical_json, decode, seal, sha256
from sweep.store.records import Record as Record

SCORES, HISTORY, FIGURES, WEIGHTS = "scores.parquet", "history.parquet", "figures.npz", "weights.safetensors"
MESSAGE = 300  # characters of an error's reason, which may quote the damaged bytes
KEPT = (WEIGHTS, FIGURES)  # files that `trial.keep` may delete later
_NUMBERED = re.compile(r"([0-9]{1,9})\.json")


class Damaged(StoreError):
    """Damage: an object of the store no longer has the content that was written.

    Attributes:
        why: what is wrong with it, without its path and the fix.
    """

    def __init__(self, message: str, why: str = "") -> None:
        super().__init__(message)
        self.why = why or message


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn errors from decoding an object's bytes inside the block into `Damaged`.

    Raises:
        Damaged: the bytes cannot be decoded; names the object and the fix.
    """
    try:
        yield
    except (ValueError, KeyError, EOFError, OSError, RecursionError, zlib.error, BadZipFile) as error:
        raise damage(path, str(error).strip().split("\n")[0][:MESSAGE] or type(error).__name__) from None


def damage(path: str, why: str) -> Damaged:
    """Return the error for a damaged object."""
    return Damaged(f"{path} in the store is damaged ({why}); {fix_of(path)}", why)


def fix_of(path: str) -> str:
    """Return how a damaged object is made again."""
    if path.startswith("trials/"):
        return f"delete {'/'.join(path.split('/')[:2])} there and launch again"
    return "restore it from a copy"


class Index(NamedTuple):
    """Content of the folders of trials.

    Attributes:
        finished: keys of finished trials.
        attempts: paths of attempts by key, oldest first.
        states: keys of trials with a resume state or a lease.
    """

    finished: set[str]
    attempts: dict[str, list[str]]
    states: set[str]


class Ledger:
    """Records in one store.  `sweep` is the id under which launches and searches are recorded."""

    def __init__(self, store: Store, sweep: str) -> None:
        self.store = store
        self.sweep = sweep
        self._hashes: dict[str, Mapping[str, str]] = {}  # hashes of the files of results that were read, by key

    # -- trials ---------------------------------------------------------------------------------

    def index(self) -> Index:
        """Return what is in the folders of trials, from one listing of the store."""
        finished, attempts, states = set(), dict[str, list[str]](), set()
        for path in self.store.list("trials"):
            match path.split("/"):
                case [_, key, "result.json"]:
                    finished.add(key)
                case [_, key, "attempts", name] if _NUMBERED.fullmatch(name):
                    attempts.setdefault(key, []).append(path)
                case [_, key, "checkpoint", *_] | [_, key, "lease"]:
                    states.add(key)
        return Index(finished, attempts, states)

    def remove_states(self, keys: Iterable[str]) -> None:
        """Delete the resume states and leases of finished trials.

        A trial deletes its own, unless it is killed in the moment after its result is stored.
        """
        for key in keys:
            self.store.delete_tree(f"trials/{key}/checkpoint")
            self.store.delete(f"trials/{key}/lease")

    def results(self, keys: Iterable[str], damaged: MutableMapping[str, Damaged] | None = None) -> dict[str, Record]:
        """Return results by key, for those of `keys` that have one.

        Args:
            keys: keys of trials.
            damaged: receives the error of each damaged result, by key; None to raise the first one.
        """
        found = {}
        for path, data in self.store.get_many(f"trials/{key}/result.json" for key in keys):
            key = path.split("/")[1]
            try:
                found[key] = self._result(path, data)
            except Damaged as error:
                if damaged is None:
                    raise
                damaged[key] = error
        return found

    def result(self, key: str) -> Record | None:
        """Return the result of one trial; None if it has none yet."""
        path = f"trials/{key}/result.json"
        with suppress(ObjectNotFound):
            return self._result(path, self.store.get(path))
        return None

    def put_result(self, key: str, result: Record) -> bool:
        """Store a result, with a hash of itself.

        Returns:
            False if another run of this trial stored one first; that one is kept.
        """
        return self.store.put_once(f"trials/{key}/result.json", _encode(seal(result)))

    def put_file(self, key: str, name: str, data: bytes) -> str:
        """Store a file of a trial before its result, and return its hash, which the result must have in `FILES`.

        Another run of the trial may have stored other bytes under this name, and its result may have their hash.  So
        they stay, and ours get a name of their own.
        """
        digest, path = sha256(data), f"trials/{key}/{name}"
        if not self.store.put_new(path, data) and not self._holds(path, digest):
            self.store.put(_own_path(key, name, digest), data)
        return digest

    def _holds(self, path: str, digest: str) -> bool:
        try:
            return sha256(self.store.get(path)) == digest
        except ObjectNotFound:
            return False

    def file(self, key: str, name: str) -> bytes:
        """Return a file of a finished trial, compared with the hash in its result.

        A result of an older version has no hashes, and its files are not compared.

        Raises:
            ObjectNotFound: the trial has no such file, or `trial.keep` did not keep it.
            Damaged: the file is not the one that belongs to the result.
        """
        path, digest = f"trials/{key}/{name}", self.hashes(key).get(name)
        if digest is None:
            return self.store.get(path)
        for place in (path, _own_path(key, name, digest)):
            with suppress(ObjectNotFound):
                data = self.store.get(place)
                if sha256(data) == digest:
                    return data
        if not self.store.exists(path):
            if name in KEPT:
                raise ObjectNotFound(f"no object {path} in {self.store.url}")
            raise damage(path, "it is missing")
        raise damage(path, "it was changed after it was written: its SHA-256 is not the one in result.json")

    def files(self, keys: Iterable[str], name: str) -> Iterator[tuple[str, bytes]]:
        """Yield (key, bytes) of a file of several finished trials, in the order of `keys`; errors as for `file`."""
        left = deque(keys)
        for path, data in self.store.get_many([f"trials/{key}/{name}" for key in left]):
            key = path.split("/")[1]
            while left[0] != key:
                yield left[0], self.file(left.popleft(), name)
            left.popleft()
            digest = self.hashes(key).get(name)
            yield key, data if digest in (None, sha256(data)) else self.file(key, name)
        for key in left:
            yield key, self.file(key, name)

    def hashes(self, key: str) -> Mapping[str, str]:
        """Return the hashes of the files of a trial by name; empty if it has no result, or one of an older version."""
        if key not in self._hashes:
            self.result(key)
        return self._hashes.get(key, {})

    def _result(self, path: str, data: bytes) -> Record:
        result = _record(path, data)
        self._hashes[path.split("/")[1]] = result.get(FILES, {})
        return result

    def attempts(self, index: Index, keys: Iterable[str]) -> dict[str, list[Record]]:
        """Return attempts by key, oldest first, for those of `keys` that have any."""
        paths = [path for key in keys for path in index.attempts.get(key, ())]
        found: dict[str, list[Record]] = {}
        for path, data in self.store.get_many(paths):
            found.setdefault(path.split("/")[1], []).append(_attempt(path, data))
        return found

    def attempts_of(self, key: str) -> list[Record]:
        """Return the attempts of one trial, oldest first."""
        names = [name for name in self.store.names(f"trials/{key}/attempts") if _NUMBERED.fullmatch(name)]
        return [_attempt(*read) for read in self.store.get_many(f"trials/{key}/attempts/{name}" for name in names)]

    def put_attempt(self, key: str, attempt: Record) -> int:
        """Append an attempt, and return its number, from 1."""
        number = len(self.store.names(f"trials/{key}/attempts")) + 1
        while not self.store.put_once(f"trials/{key}/attempts/{number:04d}.json", _encode(attempt)):
            number += 1
        return number

    # -- launches -------------------------------------------------------------------------------

    def specs(self) -> list[Record]:
        """Return the resolved spec of every launch of this sweep, oldest first."""
        return list(self._read_numbered(f"sweeps/{self.sweep}/specs").values())

    def last_spec(self) -> tuple[int, Record] | None:
        """Return number and spec of the latest launch; None without any.  No other spec is read."""
        prefix = f"sweeps/{self.sweep}/specs"
        numbers = [int(match[1]) for match in map(_NUMBERED.fullmatch, self.store.names(prefix)) if match]
        record = self.spec(max(numbers)) if numbers else None
        return None if record is None else (max(numbers), record)

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
        numbers = {f"{prefix}/{name}": int(match[1]) for name in self.store.names(prefix)
                   if (match := _NUMBERED.fullmatch(name))}  # fmt: skip
        return {numbers[path]: _record(path, data) for path, data in self.store.get_many(numbers)}

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
        return decode(path, data)


def _attempt(path: str, data: bytes) -> Record:
    """Return an attempt; a damaged record is one that failed, because an attempt there was."""
    try:
        return _record(path, data)
    except Damaged as error:
        return {"status": "failed", "cause": str(error), "log": "", "host": "unknown", "launch": 0, "time": 0.0}


def _own_path(key: str, name: str, digest: str) -> str:
    """Return the path of a file of a trial whose usual name another run of the trial has taken."""
    stem, dot, ending = name.rpartition(".")
    return f"trials/{key}/{stem}-{digest[:16]}{dot}{ending}"


def _encode(record: Mapping[str, object]) -> bytes:
    return canonical_json(dict(record)).encode()
