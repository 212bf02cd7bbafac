"""A launch on other machines: start it from this machine, then follow it.

Until the supervisor runs on the head, every failure and interruption here removes the machines that were made.  After
that the launch no longer needs this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sweep.console import duration, say
from sweep.engine.code_copy import code_hash
from sweep.errors import DONE, INTERRUPTED, USER_ERROR, AlreadyRuns, Outcome, UserError
from sweep.launch.follow import SILENT_SECONDS, Following, HeadGone
from sweep.launch.prepared import Prepared, put_missing
from sweep.plan.launch_record import record
from sweep.plan.status import SweepStatus
from sweep.providers.base import Provider
from sweep.signals import interruptible
from sweep.store import launch_status
from sweep.store.base import StoreError
from sweep.store.lease import Lease, LeaseHeld, owner_name, take_over


@dataclass(frozen=True)
class RemoteLaunch(Prepared):
    """One launch of a sweep on a provider's machines.

    Attributes:
        provider: provider of the machines.
        status: status of the sweep, which decides the number of machines.
        command: returns the command line of another command on this sweep.
        skip_failed: do not run trials that have failed before.
    """

    provider: Provider[Any]
    status: SweepStatus
    command: Callable[[str], str]
    skip_failed: bool = False

    def run(self, *, detach: bool) -> Outcome:
        """Start the launch; unless `detach`, follow it to its end and remove the machines that are left.

        Raises:
            UserError: another launch of this sweep runs, data are missing, or the provider gives no machines.
            StoreError: the store failed.
        """
        try:
            number = self.start()
        except KeyboardInterrupt:
            return Outcome(INTERRUPTED, finished=False)
        if detach:
            self._say(f"launch {number} now runs without this machine.  {self._come_back()}")
            return Outcome(DONE, finished=False)
        return self.follow(number)

    def start(self) -> int:
        """Start the supervisor on the head.  Returns the number of the launch."""
        lease = self.lease(owner_name())
        try:
            with lease.hold(patience=lease.ttl_seconds):
                put_missing(self.sweep, self.store, self.console)
                with interruptible():
                    return self._start(lease)
        except LeaseHeld as held:
            raise self._refusal(f"sweep {self.sweep.name} is run by {held.owner}, for {duration(held.age)}") from None
        except AlreadyRuns as other:
            raise self._refusal(str(other)) from None

    def _refusal(self, cause: str) -> UserError:
        return UserError(f"{cause}.  {self._come_back()}; to run another one: --set sweep.name=NAME")

    def _start(self, lease: Lease) -> int:
        started, hours = time.time(), self.sweep.budget.max_hours
        head = launch_status.read(self.store, self.sweep.name)
        recent = head is not None and not head.has_ended and started - head.time < SILENT_SECONDS
        if head is not None and recent and self.provider.is_alive():
            # It holds no lease, because its driver is being restarted.
            raise AlreadyRuns(f"launch {head.launch} of sweep {self.sweep.name} runs")
        try:
            latest = None if hours is None else started + hours * 3600
            deadline = self.provider.provision(self.status, self.console, latest)
            if not lease.renew():  # this machine slept, and another launch has begun
                raise AlreadyRuns(f"another launch of sweep {self.sweep.name} has taken over")
            options = {"skip_failed": self.skip_failed, "deadline": deadline, "started": started}
            code = code_hash(self.sweep)
            number = self.ledger.put_spec({**record(self.sweep, self.platform), **options, "code": code})
            self.provider.submit(number)
        except AlreadyRuns:
            raise
        except BaseException as error:
            self._give_up("interrupted" if isinstance(error, KeyboardInterrupt) else "it failed")
            raise
        self._say(f"launch {number} has been started on the head and no longer needs this machine")
        return number

    def _give_up(self, why: str) -> None:
        """Remove the machines that were made; a second interruption returns at once."""
        self._say(f"{why}: removing what was made (Ctrl-C stops that; then use `down`)")
        if self._remove():
            try:
                launch_status.close(self.store, self.sweep.name, f"{why}: taken down by {owner_name()}", USER_ERROR)
            except StoreError as error:
                self._say(f"head.json was not written: {error}")

    def follow(self, number: int) -> Outcome:
        """Show progress until the launch has ended, then remove the machines that are left, unless another launch runs.

        Raises:
            UserError: the head is gone, or another launch has taken over.
            StoreError: the store has not answered for minutes; the head goes on.
        """
        is_alive, budget = self.provider.is_alive, self.sweep.budget
        following = Following(self.store, self.sweep.name, number, is_alive, budget, self.console)
        try:
            head = following.to_the_end()
        except KeyboardInterrupt:
            self._say(f"stopped watching: the launch goes on without this machine.  {self._come_back()}")
            return Outcome(INTERRUPTED, finished=False)
        except HeadGone as gone:
            if other := self._remove_own(number, partial(self._give_up, "the head is gone")):
                raise UserError(other) from None
            raise UserError(f"{gone}; every finished trial is kept; go on with: {self.command('launch')}") from None
        except StoreError as error:
            raise StoreError(f"{error}\nThe head goes on without this machine.  {self._come_back()}") from error
        if other := self._remove_own(number, self._remove):
            self._say(other)
        if head.cause:
            self._say(f"ended: {head.cause}", style="red" if head.exit_code == USER_ERROR else "")
        return Outcome(USER_ERROR if head.exit_code is None else head.exit_code)

    def _remove_own(self, number: int, remove: Callable[[], object]) -> str | None:
        """Remove the machines that a launch has left, unless another launch runs: its machines have the same names.

        A process that makes machines holds the sweep's lease.  After it has released the lease, and before the driver
        on the head has acquired it, only the ledger shows that a launch runs.

        Returns:
            A text on the other launch, and how to see it; None if there is none.
        """
        lease = self.lease(owner_name())
        try:
            take_over(lease)  # the launch's own driver holds it, and has ended or is about to end
            with lease.hold():
                if self.ledger.spec(number + 1) is None:
                    remove()
                    return None
            other = f"launch {number + 1} of sweep {self.sweep.name} has taken over"
        except LeaseHeld as held:
            other = f"sweep {self.sweep.name} is run by {held.owner}, for {duration(held.age)}"
        except (KeyboardInterrupt, StoreError) as error:
            self._warn(str(error) or "interrupted")
            return None
        return f"{other}: nothing was removed.  {self._come_back()}"

    def _remove(self) -> bool:
        """Remove all machines that are left.  Returns True if nothing is left."""
        try:
            removed = self.provider.teardown(self.console)
        except (KeyboardInterrupt, UserError) as error:
            self._warn("; ".join(error.problems) if isinstance(error, UserError) else "interrupted")
            return False
        self._say(f"removed: {', '.join(removed)}" if removed else "nothing is left of the machines")
        return True

    def _warn(self, why: str) -> None:
        self._say(f"{why}: machines may be left.  Remove them: {self.command('down')}", style="red")

    def _come_back(self) -> str:
        return f"To see it: {self.command('status')} --watch; to end it: {self.command('down')}"

    def _say(self, text: str, style: str = "") -> None:
        say(self.console, text, style)
