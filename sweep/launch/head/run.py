"""One launch on the head of a Ray cluster that exists: from its record in the store to its report in the store."""

from __future__ import annotations

import os
import signal
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from data.errors import DataError
from sweep.console import say
from sweep.engine.code_copy import code_hash
from sweep.engine.loop import STOPPED, LoopEnd, TrialLoop
from sweep.engine.scratch import Scratch
from sweep.engine.tuner_process import TunerProcess
from sweep.errors import BUDGET, INTERRUPTED, USER_ERROR, UserError
from sweep.launch.head.status_writer import StatusWriter
from sweep.launch.prepared import Prepared, put_missing
from sweep.plan.expand import expand
from sweep.plan.launch_record import command_from_argv, read_back
from sweep.plan.status import SweepStatus, read_status
from sweep.providers.registry import provider_of
from sweep.redaction import hide_secrets
from sweep.report.report import Report
from sweep.signals import on_interrupt, raise_interrupt, stop_on, term_suspends
from sweep.store import launch_status, open_store
from sweep.store.base import StoreError, StoreUnreachable
from sweep.store.lease import Lease, LeaseHeld, owner_name, take_over
from sweep.store.ledger import Ledger, Record

STOP_SECONDS = 300.0  # time for trials to write their resume state; machines cost money or will be taken away
PROBE_SECONDS = 30.0  # between two looks at budget and stop signals, while the store does not answer
ECHO_SECONDS = 2.0  # a second stop signal within this time only repeats the first one
NEEDED_FIELDS = ("argv", "commit", "dirty", "time")  # fields of the record in addition to sweep and platform
ADDRESS = "127.0.0.1:6379"  # address of Ray on the head of a cluster


