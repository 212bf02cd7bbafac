"""Run trials, one generation after another, until none is left, a budget is used up, or the launch is stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.console import Console

from sweep.console import say
from sweep.engine.keep_best import WeightCleaner
from sweep.engine.progress import Progress
from sweep.engine.scratch import NO_ROOM, free_bytes
from sweep.engine.tuner_process import TunerCrashed, TunerProcess
from sweep.errors import BUDGET, DONE, INTERRUPTED, SOME_FAILED, USER_ERROR, UserError
from sweep.plan.datasets import default_cache
from sweep.plan.expand import Work
from sweep.plan.platform import Platform
from sweep.plan.status import SweepStatus, read_status
from sweep.signals import on_interrupt
from sweep.spec.sweep import Sweep
from sweep.store.attempts import failed_before, failures
from sweep.store.base import StoreUnreachable
from sweep.store.lease import Lease
from sweep.store.ledger import Ledger, Record

GENERATION_TRIALS = 2000  # Tune's memory and its state file grow with the number of trials
MAX_CONSECUTIVE_CRASHES = 3  # of the tuner process, with no result in between
MAX_STARTS = 6  # tries to start Ray the first time: on a busy machine Ray gives up on its own parts
LONGEST_PAUSE = 30.0  # seconds between two of these tries
STOPPED = "stopped; the same command goes on where it was"


class LoopEnd(NamedTuple):
    """End of a loop.

    Attributes:
        code: exit code of the launch.
        status: status of the sweep at the end; None if trials are left, because it is not read then.
    """

    code: int
    status: SweepStatus | None = None


@dataclass(frozen=True)
class TrialLoop:
    """All trials of one launch.

    Attributes:
        sweep, work, platform: sweep that is run, its trials, and their platform.
        ledger: ledger of the sweep.
        console: for progress.
        log_command: returns the command that shows the log of a trial, given its key.
        skip_failed: do not run trials that have failed before.
        number: number of this launch.
        provenance: commit, dirty and code (hash of the code that runs), for the results.
        exhausted: returns the budget that is used up; None while none is.
        stranded: returns the reason why no trial can run; None while one may.
        watch: receives every event, and None after each second without one.
        patience: seconds for trials to write their resume state after a stop was requested.
        echo_seconds: a second signal within this time repeats the first one and is ignored.
        pause: seconds before the second try to start Ray; each further pause is twice as long.
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
    pause: float = 1.0

    def run(self, lease: Lease, tuner: TunerProcess, status: SweepStatus | None = None) -> LoopEnd:
        """Run until no trial is left.

        Args:
            lease: lease of the sweep, held by this launch.
            tuner: the tuner process; it may have been started already, or asked to stop.
            status: status of the sweep, if it was read under this lease; otherwise it is read here.

        Raises:
            UserError: going on makes no sense, with the reason.
            StoreUnreachable: the store has not answered for the time of an outage.
            StoreError: the store failed; the same command goes on where it was.
        """
        status = status or read_status(self.work, self.ledger)
        self.ledger.remove_states(status.leftovers)
        weights = WeightCleaner(self.ledger, status) if self.sweep.trial.keep == "best" else None
        with (
            Progress(status, self.platform.slots, self.console, self.log_command, self._again) as progress,
            on_interrupt(_Stop(tuner, progress, self.echo_seconds)),
        ):
            run = _Run(self, lease, tuner, progress, weights)
            more = self._anything_to_run(status)
            run.finished = not more
            if more:
                run.check_budget_first()
            while more and not tuner.stop_file.exists():
                more = run.generation() or self._has_grown(run)
                if more:
                    progress.reset(read_status(self.work, self.ledger))
            stopped = tuner.stop_file.exists() and not run.finished  # a finished run had nothing left to stop
        return self._end(run, stopped)

    def _has_grown(self, run: _Run) -> bool:
        """Return True if the first seeds, which have results now, add trials."""
        if not (run.finished and self.work.growing) or not read_status(self.work, self.ledger).count("to_run"):
            return False
        run.finished = False
        return True

    def _end(self, run: _Run, stopped: bool) -> LoopEnd:
        if run.cause is not None:
            kind = StoreUnreachable if run.unreachable else UserError
            raise kind(f"stopped: {run.cause}\nThe same command goes on where it was.")
        if stopped and run.spent is not None:
            return LoopEnd(BUDGET)
        if stopped and run.stranded is not None:
            return LoopEnd(USER_ERROR)
        if stopped:
            say(self.console, STOPPED)
            return LoopEnd(INTERRUPTED)
        final = read_status(self.work, self.ledger)
        self.ledger.remove_states(final.leftovers)
        return LoopEnd(SOME_FAILED if final.count("failed") else DONE, final)

    def events(self, tuner: TunerProcess) -> Iterator[dict[str, Any] | None]:
        """Run one generation in the tuner process; yields its events, and None after each second without one."""
        return tuner.run_generation(
            self.sweep,
            quota=GENERATION_TRIALS,
            cache=self.sweep.data.cache or default_cache(),
            provenance=self.provenance,
            skip_failed=self.skip_failed,
            launch=self.number,
        )

    def _again(self, attempts: Sequence[Mapping[str, Any]]) -> bool:
        """Return True if this launch tries a failed trial again, given its attempts."""
        if self.skip_failed and failed_before(attempts, self.sweep.name, self.number):
            return False
        return failures(attempts, self.sweep.name, self.number) <= self.sweep.trial.retries

    def _anything_to_run(self, status: SweepStatus) -> bool:
        return bool(status.count("to_run") or (status.count("failed") and not self.skip_failed))


