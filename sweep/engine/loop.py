"""Generation after generation until nothing is left, the budget is used up, or it is asked to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from sweep.console import say
from sweep.engine.keep_best import Weights
from sweep.engine.progress import Progress
from sweep.engine.tuner_process import TunerCrashed, TunerProcess
from sweep.errors import BUDGET, DONE, INTERRUPTED, SOME_FAILED, USER_ERROR, UserError
from sweep.plan.datasets import default_cache
from sweep.plan.expand import Work
from sweep.plan.platform import Platform
from sweep.plan.status import SweepStatus, read_status
from sweep.signals import on_interrupt
from sweep.spec.sweep import Sweep
from sweep.store.attempts import failed_before, failures
from sweep.store.lease import Lease
from sweep.store.ledger import Ledger, Record

GENERATION_TRIALS = 2000  # a Tuner's memory and its state file grow with its trials
MAX_CONSECUTIVE_CRASHES = 3  # of the process that drives Ray, without a result between them
STOPPED = "stopped; the same command goes on where it was"


@dataclass(frozen=True)
class TrialLoop:
    """What one launch runs.

    Attributes:
        sweep, work, platform: what is run, on what.
        ledger: open, of the sweep.
        console: for progress.
        log_command: the command that shows the log of a trial, given its key.
        skip_failed: leave trials alone that have failed before.
        number: of this launch.
        provenance: commit and dirty, for results.
        exhausted: says which budget is used up, None while none is.
        stranded: says why no trial can run, None while one may.
        watch: hears of every event, and each second of nothing.
        patience: seconds that trials may take to write their resume state once all are asked to stop.
        echo_seconds: for which a second signal is taken for the first one's, sent along by somebody between.
    """

    sweep: Sweep
    work: Work
    platform: Platform
    ledger: Ledger
    console: Console
    log_command: Callable[[str], str]
    skip_failed: bool
    number: int
    provenance: Record
    exhausted: Callable[[], str | None]
    stranded: Callable[[], str | None] = lambda: None
    watch: Callable[[Record | None, Progress], None] | None = None
    patience: float = math.inf
    echo_seconds: float = 0.0

    def run(self, lease: Lease, cluster: TunerProcess) -> int:
        """Run until nothing is left; returns the exit code.

        Args:
            lease: of the sweep, held.
            cluster: may have been started, or told to stop.

        Raises:
            UserError: it makes no sense to go on, and why.
            StoreError: the store failed; the same command goes on where it was.
        """
        state = read_status(self.work, self.ledger)
        cause = spent = stranded = None
        weights = Weights(self.ledger, state) if self.sweep.trial.keep == "best" else None
        with (
            Progress(state, self.platform.slots, self.console, self.log_command, self._again) as progress,
            on_interrupt(_Stop(cluster, progress, self.echo_seconds)),
        ):
            deaths, last_run = 0, time.monotonic()
            more = self._anything_to_run(state)
            finished = not more
            if more and not cluster.stop_file.exists() and (spent := self.exhausted()):
                progress.say(f"{spent} is reached: nothing is started")
                cluster.stop()
            while more and not cluster.stop_file.exists():
                more, results = False, 0
                try:
                    for event in self._generation(cluster):
                        if event is not None and event["event"] == "ended":
                            finished, cause = bool(event["finished"]), event["stopped"]
                            more = not (finished or cause or cluster.stop_file.exists())
                        elif event is not None and event["event"] == "result":
                            results += 1
                            if weights is not None:
                                weights.take(event)
                        progress.take(event)
                        if self.watch is not None:
                            self.watch(event, progress)
                        if lease.is_lost and cause is None:
                            cause = "another launch of this sweep has taken over"
                            cluster.stop()
                        stopping = cluster.stop_file.exists()
                        if not stopping and (spent := self.exhausted()):
                            progress.say(f"{spent} is reached: stopping, resumable")
                            cluster.stop()
                        elif not stopping and (stranded := self.stranded()):
                            progress.say(f"{stranded}: stopping")
                            cluster.stop()
                        if not stopping:
                            last_run = time.monotonic()
                        elif time.monotonic() - last_run > self.patience:
                            progress.say(f"no end in {self.patience:.0f} s: ending now", style="yellow")
                            cluster.stop()
                except TunerCrashed as death:
                    deaths = 0 if results else deaths + 1
                    more = not cluster.stop_file.exists()  # asked twice, we have ended it ourselves
                    if more:
                        progress.say(f"{death}: starting it again", style="yellow")
                    if more and deaths >= MAX_CONSECUTIVE_CRASHES:
                        raise UserError(
                            f"{death}, {deaths} times in a row; the last of what it printed:\n{death.log}"
                        ) from None
                if more:
                    progress.reset(read_status(self.work, self.ledger))
            stopped = cluster.stop_file.exists() and not finished  # there was nothing left to stop
        if cause is not None:
            raise UserError(f"stopped: {cause}\nThe same command goes on where it was.")
        if stopped and spent is not None:
            return BUDGET
        if stopped and stranded is not None:
            return USER_ERROR
        if stopped:
            say(self.console, STOPPED)
            return INTERRUPTED
        final = read_status(self.work, self.ledger)
        return SOME_FAILED if final.count("failed") else DONE

    def _generation(self, cluster: TunerProcess) -> Iterator[dict[str, Any] | None]:
        return cluster.generation(
            self.sweep,
            quota=GENERATION_TRIALS,
            cache=self.sweep.data.cache or default_cache(),
            provenance=self.provenance,
            skip_failed=self.skip_failed,
            launch=self.number,
        )

    def _again(self, attempts: Sequence[Mapping[str, Any]]) -> bool:
        """Whether this launch tries a failed trial again, given its attempts."""
        if self.skip_failed and failed_before(attempts, self.number):
            return False
        return failures(attempts, self.number) <= self.sweep.trial.retries

    def _anything_to_run(self, state: SweepStatus) -> bool:
        return bool(state.count("to_run") or (state.count("failed") and not self.skip_failed))


@dataclass
class _Stop:
    """Once: running trials write their resume state, then all ends.  Twice: now."""

    cluster: TunerProcess
    progress: Progress
    echo_seconds: float
    _asked_at: float | None = None

    def __call__(self) -> None:
        now = time.monotonic()
        if self._asked_at is not None and now - self._asked_at < self.echo_seconds:
            return
        first = not self.cluster.stop_file.exists()
        self._asked_at = now
        self.progress.say("stopping: trials write their resume state (again: now)" if first else "ending now")
        self.cluster.stop()
