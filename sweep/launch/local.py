"""A launch on this machine: put missing datasets, then run all trials, in the process of the command."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sweep.console import say
from sweep.engine.code_copy import copy_code
from sweep.engine.loop import STOPPED, LoopEnd, TrialLoop
from sweep.engine.scratch import Scratch
from sweep.engine.tuner_process import TunerProcess
from sweep.errors import INTERRUPTED
from sweep.launch.prepared import Prepared, put_missing
from sweep.plan.launch_record import commit, record
from sweep.signals import on_interrupt, raise_interrupt
from sweep.spec.sweep import Sweep
from sweep.store.lease import TTL_SECONDS, LeaseHeld, owner_name


@dataclass(frozen=True)
class LocalLaunch(Prepared):
    """One launch of a sweep on this machine.

    Attributes:
        log_command: returns the command that shows the log of a trial, given its key.
        skip_failed: do not run trials that have failed before.
    """

    log_command: Callable[[str], str]
    skip_failed: bool = False

    def run(self) -> LoopEnd:
        """Run until no trial is left.

        Raises:
            UserError: another launch of this sweep runs, or a dataset is neither stored nor readable here.
            StoreError: the store failed; the same command goes on where it was.
        """
        lease = self.lease(owner_name())
        try:
            with lease.hold(lease.ttl_seconds, self._say_wait), Scratch() as scratch:
                code = copy_code(self.sweep, scratch / "code")
                tuner = TunerProcess(scratch, self.platform, code=scratch / "code")
                try:
                    with on_interrupt(tuner.stop_file.touch):
                        tuner.start()
                        if not tuner.stop_file.exists():
                            with on_interrupt(raise_interrupt):
                                put_missing(self.sweep, self.store, self.console)
                        number = self.ledger.put_spec({**record(self.sweep, self.platform), "code": code})
                        return self._loop(number, code).run(lease, tuner)
                finally:
                    tuner.kill()
        except KeyboardInterrupt:
            say(self.console, STOPPED)
            return LoopEnd(INTERRUPTED)
        except LeaseHeld as held:
            raise self.refusal(held) from None

    def _say_wait(self, held: LeaseHeld) -> None:
        whole = f"waiting for {TTL_SECONDS:.0f} s in all"
        say(self.console, f"{whole}: {held.owner} launched this sweep, and may still run")

    def _loop(self, number: int, code: str) -> TrialLoop:
        return self.loop(
            number,
            {**commit(), "code": code},
            log_command=self.log_command,
            skip_failed=self.skip_failed,
            exhausted=partial(exhausted_budget, self.sweep, time.monotonic()),
        )


def exhausted_budget(sweep: Sweep, began: float, clock: Callable[[], float] = time.monotonic) -> str | None:
    """Return the budget that a launch on this machine has used up; None if none.

    Args:
        sweep: sweep that is launched.
        began: reading of `clock` when the launch began.
        clock: returns monotonic seconds.
    """
    budget, price, hours = sweep.budget, sweep.usd_per_hour, (clock() - began) / 3600
    if budget.max_hours is not None and hours > budget.max_hours:
        return f"budget.max_hours={budget.max_hours:g}"
    if budget.max_usd is not None and price is not None and hours * price > budget.max_usd:
        return f"budget.max_usd={budget.max_usd:g}"
    return None