@dataclass
class _Run:
    """State of one run of a loop.

    Attributes:
        loop, lease, tuner, progress, weights: as in `TrialLoop.run`.
        finished: no trial is left.
        cause: why going on makes no sense; None if it does.
        unreachable: True if it makes sense again when the store answers.
        spent: the budget that is used up; None if none is.
        stranded: why no trial can run; None if one may.
    """

    loop: TrialLoop
    lease: Lease
    tuner: TunerProcess
    progress: Progress
    weights: WeightCleaner | None
    finished: bool = False
    cause: str | None = None
    unreachable: bool = False
    spent: str | None = None
    stranded: str | None = None
    _ready: bool = False  # a tuner process has started its Ray at least once
    _crashes: int = 0
    _results: int = 0
    _running_until: float = field(default_factory=time.monotonic)

    def check_budget_first(self) -> None:
        """Start no trial if the budget is used up already."""
        if not self.tuner.stop_file.exists() and (spent := self.loop.exhausted()):
            self.spent = spent
            self.progress.say(f"{spent} is reached: no trial is started")
            self.tuner.stop()

    def generation(self) -> bool:
        """Run one generation of trials.  Returns True if another one is needed.

        Raises:
            UserError: the tuner process has crashed too often.
        """
        self._results, more = 0, False
        try:
            for event in self.loop.events(self.tuner):
                if event is not None and event["event"] == "ended":
                    self.finished, self.cause = bool(event["finished"]), event["stopped"]
                    self.unreachable = bool(event.get("unreachable"))
                    more = not (self.finished or self.cause or self.tuner.stop_file.exists())
                self._take(event)
                self._stop_if_needed()
        except TunerCrashed as crash:
            return self._after(crash)
        return more

    def _take(self, event: Record | None) -> None:
        """Pass an event on to all that follow the launch: kept weights, progress, and the caller's `watch`."""
        self._ready = self._ready or (event is not None and event["event"] == "ready")
        if event is not None and event["event"] == "result":
            self._results += 1
            if self.weights is not None:
                self.weights.take(event)
        self.progress.take(event)
        if self.loop.watch is not None:
            self.loop.watch(event, self.progress)

    def _stop_if_needed(self) -> None:
        """Stop if the lease is taken, a budget is used up, or no trial can run; kill trials that do not stop.

        Raises:
            UserError: the disk of the scratch folder is full, so that nothing can stop in order.
        """
        if free_bytes(self.tuner.scratch) < NO_ROOM:
            raise UserError(
                f"stopped: the disk of {self.tuner.scratch.parent} is full: free some space there, or set TMPDIR to a "
                "folder on another disk\nThe same command goes on where it was."
            )
        # A lease that is only lost may come back: in an outage of the store nobody else can take it.
        if self.lease.is_taken and self.cause is None:
            self.cause = "another launch of this sweep has taken over"
            self.tuner.stop()
        stopping = self.tuner.stop_file.exists()
        if not stopping and (spent := self.loop.exhausted()):
            self.spent = spent
            self.progress.say(f"{spent} is reached: stopping; the same command resumes it")
            self.tuner.stop()
        elif not stopping and (stranded := self.loop.stranded()):
            self.stranded = stranded
            self.progress.say(f"{stranded}: stopping")
            self.tuner.stop()
        if not stopping:
            self._running_until = time.monotonic()
        elif time.monotonic() - self._running_until > self.loop.patience:
            self.progress.say(f"trials have not stopped in {self.loop.patience:.0f} s: ending them now", style="yellow")
            self.tuner.stop()

    def _after(self, crash: TunerCrashed) -> bool:
        """Return True if another generation shall be started after a crash of the tuner process."""
        self._crashes = 0 if self._results else self._crashes + 1
        if self.tuner.stop_file.exists():  # a second request to stop ends the process
            return False
        if self._crashes >= (MAX_CONSECUTIVE_CRASHES if self._ready else MAX_STARTS):
            raise UserError(f"{crash}, {self._crashes} times in a row; the end of its output:\n{crash.log}") from None
        last = crash.log.rpartition("\n")[2]
        self.progress.say(f"{crash}{f' ({last})' if last else ''}: starting it again", style="yellow")
        if not self._ready:
            self._wait(min(LONGEST_PAUSE, self.loop.pause * 2 ** (self._crashes - 1)))
        return not self.tuner.stop_file.exists()

    def _wait(self, seconds: float) -> None:
        """Wait before another try; return early if a stop is requested."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.tuner.stop_file.exists():
            time.sleep(min(1.0, seconds))
            self._take(None)
            self._stop_if_needed()


@dataclass
class _Stop:
    """Reaction to Ctrl-C: the first lets running trials write their resume state, the second ends them at once."""

    tuner: TunerProcess
    progress: Progress
    echo_seconds: float
    _asked_at: float | None = None

    def __call__(self) -> None:
        # The same signal can come again while this handler runs: its time is kept before anything else is done.
        now = time.monotonic()
        before, self._asked_at = self._asked_at, now
        if before is not None and now - before < self.echo_seconds:
            self._asked_at = before
            return
        first = not self.tuner.stop_file.exists()
        waiting = "stopping: trials write their resume state (a second Ctrl-C ends them now)"
        self.progress.say(waiting if first else "ending now")
        self.tuner.stop()
