"""What the head of a cluster says of its sweep, for a person, and following it to the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console, Group
from rich.text import Text

from sweep.console import Display, duration
from sweep.errors import UserError
from sweep.spec.sweep import Budget
from sweep.store import launch_status
from sweep.store.base import Store, StoreError
from sweep.store.launch_status import LaunchStatus, Node

POLL_SECONDS = 3.0
SILENT_SECONDS = 60.0  # of a head that writes every ten seconds; then its machine is looked for
STORE_SECONDS = 600.0  # without an answer of the store: a laptop that slept, a network that changed


def lines(head: LaunchStatus, budget: Budget, now: float | None = None) -> list[str]:
    """What a head says, one line a subject.

    Args:
        head: its last word.
        budget: of the sweep.
        now: seconds since 1970.
    """
    now = time.time() if now is None else now
    found = [f"launch {head.launch} on the head: {_state(head, now)}"]
    if head.nodes and head.has_ended:
        found.append(f"machines: {len(head.nodes)} in all")
    elif head.nodes:
        found.append(f"machines: {_nodes(head)}")
    found += _refusals(head)
    if head.preemptions or head.restarts:
        found.append(f"preemptions: {head.preemptions}, restarts of the driver: {head.restarts}")
    spent = "unknown, for want of a price" if head.usd is None else f"{head.usd:.2f}"
    limit = f"; budget.max_usd is {budget.max_usd:g}" if budget.max_usd is not None else ""
    return [*found, f"dollars so far: {spent}{limit}"]


def progress(head: LaunchStatus) -> str:
    """One line on trials."""
    said = f"{head.done:,} of {head.trials:,} done, {head.running:,} running, {head.to_run:,} to run"
    said += "".join(f", {number:,} {name}" for name, number in _troubles(head).items() if number)
    alive = sum(node.alive for node in head.nodes)
    said += f"; {alive} machine{'s' if alive != 1 else ''}"
    return said if head.usd is None else f"{said}, {head.usd:.2f} dollars"


def _troubles(head: LaunchStatus) -> dict[str, int]:
    return {"failed": head.failed, "pruned": head.pruned, "preempted": head.preemptions}


def _state(head: LaunchStatus, now: float) -> str:
    if head.has_ended:
        cause = f": {head.cause}" if head.cause else ""
        return f"ended {duration(max(0.0, now - head.time))} ago with exit code {head.exit_code}{cause}"
    silent = max(0.0, now - head.time)
    heard = f", but not heard of for {duration(silent)}" if silent > SILENT_SECONDS else ""
    return f"{head.state} for {duration(max(0.0, now - head.since))}{heard}"


def _nodes(head: LaunchStatus) -> str:
    """E.g. "1 m6i.large on demand, 2 g5.xlarge spot; 1 gone"."""
    kinds = Counter(_kind(node) or "of unknown type" for node in head.nodes if node.alive)
    gone = sum(not node.alive for node in head.nodes)
    alive = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none now"
    return f"{alive}; {gone} gone" if gone else alive


def _refusals(head: LaunchStatus) -> list[str]:
    """The place's last one, while trials wait for a machine."""
    if head.refused is None or head.has_ended or head.to_run <= head.running:
        return []
    return [f"no {'further ' if head.slots else ''}worker yet: {head.refused}"]


def _kind(node: Node) -> str:
    return " ".join(filter(None, [node.type, node.market]))


def _describe_node(node: Node) -> str:
    """E.g. ": g5.xlarge spot in us-east-1c"; nothing for a host that has neither type nor zone."""
    zone = f"in {node.zone}" if node.zone else ""
    said = " ".join(filter(None, [_kind(node), zone]))
    return f": {said}" if said else ""


class HeadGone(UserError):
    """The head stopped speaking, and its machine is not there."""


@dataclass
class Following:
    """Reads what a head says until its launch has ended.

    Attributes:
        store, sweep: where it speaks.
        launch: number of the launch.
        alive: whether the head's machine is up; None where that cannot be found out now.
        budget: of the sweep.
        console: for progress.
        clock, sleep: monotonic seconds, and waiting for some.
    """

    store: Store
    sweep: str
    launch: int
    alive: Callable[[], bool | None]
    budget: Budget
    console: Console
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self._head: LaunchStatus | None = None
        self._heard = self._answered = self._looked = self.clock()
        self._display = Display(self.console, self.clock)

    def to_the_end(self) -> LaunchStatus:
        """Show what the head says until the launch has ended; its last word.

        Raises:
            HeadGone: it has been silent for a minute, and its machine is not there.
            UserError: another launch has taken over.
            StoreError: the store has not answered for ten minutes.
        """
        with self._display:
            while True:
                head = self._read()
                if head is not None:
                    self._tell(head)
                    if head.has_ended:
                        return head
                silent = self.clock() - self._heard
                if silent >= SILENT_SECONDS and self.clock() - self._looked >= SILENT_SECONDS:
                    self._looked = self.clock()
                    self._look(silent)
                self.sleep(POLL_SECONDS)

    def _read(self) -> LaunchStatus | None:
        """A word of this launch's head, None where there is no new one."""
        try:
            head = launch_status.read(self.store, self.sweep)
        except StoreError as error:
            failing = self.clock() - self._answered
            if failing >= STORE_SECONDS:
                raise
            if failing >= SILENT_SECONDS:
                said = f"the store has not answered for {duration(failing)}, asking again: {error}"
                self._display.now_and_then(said)
            # Nothing can be heard of the head meanwhile, and that is not its silence.
            self._heard = self.clock()
            return None
        self._answered = self.clock()
        if head is None or head.launch < self.launch:
            return None
        if head.launch > self.launch:
            raise UserError(f"launch {head.launch} of sweep {self.sweep} has taken over from launch {self.launch}")
        if head == self._head:
            return None
        self._heard = self.clock()
        return head

    def _tell(self, head: LaunchStatus) -> None:
        before, self._head = self._head, head
        for event in _events(before, head):
            self._display.say(event)
        shown = [progress(head), *lines(head, self.budget)]
        self._display.show(lambda: Group(*map(Text, shown)), shown[0])

    def _look(self, silent: float) -> None:
        if self.alive() is False:
            raise HeadGone(
                f"the head is gone: nothing heard of it for {duration(silent)}, and its machine is not there"
            )
        self._display.now_and_then(
            f"nothing heard of the head for {duration(silent)}; it may be starting its driver again"
        )


def _events(before: LaunchStatus | None, head: LaunchStatus) -> list[str]:
    """What has happened between two words of a head, one line each."""
    found = []
    if before is None or before.state != head.state:
        found.append(f"the head: {head.state}")
    known = {node.name for node in before.nodes if node.alive} if before is not None else set()
    now = {node.name: node for node in head.nodes if node.alive}
    found += [f"machine {name} is there{_describe_node(node)}" for name, node in now.items() if name not in known]
    found += [f"machine {name} is gone" for name in sorted(known - set(now))]
    if before is None or not _refusals(before):  # what follows it differs by a zone, and stands below
        found += _refusals(head)
    for name, count in _counts(head).items():
        more = count - (_counts(before)[name] if before is not None else 0)
        if more > 0:
            found.append(f"{name}: {more} more, {count} in all")
    return found


def _counts(head: LaunchStatus) -> dict[str, int]:
    return {
        "trials preempted, to go on where they were": head.preemptions,
        "trials failed": head.failed,
        "restarts of the driver": head.restarts,
    }
