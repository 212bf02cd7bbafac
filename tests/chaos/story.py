"""One story: a small sweep in folders of its own, its launches with all that they print, and what must be true after.

Every process of a story has `STORY` in its environment, so what a launch has left is found wherever it went.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sweep.store import open_store
from sweep.store.ledger import Ledger
from tests.chaos.tally import Tally
from tests.support.sweeps import ROOT, command, environment, logged, write_config

STOP = threading.Event()  # set to end all stories, which then remove what they have made
STORY = "SWEEP_CHAOS_STORY"  # environment variable of every process of a story: its folder
SILENT_SECONDS = 30.0
PATIENCE_SECONDS = 900.0  # for whatever must happen, on the slowest machine
END_SECONDS = 10.0  # in which all that a killed launch has started must have ended
COMPARED = ("spec", "status", "split_hash", "metrics", "validation", "fingerprint")
TORCH_CACHE = "torchinductor_"  # folder of torch, for all programs of a user
OUTER = "/var/tmp"  # not /tmp: some stories hide /tmp


def studies(kind: str = "search") -> list[dict[str, Any]]:
    """Return studies whose detector logs what it trains: fixed trials, a grid and a search; or fixed trials alone."""
    base = logged(epochs=3, pause=0.02)
    if kind == "fixed":
        return [{**base, "seeds": 5}]
    return [
        {**base, "seeds": 2, "abnormal": [0, 1]},
        {**base, "kind": "grid", "axes": {"nz": [2, 4]}},
        {
            **base,
            "kind": "search",
            "abnormal": [0, 1],
            "objective": "transfer",
            "space": {"nz": {"low": 1, "high": 8}},
            "candidates": 3,
            "parallel": 1,
            "tuning_seeds": 2,
        },
    ]


@dataclass(frozen=True)
class Death:
    """State of the store and of the log just before a launch was killed.

    Attributes:
        finished: keys of finished trials.
        resumable: number of other trials with a resume state.
        position: lines of the log.
    """

    finished: frozenset[str]
    resumable: int
    position: int


@dataclass
class Story:
    """A sweep in folders of its own.

    Attributes:
        folder: folder of the YAML, the cache and the log, and of the store if it is local.
        temporary: TMPDIR of all launches.
        config: the YAML.
        storage: where the store is.
        kind: of its studies.
        tally: counts so far.
        deaths: kills so far.
    """

    folder: Path
    temporary: Path
    config: Path
    storage: str
    kind: str
    tally: Tally = field(default_factory=Tally)
    deaths: list[Death] = field(default_factory=list)

    @property
    def log(self) -> Path:
        return self.folder / "trained.log"

    @property
    def ledger(self) -> Ledger:
        return Ledger(open_store(self.storage), "test")

    def environment(self, **extra: str) -> dict[str, str]:
        """Return the environment of the story's processes."""
        ours = {STORY: str(self.folder), "TMPDIR": str(self.temporary), "TRAINED_LOG": str(self.log)}
        ours["SWEEP_DEBUG"] = "1"  # shows the traceback of a defect
        return environment(**{**ours, **extra})

    def steps(self) -> int:
        """Return the number of steps that were trained so far."""
        return len(self.log.read_bytes().splitlines()) if self.log.exists() else 0

    def remember_death(self) -> None:
        """Record the state of the store before a kill.  What comes later may be more, but never less."""
        paths = list(self.ledger.store.list("trials"))
        names = {
            name: {p.split("/")[1] for p in paths if p.endswith(f"/{name}")} for name in ("result.json", "latest.json")
        }
        resumable = names["latest.json"] - names["result.json"]
        self.deaths.append(Death(frozenset(names["result.json"]), len(resumable), self.steps()))

    def processes(self) -> list[int]:
        """Return the processes of this story that live."""
        return processes_with(f"{STORY}={self.folder}\0")

    def finish(self, *options: str) -> None:
        """Run the same command to its end, which must be a good one, and check the story."""
        launch = Launch(self, *options)
        self.recover(launch)
        code = launch.wait()
        self.tally.add("lost", code != 0, f"the same command ended with {code}:\n{launch.output}")
        self.take(launch)
        self.check()

    def recover(self, launch: Launch, since: float | None = None) -> None:
        """Wait for the next trained step or the launch's end, and keep the seconds until then."""
        steps, since = self.steps(), launch.began if since is None else since
        wait(lambda: self.steps() > steps or launch.has_ended)
        self.tally.recovered.append(time.monotonic() - since)

    def take(self, launch: Launch) -> None:
        """Count tracebacks and silence of a launch that has ended."""
        output = launch.output
        found = output.count("Traceback (most recent call last)") + output.count("a defect of it")
        self.tally.add("tracebacks", found, output)
        silent = [gap for gap in launch.gaps if gap > SILENT_SECONDS]
        self.tally.add("silent", len(silent), f"{silent} s:\n{output}")

    def count_left(self) -> None:
        """Count processes that are left `END_SECONDS` from now."""
        with suppress(AssertionError):
            wait(lambda: not self.processes(), END_SECONDS)
        left = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in self.processes()]
        self.tally.add("left", len(left), f"{left}")

    def check(self) -> None:
        """Compare the finished sweep with an undisturbed one, and count what is left."""
        self.count_left()
        files = files_in(self.temporary)
        self.tally.add("left", len(files), f"{files}")
        found, calm = Truth.of(self.ledger), calm_truth(self.kind)
        for kind in ("results", "scores", "records"):
            ours, theirs = getattr(found, kind), getattr(calm, kind)
            changed = [name for name, value in theirs.items() if ours.get(name) != value]
            extra = [name for name in ours if name not in theirs]
            self.tally.add("lost", len(changed), f"{kind} {changed}")
            self.tally.add("doubled", len(extra), f"{kind} {extra}")
        self.tally.add("lost", len(found.blamed), f"blamed: {found.blamed}")
        self.tally.add("left", len(found.states), f"resume states of finished trials: {found.states}")
        self._check_log()

    def _check_log(self) -> None:
        """Check the log of every trained step: no finished trial is trained again, and resume states are used."""
        lines = [tuple(map(int, line.split())) for line in self.log.read_text().splitlines()]
        steps: dict[int, list[tuple[int, int]]] = defaultdict(list)  # (position in the log, step) by trial
        for position, (identity, step) in enumerate(lines):
            steps[identity].append((position, step))
        for done in steps.values():
            missing = set(range(1, max(step for _, step in done) + 1)) - {step for _, step in done}
            self.tally.add("lost", len(missing), f"steps {missing}")
        ends = [death.position for death in self.deaths[1:]] + [len(lines)]
        for death, end in zip(self.deaths, ends, strict=False):
            begun = [done for done in steps.values() if done[0][0] < death.position]
            whole = [d for d in begun if any(p < death.position and s == max(d, key=_step)[1] for p, s in d)]
            again = sum(any(p >= death.position for p, _ in done) for done in whole)
            excess = again - (len(whole) - len(death.finished))
            self.tally.add("doubled", max(0, excess), f"{excess} finished trials were trained again")
            from_scratch = sum(any(death.position <= p < end and s == 1 for p, s in done) for done in begun)
            unused = from_scratch - (len(begun) - len(death.finished) - death.resumable)
            self.tally.add("lost", max(0, unused), f"{unused} resume states were not used")


