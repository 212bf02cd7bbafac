"""Check of a whole store: every record, every file of a trial and every dataset, compared with their hashes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.progress import Progress

from data.errors import DataError
from data.storage import shards
from data.storage.manifest import read_manifest
from sweep.console import printable
from sweep.store import open_store
from sweep.store.base import ObjectNotFound, Store
from sweep.store.ledger import FIGURES, HISTORY, SCORES, WEIGHTS, Damaged, Ledger, fix_of, reading
from sweep.store.records import FILES, SELF, decode

FILE_NAMES = (SCORES, HISTORY, WEIGHTS, FIGURES)
SHOWN = 100  # damaged objects that are printed; JSON has all
_RECORD = re.compile(
    r"trials/[^/]+/attempts/[0-9]{1,9}\.json|sweeps/[^/]+/(specs|studies/[^/]+/(asks|prunes))/[0-9]{1,9}\.json"
)


@dataclass(frozen=True)
class Damage:
    """One damaged object of a store.

    Attributes:
        path: path of the object.
        problem: what is wrong with it.
        fix: how it is made again.
    """

    path: str
    problem: str
    fix: str


@dataclass(frozen=True)
class StoreCheck:
    """Result of a check.

    Attributes:
        store: address of the store.
        records, files, datasets: numbers of records, files of trials and datasets that were read.
        unchecked: number of results of an older version, which have no hashes to compare with.
        damaged: every damaged object, sorted by path.
    """

    store: str
    records: int
    files: int
    datasets: int
    unchecked: int
    damaged: tuple[Damage, ...]

    def to_json(self) -> dict[str, object]:
        """Return what `--json` prints."""
        return asdict(self)

    def text(self) -> str:
        """Return the lines for the terminal."""
        lines = [printable(f"{found.path}: {found.problem}; {found.fix}") for found in self.damaged[:SHOWN]]
        if len(self.damaged) > SHOWN:
            lines.append(f"and {len(self.damaged) - SHOWN:,} more damaged objects; --json lists all")
        if self.unchecked:
            lines.append(f"not checked: {self.unchecked:,} results of an older version, which have no hashes")
        counts = f"{self.records:,} records, {self.files:,} files of trials, {self.datasets:,} datasets"
        verdict = f"{len(self.damaged):,} are damaged" if self.damaged else "all are whole"
        return "\n".join([*lines, f"{self.store}: {counts}: {verdict}"])


def check_store(storage: str, console: Console) -> StoreCheck:
    """Read every object of a store that this program wrote, and compare it with its hash.

    Args:
        storage: address of the store.
        console: for the progress.

    Raises:
        StoreError: the store cannot be read.
    """
    return _Check(open_store(storage)).run(console)


class _Check:
    def __init__(self, store: Store) -> None:
        self._store, self._ledger = store, Ledger(store, sweep="")
        self._damaged: dict[str, Damage] = {}
        self._records = self._files = self._datasets = self._unchecked = 0

    def run(self, console: Console) -> StoreCheck:
        store = self._store
        trials = sorted(self._ledger.index().finished)
        records = [path for prefix in ("trials", "sweeps") for path in store.list(prefix) if _RECORD.fullmatch(path)]
        datasets = [(name, preparation) for name in store.names("datasets")
                    for preparation in store.names(f"datasets/{name}")]  # fmt: skip
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("checking", total=len(trials) + len(records) + len(datasets))
            for step in (self._check_trials(trials), self._check_records(records), self._check_datasets(datasets)):
                for _ in step:
                    bar.advance(task)
        damaged = tuple(self._damaged[path] for path in sorted(self._damaged))
        return StoreCheck(store.url, self._records, self._files, self._datasets, self._unchecked, damaged)

    def _check_records(self, paths: list[str]) -> Iterator[None]:
        for path, data in self._store.get_many(paths):
            self._records += 1
            try:
                decode(path, data)
            except ValueError as error:
                self._note(path, str(error))
            yield

    def _check_trials(self, keys: list[str]) -> Iterator[None]:
        damaged: dict[str, Damaged] = {}
        for key in keys:
            result = self._ledger.results([key], damaged).get(key)
            self._records += 1
            if result is None:
                if key in damaged:
                    self._note(f"trials/{key}/result.json", damaged[key].why)
            else:
                hashes = result.get(FILES, {})
                self._unchecked += SELF not in result or FILES not in result
                needed = {SCORES} if FILES not in result and result["status"] == "ok" and result["metrics"] else set()
                for name in sorted({*hashes, *needed, *(FILE_NAMES if FILES not in result else ())}):
                    self._check_file(key, name, needed=name in needed)
            yield

    def _check_file(self, key: str, name: str, *, needed: bool) -> None:
        path = f"trials/{key}/{name}"
        try:
            data = self._ledger.file(key, name)
            self._files += 1
            if name.endswith(".parquet"):  # those of older results have no hash, but must be tables at least
                with reading(path):
                    _read_table(data)
        except Damaged as error:
            self._files += 1
            self._note(path, error.why)
        except ObjectNotFound:
            if needed:
                self._note(path, "it is missing")

    def _check_datasets(self, datasets: list[tuple[str, str]]) -> Iterator[None]:
        for name, preparation in datasets:
            folder, fix = f"datasets/{name}/{preparation}", "python -m sweep data verify CONFIG --repair"
            self._datasets += 1
            try:
                if read_manifest(self._store, name, preparation) is not None:
                    for problem in shards.verify(self._store, name, preparation):
                        self._note(problem.path, str(problem).removeprefix(f"{problem.path}: "), fix)
            except DataError as error:
                self._note(f"{folder}/manifest.json", str(error), fix)
            yield

    def _note(self, path: str, problem: str, fix: str = "") -> None:
        self._damaged[path] = Damage(path, problem, fix or fix_of(path))


def _read_table(data: bytes) -> None:
    import pyarrow.parquet as pq

    pq.read_table(io.BytesIO(data))
