"""The verb launch: the plan, data where missing, generations until nothing is left, the report."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from sweep.cluster import GenerationDied, LocalCluster, Scratch
from sweep.datasets import put_into, unusable
from sweep.faults import UserError
from sweep.lease import Held, Lease
from sweep.ledger import Ledger
from sweep.plan import Platform, Work
from sweep.progress import Progress, duration
from sweep.spec import Sweep
from sweep.status import Survey, survey
from sweep.store import Store
from sweep.weights import Weights

DONE, USER_ERROR, SOME_FAILED, BUDGET = 0, 1, 2, 3
INTERRUPTED = 130  # as shells have it: 128 + SIGINT
GENERATION_TRIALS = 2000  # a Tuner's memory and its state file grow with its trials
DEATHS_IN_A_ROW = 3  # of the process that drives Ray, without a result between them
VERSIONS = ("ray", "optuna", "torch", "torchvision", "pyarrow", "scikit-learn", "numpy")


@dataclass(frozen=True)
class Launch:
    """One launch of a sweep on this machine.

    Attributes:
        sweep, work, platform: what is run, on what.
        store, ledger: open, of the sweep.
        console: for progress.
        log_command: the command that shows the log of a trial, given its key.
        skip_failed: leave trials alone that have failed before.
    """

    sweep: Sweep
    work: Work
    platform: Platform
    store: Store
    ledger: Ledger
    console: Console
    log_command: Callable[[str], str]
    skip_failed: bool = False

    def run(self) -> int:
        """Run until nothing is left; returns the exit code.

        Raises:
            UserError: another launch of this sweep runs, or data are neither here nor readable.
            StoreError: the store failed; the same command goes on where it was.
        """
        owner = f"{os.environ.get('USER', 'someone')}@{socket.gethostname()}"
        lease = Lease(self.store, f"sweeps/{self.sweep.name}/lease", owner)
        try:
            with lease.held(patience=lease.ttl_seconds), Scratch() as scratch:
                cluster = LocalCluster(scratch, self.platform)
                try:
                    with _interrupted(cluster.stop_file.touch):
                        cluster.start()
                        if not cluster.stop_file.exists():
                            with _interrupted(_at_once):
                                put_missing(self.sweep, self.store, self.console)
                        number = self.ledger.put_spec(self._record())
                        return self._generations(number, lease, cluster)
                finally:
                    cluster.kill()
        except KeyboardInterrupt:
            return self._stopped()
        except Held as held:
            raise UserError(
                f"sweep {self.sweep.name} is being launched by {held.owner}, for {duration(held.age)}: "
                "wait for it, or give this one a name of its own with --set sweep.name=NAME"
            ) from None

    def _record(self) -> dict[str, object]:
        return {
            "sweep": self.sweep.model_dump(mode="json"),
            "platform": asdict(self.platform),
            "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
            "python": sys.version.split()[0],
            **commit(),
            "argv": sys.argv[1:],
            "time": time.time(),
            "host": socket.gethostname(),
        }

    def _generations(self, number: int, lease: Lease, cluster: LocalCluster) -> int:
        state = survey(self.work, self.ledger)
        hours = self.sweep.budget.max_hours
        deadline = time.monotonic() + hours * 3600 if hours else float("inf")
        cause = None
        weights = Weights(self.ledger, state) if self.sweep.trial.keep == "best" else None
        with (
            Progress(state, self.platform.slots, self.console, self.log_command) as progress,
            _interrupted(partial(_in_order, cluster, progress)),
        ):
            deaths = 0
            more = self._anything_to_run(state)
            while more and not cluster.stop_file.exists():
                more, results = False, 0
                try:
                    for event in self._generation(cluster, number):
                        if event is not None and event["event"] == "ended":
                            more, cause = bool(event["more"]), event["stopped"]
                        elif event is not None and event["event"] == "result":
                            results += 1
                            if weights is not None:
                                weights.take(event)
                        progress.take(event)
                        if lease.lost and cause is None:
                            cause = "another launch of this sweep has taken over"
                            cluster.stop()
                        if time.monotonic() > deadline and not cluster.stop_file.exists():
                            progress.say(f"budget.max_hours={hours:g} is reached: stopping, resumable")
                            cluster.stop()
                except GenerationDied as death:
                    deaths = 0 if results else deaths + 1
                    progress.say(f"{death}: starting it again", style="yellow")
                    more = not cluster.stop_file.exists()
                    if deaths >= DEATHS_IN_A_ROW:
                        raise UserError(
                            f"{death}, {deaths} times in a row; the last of what it printed:\n{death.log}"
                        ) from None
                if more:
                    progress.resurvey(survey(self.work, self.ledger))
            stopped = cluster.stop_file.exists()
        if cause is not None:
            raise UserError(f"stopped: {cause}\nThe same command goes on where it was.")
        if stopped and time.monotonic() > deadline:
            return BUDGET
        if stopped:
            return self._stopped()
        final = survey(self.work, self.ledger)
        return SOME_FAILED if final.count("failed") else DONE

    def _generation(self, cluster: LocalCluster, number: int) -> Iterator[dict[str, Any] | None]:
        cache = self.sweep.data.cache or default_cache()
        return cluster.generation(
            self.sweep,
            quota=GENERATION_TRIALS,
            cache=str(Path(cache).expanduser()),
            provenance=commit(),
            skip_failed=self.skip_failed,
            launch=number,
        )

    def _stopped(self) -> int:
        self.console.print("stopped; the same command goes on where it was", highlight=False)
        return INTERRUPTED

    def _anything_to_run(self, state: Survey) -> bool:
        return bool(state.count("to_run") or (state.count("failed") and not self.skip_failed))


def put_missing(sweep: Sweep, store: Store, console: Console) -> None:
    """Put every dataset of the sweep that the store has not, or of which it has a damaged manifest.

    Raises:
        UserError: naming every source that cannot be read here, with the mend.
    """
    faults: list[str] = []
    for name in unusable(store, sweep):
        try:
            put_into(store, sweep, name, console)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)


def commit() -> dict[str, object]:
    """Commit of the code and whether files differ from it; None each outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        head = ["git", "-C", str(here), "rev-parse", "HEAD"]
        sha = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
        status = ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": sha, "dirty": bool(changed)}


def default_cache() -> str:
    """Folder of prepared images, under the user's cache."""
    return f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/anomaly-sweep"


@contextmanager
def _interrupted(by: Callable[[], None]) -> Iterator[None]:
    """What Ctrl-C, or SIGTERM, does meanwhile."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        by()

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _at_once() -> None:
    """Before trials run there is nothing to wait for.

    Not while a process is being started: an exception that falls into a fork's hooks is dropped by
    Python, and leaves logging's lock taken for ever.
    """
    raise KeyboardInterrupt


def _in_order(cluster: LocalCluster, progress: Progress) -> None:
    """Once: running trials write their resume state, then all ends.  Twice: now."""
    first = not cluster.stop_file.exists()
    progress.say("stopping: trials write their resume state (again: now)" if first else "ending now")
    cluster.stop()
