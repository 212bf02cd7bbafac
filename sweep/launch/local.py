"""The verb launch: the plan, data where missing, generations until nothing is left, the report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sweep.console import say
from sweep.engine.loop import STOPPED, TrialLoop
from sweep.engine.tuner_process import Scratch, TunerProcess
from sweep.errors import INTERRUPTED
from sweep.launch.prepared import Prepared, put_missing, refusal
from sweep.plan.launch_record import commit, record
from sweep.signals import at_once, on_interrupt
from sweep.spec.sweep import Sweep
from sweep.store.lease import Held, Lease, owner_name


@dataclass(frozen=True)
class Launch(Prepared):
    """One launch of a sweep on this machine.

    Attributes:
        log_command: the command that shows the log of a trial, given its key.
        skip_failed: leave trials alone that have failed before.
    """

    log_command: Callable[[str], str]
    skip_failed: bool = False

    def run(self) -> int:
        """Run until nothing is left; returns the exit code.

        Raises:
            UserError: another launch of this sweep runs, or data are neither here nor readable.
            StoreError: the store failed; the same command goes on where it was.
        """
        lease = Lease(self.store, f"sweeps/{self.sweep.name}/lease", owner_name())
        try:
            with lease.hold(patience=lease.ttl_seconds), Scratch() as scratch:
                cluster = TunerProcess(scratch, self.platform)
                try:
                    with on_interrupt(cluster.stop_file.touch):
                        cluster.start()
                        if not cluster.stop_file.exists():
                            with on_interrupt(at_once):
                                put_missing(self.sweep, self.store, self.console)
                        number = self.ledger.put_spec(record(self.sweep, self.platform))
                        return self._generations(number).run(lease, cluster)
                finally:
                    cluster.kill()
        except KeyboardInterrupt:
            say(self.console, STOPPED)
            return INTERRUPTED
        except Held as held:
            raise refusal(self.sweep, held) from None

    def _generations(self, number: int) -> TrialLoop:
        return TrialLoop(
            sweep=self.sweep,
            work=self.work,
            platform=self.platform,
            ledger=self.ledger,
            console=self.console,
            log_command=self.log_command,
            skip_failed=self.skip_failed,
            number=number,
            provenance=commit(),
            exhausted=partial(exhausted_budget, self.sweep, time.monotonic()),
        )


def exhausted_budget(sweep: Sweep, began: float, clock: Callable[[], float] = time.monotonic) -> str | None:
    """Which budget is used up by a launch that began then, by the clock, on this machine."""
    budget, price, hours = sweep.budget, sweep.usd_per_hour, (clock() - began) / 3600
    if budget.max_hours is not None and hours > budget.max_hours:
        return f"budget.max_hours={budget.max_hours:g}"
    if budget.max_usd is not None and price is not None and hours * price > budget.max_usd:
        return f"budget.max_usd={budget.max_usd:g}"
    return None