@dataclass(frozen=True)
class HeadLaunch(Prepared):
    """A launch on an attached Ray cluster.

    Attributes:
        number, record: number and record of the launch, from the ledger.
    """

    number: int
    record: Record

    @classmethod
    def open(cls, storage: str, sweep_id: str, number: int, console: Console) -> HeadLaunch:
        """Return the launch that a record in the store describes.

        Raises:
            UserError: there is no such launch, or this version cannot read it.
            StoreError: the store does not answer.
        """
        store = open_store(storage)
        ledger = Ledger(store, sweep_id)
        record = ledger.spec(number)
        if record is None:
            raise UserError(f"{store.url} has no launch {number} of sweep {sweep_id}: launch it again")
        sweep, platform = read_back(record, ledger, number, storage, NEEDED_FIELDS)
        store = open_store(storage, sweep.budget.outage_seconds)
        ledger = Ledger(store, sweep_id)
        return cls(sweep, expand(sweep, platform), platform, store, ledger, console, number, record)

    def run(self) -> int:
        """Run until no trial is left, and report.  Returns the exit code.

        SIGTERM, SIGINT and SIGUSR2 stop the launch in order, and it has ended then.  SIGUSR1 also stops it in order,
        but suspends it: it goes on later as the same launch, because the time of this machine is over.  If
        `term_suspends` is true, SIGTERM and SIGINT also suspend it, and only SIGUSR2 ends it.

        Raises:
            UserError: another launch of this sweep runs, or going on makes no sense.
            StoreUnreachable: the store has not answered for the time of an outage, before or after the trials.
            StoreError: the store failed; started again, the launch goes on where it was.
            DataError: data are damaged.
        """
        lease = self.lease(f"{owner_name()}, launch {self.number}")
        asked: list[bool] = []  # not empty if a stop was requested before the trials started or after they ended
        provider, console = provider_of(self.sweep), self.console
        try:
            take_over(lease)  # the process that made the machines holds it
            with (
                on_interrupt(partial(asked.append, True)),
                stop_on(signal.SIGUSR1) as suspended,
                stop_on(signal.SIGUSR2) as ended,
                lease.hold(),
                StatusWriter(
                    self.store,
                    self.sweep,
                    self.platform,
                    lease,
                    self.number,
                    self.record,
                    provider.list_machines if provider.knows_prices else None,
                    console,
                    provider.last_refusal if provider.adds_workers else None,
                    advice=provider.capacity_advice,
                ) as writer,
            ):
                try:
                    end = self._run_trials(lease, writer, asked)
                except StoreUnreachable:  # nothing has ended: the supervisor starts this process again
                    raise
                except (UserError, StoreError, DataError) as error:
                    with suppress(StoreError):  # then the supervisor writes it as soon as it can
                        writer.end(USER_ERROR, str(error))
                    raise
                try:
                    goes_on = suspended.is_set() or (term_suspends() and not ended.is_set())
                    if end.code == INTERRUPTED and goes_on:
                        writer.suspend()
                    else:
                        self._close(writer, end)
                # The launch has ended nevertheless, and the supervisor keeps trying to write that.
                except StoreError as error:
                    console.print(f"head.json was not written: {error}", markup=False, soft_wrap=True)
                return end.code
        except LeaseHeld as held:
            raise self.refusal(held) from None

    def _close(self, writer: StatusWriter, end: LoopEnd) -> None:
        """Put the report into the store, and write that the launch has ended.

        Raises:
            StoreError: it cannot be written; the launch has ended nevertheless.
        """
        status = end.status or read_status(self.work, self.ledger)
        writer.report(status)
        spent, stranded = f"{writer.exhausted_budget()} is reached", writer.why_stranded()
        why = {INTERRUPTED: STOPPED, BUDGET: spent, USER_ERROR: stranded}.get(end.code)
        writer.end(end.code, "; ".join(filter(None, [why, self._put_report(status)])) or None)

    def _run_trials(self, lease: Lease, writer: StatusWriter, asked: Sequence[bool]) -> LoopEnd:
        """Run all trials.

        Args:
            lease: lease of the sweep, held by this launch.
            writer: writer of the launch's status.
            asked: not empty if a stop was requested before.
        """
        with Scratch() as scratch:
            tuner = TunerProcess(scratch, self.platform, os.environ.get("RAY_ADDRESS", ADDRESS))
            try:
                with on_interrupt(tuner.stop_file.touch):
                    if asked:
                        tuner.stop_file.touch()
                    tuner.start()
                    while True:
                        try:
                            return self._run_tuner(lease, writer, tuner)
                        except StoreUnreachable as error:
                            if (end := self._wait_for_store(error, writer, tuner.stop_file)) is not None:
                                return end
            except KeyboardInterrupt:
                return LoopEnd(INTERRUPTED)
            finally:
                tuner.kill()

    def _run_tuner(self, lease: Lease, writer: StatusWriter, tuner: TunerProcess) -> LoopEnd:
        if not tuner.stop_file.exists():
            with on_interrupt(raise_interrupt):
                put_missing(self.sweep, self.store, self.console)
        status = read_status(self.work, self.ledger)
        writer.plan(status, self.ledger)
        return self._loop(writer).run(lease, tuner, status)

    def _wait_for_store(self, error: StoreUnreachable, writer: StatusWriter, stop_file: Path) -> LoopEnd | None:
        """Wait until the store answers again.  The machines stay meanwhile; the budget decides for how long.

        Returns:
            The end of the launch, if a budget is used up or a stop is requested before the store answers.
        """
        say(self.console, f"{error}\nNo trial runs until the store answers again; the machines stay within the budget.")
        store = self.store.within(PROBE_SECONDS)
        while not stop_file.exists():
            if writer.exhausted_budget():
                return LoopEnd(BUDGET)
            try:
                launch_status.read(store, self.sweep.name)
                return None
            except StoreUnreachable:
                continue
        return LoopEnd(INTERRUPTED)

    def _loop(self, writer: StatusWriter) -> TrialLoop:
        return self.loop(
            self.number,
            {**{name: self.record[name] for name in ("commit", "dirty")}, "code": code_hash(self.sweep)},
            log_command=lambda key: f"{command_from_argv('trial', self.record['argv'])} {key} --log",
            skip_failed=bool(self.record.get("skip_failed")),
            exhausted=writer.exhausted_budget,
            stranded=writer.why_stranded,
            watch=writer.hear,
            patience=STOP_SECONDS,
            echo_seconds=ECHO_SECONDS,
        )

    def _put_report(self, state: SweepStatus) -> str | None:
        """Put the report into the store.  Returns an error text, or None.

        No error is raised: results are in the ledger, from which a report can be made at any time, and the machines
        must be removed.
        """
        prefix = f"sweeps/{self.sweep.name}/report"
        try:
            with tempfile.TemporaryDirectory(prefix="sweep-report-") as scratch:
                folder = Path(scratch)
                argv = self.record["argv"]
                Report(state, self.ledger).write(
                    folder, command_from_argv("report", argv), command_from_argv("trial", argv)
                )
                files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
                for name, path in files.items():
                    self.store.put(f"{prefix}/{name}", path.read_bytes())
                for path_in_store in list(self.store.list(prefix)):
                    if path_in_store.removeprefix(f"{prefix}/") not in files:
                        self.store.delete(path_in_store)
        except Exception as error:  # noqa: BLE001
            self.console.print(hide_secrets(traceback.format_exc()), markup=False, soft_wrap=True)
            return f"the report was not written: {type(error).__name__}: {error}"
        return None
