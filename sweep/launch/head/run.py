"""One launch of a sweep on a Ray cluster that runs already, from its record in the store to the report there."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from data.errors import DataError
from sweep.engine.loop import STOPPED, TrialLoop
from sweep.engine.tuner_process import Scratch, TunerProcess
from sweep.errors import BUDGET, INTERRUPTED, USER_ERROR, UserError
from sweep.launch.head.status_writer import StatusWriter
from sweep.launch.prepared import Prepared, put_missing, refusal
from sweep.plan.expand import expand
from sweep.plan.launch_record import command_from_argv, read_back
from sweep.plan.status import SweepStatus, read_status
from sweep.providers.registry import bill_of, refused_of
from sweep.report.report import Reporting
from sweep.signals import _noticing, at_once, on_interrupt, term_suspends
from sweep.store import open_store
from sweep.store.base import StoreError
from sweep.store.lease import Held, Lease, owner_name, take_over
from sweep.store.ledger import Ledger, Record

STOP_SECONDS = 300.0  # for trials to write their resume state: machines cost meanwhile, or are about to go
ECHO_SECONDS = 2.0
MADE_USE_OF = ("argv", "commit", "dirty", "time")  # of the record, beside the sweep and what it runs on
ADDRESS = "127.0.0.1:6379"  # of Ray on a cluster's head


@dataclass(frozen=True)
class HeadLaunch(Prepared):
    """A launch on an attached cluster.

    Attributes:
        number, record: of the launch, from the ledger.
    """

    number: int
    record: Record

    @classmethod
    def open(cls, storage: str, sweep_id: str, number: int, console: Console) -> HeadLaunch:
        """A launch as its record in the store describes it.

        Raises:
            UserError: there is no such launch, or it cannot be read by this version.
            StoreError: the store cannot be asked.
        """
        store = open_store(storage)
        ledger = Ledger(store, sweep_id)
        record = ledger.spec(number)
        if record is None:
            raise UserError(f"{store.url} has no launch {number} of a sweep {sweep_id}: launch it again")
        sweep, platform = read_back(record, ledger, number, storage, MADE_USE_OF)
        return cls(sweep, expand(sweep, platform), platform, store, ledger, console, number, record)

    def run(self) -> int:
        """Run until nothing is left, and report; returns the exit code.

        SIGTERM, SIGINT and SIGUSR2 stop it in order.  So does SIGUSR1, after which the launch has not ended: it is
        to go on, as the same launch, where this machine's time has run out.  With `term_suspends` the launch ends by
        SIGUSR2 alone.

        Raises:
            UserError: another launch of this sweep runs, or it makes no sense to go on.
            StoreError: the store failed; started again, the launch goes on where it was.
            DataError: data are damaged.
        """
        lease = Lease(self.store, f"sweeps/{self.sweep.name}/lease", f"{owner_name()}, launch {self.number}")
        asked: list[bool] = []  # to stop, before there is anything to stop, or when there is nothing left
        bill, refused_by, tell = bill_of(self.sweep), refused_of(self.sweep), self.console
        try:
            take_over(lease)  # of whoever made the machines
            with (
                on_interrupt(partial(asked.append, True)),
                _noticing(signal.SIGUSR1) as suspended,
                _noticing(signal.SIGUSR2) as ended,
                lease.hold(),
                StatusWriter(
                    self.store, self.sweep, self.platform, lease, self.number, self.record, bill, tell, refused_by
                ) as bulletin,
            ):
                try:
                    code = self._generations(lease, bulletin, asked)
                except (UserError, StoreError, DataError) as error:
                    with suppress(StoreError):  # the supervisor writes it, when it can be written
                        bulletin.end(USER_ERROR, str(error))
                    raise
                try:
                    goes_on = suspended.is_set() or (term_suspends() and not ended.is_set())
                    if code == INTERRUPTED and goes_on:
                        bulletin.suspend()
                    else:
                        self._close(bulletin, code)
                except StoreError as error:  # that it has ended is as true; the supervisor goes on trying to say it
                    tell.print(f"head.json was not written: {error}", markup=False, soft_wrap=True)
                return code
        except Held as held:
            raise refusal(self.sweep, held) from None

    def _close(self, bulletin: StatusWriter, code: int) -> None:
        """Report, and say that the launch has ended.

        Raises:
            StoreError: it cannot be said; that it has ended is as true.
        """
        state = read_status(self.work, self.ledger)
        bulletin.report(state)
        spent, stranded = f"{bulletin.exhausted_budget()} is reached", bulletin.why_stranded()
        why = {INTERRUPTED: STOPPED, BUDGET: spent, USER_ERROR: stranded}.get(code)
        bulletin.end(code, "; ".join(filter(None, [why, self._put_report(state)])) or None)

    def _generations(self, lease: Lease, bulletin: StatusWriter, asked: Sequence[bool]) -> int:
        with Scratch() as scratch:
            cluster = TunerProcess(scratch, self.platform, os.environ.get("RAY_ADDRESS", ADDRESS))
            try:
                with on_interrupt(cluster.stop_file.touch):
                    if asked:
                        cluster.stop_file.touch()
                    cluster.start()
                    if not cluster.stop_file.exists():
                        with on_interrupt(at_once):
                            put_missing(self.sweep, self.store, self.console)
                    bulletin.plan(read_status(self.work, self.ledger), self.ledger)
                    return self._all(bulletin).run(lease, cluster)
            except KeyboardInterrupt:
                return INTERRUPTED
            finally:
                cluster.kill()

    def _all(self, bulletin: StatusWriter) -> TrialLoop:
        return TrialLoop(
            sweep=self.sweep,
            work=self.work,
            platform=self.platform,
            ledger=self.ledger,
            console=self.console,
            log_command=lambda key: f"{command_from_argv('trial', self.record['argv'])} {key} --log",
            skip_failed=bool(self.record.get("skip_failed")),
            number=self.number,
            provenance={name: self.record[name] for name in ("commit", "dirty")},
            exhausted=bulletin.exhausted_budget,
            stranded=bulletin.why_stranded,
            watch=bulletin.hear,
            patience=STOP_SECONDS,
            echo_seconds=ECHO_SECONDS,
        )

    def _put_report(self, state: SweepStatus) -> str | None:
        """Put the report into the store; returns what is wrong with it.

        Whatever it is: results are in the ledger, from which anybody can report, and the machines must go.
        """
        prefix = f"sweeps/{self.sweep.name}/report"
        try:
            with tempfile.TemporaryDirectory(prefix="sweep-report-") as scratch:
                folder = Path(scratch)
                argv = self.record["argv"]
                Reporting(state, self.ledger).write(
                    folder, command_from_argv("report", argv), command_from_argv("trial", argv)
                )
                files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
                for name, path in files.items():
                    self.store.put(f"{prefix}/{name}", path.read_bytes())
                for path_in_store in list(self.store.list(prefix)):
                    if path_in_store.removeprefix(f"{prefix}/") not in files:
                        self.store.delete(path_in_store)
        except Exception as error:  # noqa: BLE001
            self.console.print_exception()
            return f"the report was not written: {type(error).__name__}: {error}"
        return None
