"""A launch on machines elsewhere: what this machine does before they run by themselves, and following them.

From the first call that may make a machine to the moment when the supervisor runs on the head, whatever goes
wrong here takes everything down again.  From then on nothing here is needed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sweep.console import duration, say
from sweep.errors import DONE, INTERRUPTED, USER_ERROR, AlreadyRuns, Outcome, UserError
from sweep.launch.follow import SILENT_SECONDS, Following, HeadGone
from sweep.launch.prepared import Prepared, put_missing
from sweep.plan.launch_record import record
from sweep.providers.base import Provider
from sweep.signals import _interruptible
from sweep.store import launch_status
from sweep.store.base import StoreError
from sweep.store.lease import Held, Lease, owner_name, take_over


@dataclass(frozen=True)
class RemoteLaunch(Prepared):
    """One launch of a sweep on a place.

    Attributes:
        place: the machines.
        command: the command line of a verb on this sweep.
        skip_failed: leave trials alone that have failed before.
    """

    place: Provider
    command: Callable[[str], str]
    skip_failed: bool = False

    def run(self, *, detach: bool) -> Outcome:
        """Start it; unless it shall be left alone, follow it to its end and see that nothing is left.

        Raises:
            UserError: another launch of this sweep runs, data are missing, or machines cannot be had.
            StoreError: the store failed.
        """
        try:
            number = self.start()
        except KeyboardInterrupt:
            return Outcome(INTERRUPTED, finished=False)
        if detach:
            self._say(f"launch {number} runs on its own now.  {self._come_back()}")
            return Outcome(DONE, finished=False)
        return self.follow(number)

    def start(self) -> int:
        """Have the supervisor run on the head; the launch's number."""
        lease = self._lease()
        try:
            with lease.hold(patience=lease.ttl_seconds):
                put_missing(self.sweep, self.store, self.console)
                with _interruptible():
                    return self._start(lease)
        except Held as held:
            raise self._refusal(f"sweep {self.sweep.name} is run by {held.owner}, for {duration(held.age)}") from None
        except AlreadyRuns as other:
            raise self._refusal(str(other)) from None

    def _refusal(self, what: str) -> UserError:
        return UserError(f"{what}.  {self._come_back()}; another one beside it: --set sweep.name=NAME")

    def _start(self, lease: Lease) -> int:
        started, hours = time.time(), self.sweep.budget.max_hours
        head = launch_status.read(self.store, self.sweep.name)
        if head is not None and not head.has_ended and started - head.time < SILENT_SECONDS and self.place.alive():
            raise AlreadyRuns(f"launch {head.launch} of sweep {self.sweep.name} runs")  # its driver is being restarted
        try:
            deadline = self.place.make(self.console, None if hours is None else started + hours * 3600)
            if not lease.renew():  # this machine has slept, and somebody else has launched meanwhile
                raise AlreadyRuns(f"another launch of sweep {self.sweep.name} has taken over")
            told = {"skip_failed": self.skip_failed, "deadline": deadline, "started": started}
            number = self.ledger.put_spec({**record(self.sweep, self.platform), **told})
            self.place.submit(number)
        except AlreadyRuns:
            raise
        except BaseException as error:
            self._give_up("interrupted" if isinstance(error, KeyboardInterrupt) else "it failed")
            raise
        self._say(f"launch {number} has been started on the head; it needs this machine no more")
        return number

    def _give_up(self, why: str) -> None:
        """Take down what was made; a second interruption leaves at once."""
        self._say(f"{why}: taking down what was made (Ctrl-C leaves it to `down`)")
        if self._take_down():
            try:
                launch_status.close(self.store, self.sweep.name, f"{why}: taken down by {owner_name()}", USER_ERROR)
            except StoreError as error:
                self._say(f"head.json was not written: {error}")

    def follow(self, number: int) -> Outcome:
        """Show progress until the launch has ended, and remove what is left then, if no other one runs by now.

        Raises:
            UserError: the head is gone, or another launch has taken over.
            StoreError: the store has not answered for minutes; the head goes on.
        """
        following = Following(
            self.store, self.sweep.name, number, self.place.alive, self.sweep.budget, self.console
        )  # fmt: skip
        try:
            head = following.to_the_end()
        except KeyboardInterrupt:
            self._say(f"left alone: it goes on without this machine.  {self._come_back()}")
            return Outcome(INTERRUPTED, finished=False)
        except HeadGone as gone:
            if other := self._remove_own(number, partial(self._give_up, "the head is gone")):
                raise UserError(other) from None
            raise UserError(f"{gone}; every finished trial is kept, go on with: {self.command('launch')}") from None
        except StoreError as error:
            raise StoreError(f"{error}\nThe head goes on without this machine.  {self._come_back()}") from error
        if other := self._remove_own(number, self._take_down):
            self._say(other)
        if head.cause:
            self._say(f"ended: {head.cause}", style="red" if head.exit_code == USER_ERROR else "")
        return Outcome(USER_ERROR if head.exit_code is None else head.exit_code)

    def _remove_own(self, number: int, remove: Callable[[], object]) -> str | None:
        """Remove what a launch has left, unless another one runs by now: its machines go by the same name.

        Who makes machines holds the sweep's lease.  From then until its driver has it, the ledger alone knows it.

        Returns:
            that another one runs, and how to see it; None where there is none.
        """
        lease = self._lease()
        try:
            take_over(lease)  # of the launch's own driver, which has ended or is about to
            with lease.hold():
                if self.ledger.spec(number + 1) is None:
                    remove()
                    return None
            other = f"launch {number + 1} of sweep {self.sweep.name} has taken over"
        except Held as held:
            other = f"sweep {self.sweep.name} is run by {held.owner}, for {duration(held.age)}"
        except (KeyboardInterrupt, StoreError) as error:
            self._tell_left(str(error) or "interrupted")
            return None
        return f"{other}: nothing was removed.  {self._come_back()}"

    def _take_down(self) -> bool:
        """Whatever still stands; after a launch that ended, what the head may not remove.  Whether all is gone."""
        try:
            removed = self.place.tear_down(self.console)
        except (KeyboardInterrupt, UserError) as error:
            said = "; ".join(error.problems) if isinstance(error, UserError) else "interrupted"
            self._tell_left(said)
            return False
        self._say(f"removed: {', '.join(removed)}" if removed else "nothing is left of the machines")
        return True

    def _tell_left(self, why: str) -> None:
        self._say(f"{why}: machines may be left.  Remove them: {self.command('down')}", style="red")

    def _lease(self) -> Lease:
        return Lease(self.store, f"sweeps/{self.sweep.name}/lease", owner_name())

    def _come_back(self) -> str:
        return f"To see it: {self.command('status')} --watch; to end it: {self.command('down')}"

    def _say(self, text: str, style: str = "") -> None:
        say(self.console, text, style)
