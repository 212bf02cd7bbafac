"""Write head.json while a launch runs, and check the launch's budget."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rich.console import Console

from sweep.engine.progress import Progress
from sweep.plan.platform import Host, Platform
from sweep.plan.status import SweepStatus
from sweep.spec.sweep import Sweep
from sweep.store import launch_status
from sweep.store.attempts import is_of
from sweep.store.base import Store, StoreError
from sweep.store.launch_status import LaunchStatus, Node
from sweep.store.lease import Lease
from sweep.store.ledger import Ledger, Record

WRITE_SECONDS = 10.0  # time between two writes if nothing changes
BILL_SECONDS = 30.0  # time between two requests for the list of machines
Bill = Callable[[], list[Node] | None]  # machines of the sweep; None if the provider does not answer
Refused = Callable[[], str | None]  # the provider's last answer when it gave no worker; None once it gives one
STRANDED_SECONDS = 1800.0  # trials wait so long for a slot; the head costs money, perhaps with no one watching
SUSPENDED = "suspended: it goes on in the next run"
COUNTED = ("trials", "done", "failed", "pruned", "to_run")


class StatusWriter:
    """Writes head.json every 10 s and at each change, from its own thread.

    While the lease of the sweep is lost, nothing is written, because head.json then belongs to another launch.

    Args:
        store, sweep, platform, lease: store, sweep, platform and lease of the launch; the lease is held.
        number, record: number and record of the launch, from the ledger.
        bill: returns the machines with their prices; None if the provider knows no prices.
        console: for problems.
        refused: returns the provider's last refusal of a worker; None if the provider adds no workers during a launch.
        clock: returns monotonic seconds.
        advice: what a user can do when no worker comes.
    """

    def __init__(
        self,
        store: Store,
        sweep: Sweep,
        platform: Platform,
        lease: Lease,
        number: int,
        record: Record,
        bill: Bill | None,
        console: Console,
        refused: Refused | None = None,
        clock: Callable[[], float] = time.monotonic,
        advice: str = "",
    ) -> None:
        self._store, self._sweep, self._platform, self._console = store, sweep, platform, console
        self.lease, self._bill, self._refused, self._clock = lease, bill, refused, clock
        self._advice = advice
        self._started = float(record.get("started") or record["time"])
        hours = sweep.budget.max_hours
        deadline = record.get("deadline", None if hours is None else self._started + hours * 3600)
        before = launch_status.read(store, sweep.name)
        same = before is not None and before.launch == number
        self._head = LaunchStatus(
            launch=number,
            state="starting",
            since=before.since if before is not None and same else time.time(),
            deadline=deadline,
            restarts=before.restarts + _has_died(before) if before is not None and same else 0,
            nodes=before.nodes if before is not None and same else (),
        )
        self._lock = threading.Lock()
        self._changed, self._ended = threading.Event(), threading.Event()
        self._billed_at = float("-inf")
        self._unpriced_reported = False
        self._unserved_since: float | None = None  # since when trials have waited without a slot
        self._stranded: str | None = None
        self._thread = threading.Thread(target=self._write_until_ended, name="head record", daemon=True)

    def __enter__(self) -> StatusWriter:
        self._changed.set()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._changed.set()
        self._thread.join()

    def plan(self, state: SweepStatus, ledger: Ledger) -> None:
        """Write the numbers of trials, and the preemptions that earlier drivers of this launch had."""
        index = ledger.index()
        tried = ledger.attempts(index, {p.key for p in state.planned} & index.attempts.keys())
        lost = [a for attempts in tried.values() for a in attempts if a["status"] == "preempted"]
        preemptions = sum(is_of(attempt, ledger.sweep, self._head.launch) for attempt in lost)
        self._change(preemptions=preemptions, **_counts(state))

    def hear(self, event: Record | None, progress: Progress) -> None:
        """Update the status with an event of the tuner process."""
        with self._lock:
            counts: dict[str, Any] = progress.counts()
            head = replace(self._head, **counts)
            ready = event is not None and event["event"] == "ready" and head.state != "running"
            if ready:
                head = replace(head, state="running")
            if event is not None and event["event"] == "nodes":
                now, hosts = time.time(), [Host(node["cpus"], node["gpus"]) for node in event["nodes"]]
                slots = sum(host.slots(self._platform.cpus, self._platform.gpus) for host in hosts)
                head = replace(head, slots=min(slots, self._platform.slots))
                if self._bill is None:
                    seen = [Node(node["name"], since=now, alive=node["alive"]) for node in event["nodes"]]
                    head = replace(head, nodes=launch_status.merge_nodes(head.nodes, seen, now))
            preempted = event is not None and event["event"] == "attempt" and event["record"]["status"] == "preempted"
            slots_changed = head.slots != self._head.slots
            if head.slots or not head.to_run:
                self._unserved_since = None
            elif self._unserved_since is None:
                self._unserved_since = self._clock()
            self._head = replace(head, preemptions=head.preemptions + preempted)
        if preempted or ready or slots_changed:
            self._changed.set()

    def report(self, state: SweepStatus) -> None:
        """Write that no trial runs any more, and the report is being made."""
        self._change(state="reporting", running=0, **_counts(state))

    def end(self, code: int, cause: str | None = None) -> None:
        """Write that the launch has ended.  Returns when it is written.

        Raises:
            StoreError: it could not be written.
        """
        self._close(state="ended", exit_code=code, cause=cause)

    def suspend(self) -> None:
        """Write that the launch is suspended.  Returns when it is written.

        Raises:
            StoreError: it could not be written.
        """
        self._close(state="starting", cause=SUSPENDED)

    def _close(self, **fields: Any) -> None:
        self.__exit__()
        self._look_at_machines()
        with self._lock:
            self._head = replace(self._head, running=0, slots=0, **fields)
        self._write(self._store)

    def exhausted_budget(self) -> str | None:
        """Return the budget that is used up; None if none is."""
        budget, head = self._sweep.budget, self._head
        if head.deadline is not None and time.time() > head.deadline:
            return "the launch's time limit" if budget.max_hours is None else f"budget.max_hours={budget.max_hours:g}"
        if budget.max_usd is None or self._bill is None:
            return None
        if head.usd is not None and head.usd >= budget.max_usd:
            return f"budget.max_usd={budget.max_usd:g}"
        return None

    def why_stranded(self) -> str | None:
        """Return why no trial can run.

        Returns:
            None if trials have waited for less than half an hour, or the provider adds no workers.
        """
        with self._lock:
            since, known = self._unserved_since, self._stranded
        if known is not None or self._refused is None or since is None or self._clock() - since < STRANDED_SECONDS:
            return known
        answer = self._refused() or "no refusal, so workers cannot be set up"
        self._stranded = (
            f"trials have waited {STRANDED_SECONDS / 60:.0f} minutes for a worker; the provider's last answer: "
            f"{answer}.  {self._advice}  The same command goes on where it was."
        )
        return self._stranded

    def _change(self, **fields: Any) -> None:
        with self._lock:
            self._head = replace(self._head, **fields)
        self._changed.set()

    def _write_until_ended(self) -> None:
        while not self._ended.is_set():
            self._changed.wait(WRITE_SECONDS)
            self._changed.clear()
            if time.monotonic() - self._billed_at >= BILL_SECONDS:
                self._look_at_machines()
            try:
                self._write(self._store.within(WRITE_SECONDS))  # the list of machines must not wait for long
            except StoreError as error:  # only `status` is out of date; if the store fails, trials report it
                self._console.print(f"head.json was not written: {error}", markup=False, soft_wrap=True)

    def _look_at_machines(self) -> None:
        """Get the list of machines from the provider; if it does not answer, the known machines keep costing."""
        self._billed_at = time.monotonic()
        try:
            seen = self._bill() if self._bill is not None else None
        except Exception:  # noqa: BLE001  (the provider's answer may have any form; the status must still be written)
            self._console.print_exception()
            seen = None
        refused = self._refused() if self._refused is not None else None
        now = time.time()
        with self._lock:
            nodes = (
                self._head.nodes
                if seen is None
                else launch_status.merge_nodes(self._head.nodes, seen, now, self._started)
            )
            usd = None if self._bill is None else launch_status.dollars(nodes, self._started, now)
            self._head = replace(self._head, nodes=nodes, usd=usd, refused=refused)
        if (
            self._bill is not None
            and usd is None
            and self._sweep.budget.max_usd is not None
            and not self._unpriced_reported
        ):
            self._unpriced_reported = True
            unknown = ", ".join(sorted({node.type or node.name for node in nodes if node.usd_per_hour is None}))
            text = f"budget.max_usd cannot be enforced: the price of {unknown} is unknown; give cluster.prices"
            self._console.print(text, markup=False, soft_wrap=True)

    def _write(self, store: Store) -> None:
        with self._lock:
            head = self._head
        if not self.lease.is_lost:
            launch_status.write(store, self._sweep.name, head)


def _has_died(head: LaunchStatus) -> bool:
    """Return True if the driver that wrote this status crashed, without writing that it ended or was suspended."""
    return not head.has_ended and head.cause != SUSPENDED


def _counts(state: SweepStatus) -> Mapping[str, int]:
    return {name: state.count(name) for name in COUNTED}