def _step(line: tuple[int, int]) -> int:
    return line[1]


class Launch:
    """A launch, with all that it prints and the seconds between two outputs.

    Args:
        story: whose sweep is launched.
        options: of the command.
        before: words before the command, such as `unshare --pid`.
        variables: of the environment.
    """

    def __init__(
        self,
        story: Story,
        *options: str,
        before: Sequence[str] = (),
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        if STOP.is_set():
            raise KeyboardInterrupt
        self.began = time.monotonic()
        self.gaps: list[float] = []
        self._printed = bytearray()
        self.process = subprocess.Popen(
            [*before, *command("launch", story.config, "-y", *options)],
            cwd=ROOT, env=story.environment(**variables),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def output(self) -> str:
        return self._printed.decode(errors="replace")

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self) -> int:
        """Wait for the end; returns the exit code.  A launch that does not end is killed."""
        try:
            return self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            return self.kill()
        finally:
            self._listener.join(10)

    def kill(self) -> int:
        """Kill the launch alone."""
        self.process.kill()
        self._listener.join(10)
        return self.process.wait()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        heard = self.began
        while True:
            data = os.read(self.process.stdout.fileno(), 65536)
            self.gaps.append(time.monotonic() - heard)
            heard += self.gaps[-1]
            if not data:
                self.process.stdout.close()
                return
            self._printed += data


@dataclass(frozen=True)
class Truth:
    """All that a sweep has found, as in its store.

    Attributes:
        results: what may not differ between two runs, by key.
        scores: bytes of the files of scores, by key.
        records: candidates and prune decisions, by path.
        blamed: attempts that count as a trial's own failure.
        states: resume states of finished trials.
    """

    results: dict[str, dict[str, Any]]
    scores: dict[str, bytes]
    records: dict[str, Any]
    blamed: list[str]
    states: list[str]

    @classmethod
    def of(cls, ledger: Ledger) -> Truth:
        """Read it from a store."""
        index, store = ledger.index(), ledger.store
        scores = store.get_many([f"trials/{key}/scores.parquet" for key in sorted(index.finished)])
        studies = [path for path in store.list(f"sweeps/{ledger.sweep}/studies") if path.endswith(".json")]
        attempts = ledger.attempts(index, index.attempts)
        trials = store.list("trials")
        return cls(
            results={k: {n: r[n] for n in COMPARED} for k, r in ledger.results(index.finished).items()},
            scores={path.split("/")[1]: data for path, data in scores},
            records={path: json.loads(data) for path, data in store.get_many(studies)},
            blamed=[f"{key}: {a}" for key, of in attempts.items() for a in of if a["status"] != "preempted"],
            states=[p for p in trials if "/checkpoint/" in p and p.split("/")[1] in index.finished],
        )


@cache
def calm_truth(kind: str) -> Truth:
    """Return what an undisturbed launch of the same sweep finds."""
    with story(kind=kind) as told:
        launch = Launch(told)
        assert launch.wait() == 0, launch.output
        return Truth.of(told.ledger)


@contextmanager
def story(storage: str | None = None, kind: str = "search", **top: Any) -> Iterator[Story]:
    """Make the folders and the YAML of a story; at the end, kill what it has left, and remove them.

    Args:
        storage: address of the store; None for one in the story's folder.
        kind: of the studies.
        top: further keys of the YAML.
    """
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=OUTER))
    temporary = Path(tempfile.mkdtemp(prefix="c-", dir="/tmp"))  # short, as Ray's sockets need it
    storage = storage or str(folder / "store")
    keys = {"trial": {"checkpoint_seconds": 0.2}, "data": {"size": 16, "cache": str(folder / "cache")}, **top}
    config = write_config(folder, studies(kind), storage=storage, **keys)
    told = Story(folder, temporary, config, storage, kind)
    try:
        yield told
    finally:
        for pid in told.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(KeyboardInterrupt):
            wait(lambda: not told.processes())
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


