"""Keeps the head's record true while a launch runs, and holds the launch's budget against it."""

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
from sweep.store.base import Store, StoreError
from sweep.store.launch_status import LaunchStatus, Node
from sweep.store.lease import Lease
from sweep.store.ledger import Ledger, Record

TELL_SECONDS = 10.0  # between two writings without a change
BILL_SECONDS = 30.0  # between two questions to a place about its machines
Bill = Callable[[], list[Node] | None]  # machines of the sweep; None if the provider does not answer
Refused = Callable[[], str | None]  # the provider's last answer when it gave no worker; None once it gives one
STRANDED_SECONDS = 1800.0  # without a slot while trials wait: the head costs meanwhile, and nobody may be looking
SUSPENDED = "suspended: it goes on in the next run"
COUNTED = ("trials", "done", "failed", "pruned", "to_run")


class StatusWriter:
    """Writes the record every ten seconds and at each change, from a thread of its own.

    What is not ours is left alone: while the lease of the sweep is lost, nothing is written.

    Args:
        store, sweep, platform, lease: of the launch; the lease is held.
        number, record: of the launch, from the ledger.
        bill: lists the machines with their prices; None where the place does not know any.
        console: hears of what cannot be done.
        refused: of a place that is asked for machines while the launch runs; None for any other.
        clock: monotonic seconds.
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
    ) -> None:
        self._store, self._sweep, self._platform, self._console = store, sweep, platform, console
        self.lease, self._bill, self._refused, self._clock = lease, bill, refused, clock
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
        self._told_unpriced = False
        self._unserved_since: float | None = None  # trials wait, and there is no slot
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
        """What there is to do, and what earlier drivers of the launch met."""
        index = ledger.index()
        tried = ledger.attempts(index, {p.key for p in state.planned} & index.attempts.keys())
        lost = [a for attempts in tried.values() for a in attempts if a["status"] == "preempted"]
        preemptions = sum(attempt["launch"] == self._head.launch for attempt in lost)
        self._change(preemptions=preemptions, **_counts(state))

    def hear(self, event: Record | None, progress: Progress) -> None:
        """Take in what a generation says."""
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
            others = head.slots != self._head.slots
            if head.slots or not head.to_run:
                self._unserved_since = None
            elif self._unserved_since is None:
                self._unserved_since = self._clock()
            self._head = replace(head, preemptions=head.preemptions + preempted)
        if preempted or ready or others:
            self._changed.set()

    def report(self, state: SweepStatus) -> None:
        """Nothing runs any more, and the report is being made."""
        self._change(state="reporting", running=0, **_counts(state))

    def end(self, code: int, cause: str | None = None) -> None:
        """The last word, written when this returns.

        Raises:
            StoreError: it could not be written.
        """
        self._close(state="ended", exit_code=code, cause=cause)

    def suspend(self) -> None:
        """The last word of a launch that has not ended.

        Raises:
            StoreError: it could not be written.
        """
        self._close(state="starting", cause=SUSPENDED)

    def _close(self, **fields: Any) -> None:
        self.__exit__()
        self._look_at_machines()
        with self._lock:
            self._head = replace(self._head, running=0, slots=0, **fields)
        self._write()

    def exhausted_budget(self) -> str | None:
        """Which budget is used up."""
        budget, head = self._sweep.budget, self._head
        if head.deadline is not None and time.time() > head.deadline:
            return "the launch's time limit" if budget.max_hours is None else f"budget.max_hours={budget.max_hours:g}"
        if budget.max_usd is None or self._bill is None:
            return None
        if head.usd is not None and head.usd >= budget.max_usd:
            return f"budget.max_usd={budget.max_usd:g}"
        return None

    def why_stranded(self) -> str | None:
        """Why no trial can run; None before they have waited for half an hour, and where no place is asked."""
        with self._lock:
            since, known = self._unserved_since, self._stranded
        if known is not None or self._refused is None or since is None or self._clock() - since < STRANDED_SECONDS:
            return known
        answer = self._refused() or "no refusal, so workers cannot be set up (cluster.image, cluster.ray)"
        self._stranded = (
            f"trials have waited {STRANDED_SECONDS / 60:.0f} minutes for a worker; the place's last answer: {answer}; "
            "`check` says which quota or right is missing, and other types in cluster.worker or cluster.zones: auto "
            "may have capacity; the same command goes on where it was"
        )
        return self._stranded

    def _change(self, **fields: Any) -> None:
        with self._lock:
            self._head = replace(self._head, **fields)
        self._changed.set()

    def _write_until_ended(self) -> None:
        while not self._ended.is_set():
            self._changed.wait(TELL_SECONDS)
            self._changed.clear()
            if time.monotonic() - self._billed_at >= BILL_SECONDS:
                self._look_at_machines()
            try:
                self._write()
            except StoreError as error:  # the launch goes on without being seen; its own writes tell what is wrong
                self._console.print(f"head.json was not written: {error}", markup=False, soft_wrap=True)

    def _look_at_machines(self) -> None:
        """Machines as their place lists them; while it does not answer, those that are known go on costing."""
        self._billed_at = time.monotonic()
        try:
            seen = self._bill() if self._bill is not None else None
        except Exception:  # noqa: BLE001  (a place's answer of an unknown shape; the record must go on)
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
            and not self._told_unpriced
        ):
            self._told_unpriced = True
            unknown = ", ".join(sorted({node.type or node.name for node in nodes if node.usd_per_hour is None}))
            said = f"budget.max_usd cannot be held: no price of {unknown} is known; give cluster.prices"
            self._console.print(said, markup=False, soft_wrap=True)

    def _write(self) -> None:
        with self._lock:
            head = self._head
        if not self.lease.is_lost:
            launch_status.write(self._store, self._sweep.name, head)


def _has_died(head: LaunchStatus) -> bool:
    """Whether whoever wrote it has had no last word."""
    return not head.has_ended and head.cause != SUSPENDED


def _counts(state: SweepStatus) -> Mapping[str, int]:
    return {name: state.count(name) for name in COUNTED}
