"""Follow a launch that runs on a head, and print its status."""

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
SILENT_SECONDS = 60.0  # a head writes every 10 s; after this silence we check if its machine still exists
STORE_SECONDS = 600.0  # we wait so long for the store: a laptop may sleep or change its network


def status_lines(head: LaunchStatus, budget: Budget, now: float | None = None) -> list[str]:
    """Return the status of a launch as lines of text, one for each subject.

    Args:
        head: launch status that the head wrote last.
        budget: budget of the sweep.
        now: present time in seconds since 1970; None for the clock.
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
    spent = "unknown, since a price is missing" if head.usd is None else f"{head.usd:.2f}"
    limit = f"; budget.max_usd is {budget.max_usd:g}" if budget.max_usd is not None else ""
    return [*found, f"dollars so far: {spent}{limit}"]


def progress(head: LaunchStatus) -> str:
    """Return the progress of the trials as one line."""
    text = f"{head.done:,} of {head.trials:,} done, {head.running:,} running, {head.to_run:,} to run"
    text += "".join(f", {number:,} {name}" for name, number in _troubles(head).items() if number)
    alive = sum(node.alive for node in head.nodes)
    text += f"; {alive} machine{'s' if alive != 1 else ''}"
    return text if head.usd is None else f"{text}, {head.usd:.2f} dollars"


def _troubles(head: LaunchStatus) -> dict[str, int]:
    return {"failed": head.failed, "pruned": head.pruned, "preempted": head.preemptions}


def _state(head: LaunchStatus, now: float) -> str:
    if head.has_ended:
        cause = f": {head.cause}" if head.cause else ""
        return f"ended {duration(max(0.0, now - head.time))} ago with exit code {head.exit_code}{cause}"
    silent = max(0.0, now - head.time)
    silence = f", but silent for {duration(silent)}" if silent > SILENT_SECONDS else ""
    return f"{head.state} for {duration(max(0.0, now - head.since))}{silence}"


def _nodes(head: LaunchStatus) -> str:
    """Return the machines by kind, such as "1 m6i.large on demand, 2 g5.xlarge spot; 1 gone"."""
    kinds = Counter(_kind(node) or "of unknown type" for node in head.nodes if node.alive)
    gone = sum(not node.alive for node in head.nodes)
    alive = ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none now"
    return f"{alive}; {gone} gone" if gone else alive


def _refusals(head: LaunchStatus) -> list[str]:
    """Return the provider's last refusal of a worker as a list of one line; [] if no trial waits for a machine."""
    if head.refused is None or head.has_ended or head.to_run <= head.running:
        return []
    return [f"no {'further ' if head.slots else ''}worker yet: {head.refused}"]


def _kind(node: Node) -> str:
    return " ".join(filter(None, [node.type, node.market]))


def _describe_node(node: Node) -> str:
    """Return type and zone of a node, such as ": g5.xlarge spot in us-east-1c"; "" for a host without them."""
    zone = f"in {node.zone}" if node.zone else ""
    text = " ".join(filter(None, [_kind(node), zone]))
    return f": {text}" if text else ""


class HeadGone(UserError):
    """The head is silent, and its machine does not exist any more."""


@dataclass
class Following:
    """Reader of the launch status that a head writes, until the launch has ended.

    Attributes:
        store, sweep: store and name of the sweep.
        launch: number of the launch.
        alive: returns whether the head's machine is up; None if that is unknown now.
        budget: budget of the sweep.
        console: for progress.
        clock: returns monotonic seconds.
        sleep: lets seconds pass.
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
        self._heard_at = self._answered_at = self._looked_at = self.clock()
        self._display = Display(self.console, self.clock)

    def to_the_end(self) -> LaunchStatus:
        """Show the status until the launch has ended.

        Returns:
            The last status of the launch.

        Raises:
            HeadGone: the head has been silent for a minute, and its machine does not exist any more.
            UserError: another launch has taken over.
            StoreError: the store has not answered for ten minutes.
        """
        with self._display:
            while True:
                head = self._read()
                if head is not None:
                    self._show(head)
                    if head.has_ended:
                        return head
                silent = self.clock() - self._heard_at
                if silent >= SILENT_SECONDS and self.clock() - self._looked_at >= SILENT_SECONDS:
                    self._looked_at = self.clock()
                    self._look(silent)
                self.sleep(POLL_SECONDS)

    def _read(self) -> LaunchStatus | None:
        """Read the launch status.  Returns None if it is not new, or the store does not answer."""
        try:
            head = launch_status.read(self.store, self.sweep)
        except StoreError as error:
            failing = self.clock() - self._answered_at
            if failing >= STORE_SECONDS:
                raise
            if failing >= SILENT_SECONDS:
                text = f"the store has not answered for {duration(failing)}, asking again: {error}"
                self._display.now_and_then(text)
            # Without the store nothing can be known of the head, so this time does not count as its silence.
            self._heard_at = self.clock()
            return None
        self._answered_at = self.clock()
        if head is None or head.launch < self.launch:
            return None
        if head.launch > self.launch:
            raise UserError(f"launch {head.launch} of sweep {self.sweep} has taken over from launch {self.launch}")
        if head == self._head:
            return None
        self._heard_at = self.clock()
        return head

    def _show(self, head: LaunchStatus) -> None:
        before, self._head = self._head, head
        for event in _events(before, head):
            self._display.say(event)
        shown = [progress(head), *status_lines(head, self.budget)]
        self._display.show(lambda: Group(*map(Text, shown)), shown[0])

    def _look(self, silent: float) -> None:
        if self.alive() is False:
            raise HeadGone(
                f"the head is gone: it has been silent for {duration(silent)}, and its machine does not exist any more"
            )
        self._display.now_and_then(
            f"the head has been silent for {duration(silent)}; it may be starting its driver again"
        )


def _events(before: LaunchStatus | None, head: LaunchStatus) -> list[str]:
    """Return what has changed between two statuses of a launch, one line each."""
    found = []
    if before is None or before.state != head.state:
        found.append(f"the head: {head.state}")
    known = {node.name for node in before.nodes if node.alive} if before is not None else set()
    now = {node.name: node for node in head.nodes if node.alive}
    found += [f"machine {name} is there{_describe_node(node)}" for name, node in now.items() if name not in known]
    found += [f"machine {name} is gone" for name in sorted(known - set(now))]
    if before is None or not _refusals(before):  # later refusals differ only in the zone; `lines` shows the last one
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