def processes_with(variable: str) -> list[int]:
    """Return the processes that have this text, such as `NAME=VALUE` and a zero byte, in their environment."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if variable.encode() in environ.read_bytes():
                found.append(int(environ.parent.name))
    return found


def stop_all() -> None:
    """End all stories of this process, which remove what they have made."""
    STOP.set()
    for pid in processes_with(f"{STORY}="):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def files_in(folder: Path) -> list[str]:
    """Return the names of what is in a folder for temporary files, without torch's cache."""
    return [file.name for file in folder.iterdir() if not file.name.startswith(TORCH_CACHE)]


def wait(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Poll until the condition is true.

    Raises:
        AssertionError: it did not become true.
    """
    until = time.monotonic() + seconds
    while not condition():
        if STOP.is_set():
            raise KeyboardInterrupt
        assert time.monotonic() < until, "the condition did not become true"
        time.sleep(0.02)


def wait_for_moment(told: Story, launch: Launch, rng: random.Random, steps: int = 150) -> bool:
    """Wait for a random moment of a launch: a few seconds after its start, or after some steps.

    Returns:
        True if the launch still runs then.
    """
    begun, after = told.steps(), rng.randrange(1, steps)
    if rng.random() < 0.25:
        until = time.monotonic() + 8 * rng.random()
        wait(lambda: time.monotonic() > until or launch.has_ended)
    else:
        wait(lambda: told.steps() >= begun + after or launch.has_ended)
        time.sleep(rng.random() * 0.2)
    return not launch.has_ended
