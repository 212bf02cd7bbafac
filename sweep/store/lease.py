"""Leases: one owner at a time, of a sweep or of a trial's checkpoint.

A lease is one object in the store, which is only changed by compare-and-swap.  Its holder renews it,
and each renewal changes its tag.  Another process takes the lease over in two cases: the holder's
process is known to be dead, or the tag stayed the same for the lease's whole lifetime.  That time is
measured on the observer's own monotonic clock: clocks of two machines are never compared.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from typing import Literal

from sweep.store.base import ObjectNotFound, Store, StoreError
from sweep.store.records import Shape, mismatch, parse_json

TTL_SECONDS = 30.0
LOOKS = 100  # tries of read-then-write; another process may write in between, but not every time
HANDOVER_SECONDS = 20.0  # time in which a holder that is alive but has finished can release it
WAIT_SECONDS = 10.0  # between two calls that tell a person that a lease is waited for
RENEWALS_PER_TTL = 3  # so two renewals may fail before an observer may take us for dead
BELIEF = 0.99  # share of the lifetime for which a holder believes; clocks of two machines run apart by less than 1 %
CALLS_PER_TTL = 6  # a call of a renewal is given up after a sixth of the lifetime, so that a later one may be in time


class LeaseHeld(Exception):
    """Refusal of a lease because another process holds it.

    Attributes:
        owner: name that the holder gave itself.
        age: seconds since the holder took it, by the two machines' wall clocks: for display only.
        alive: True if the holder was seen to renew it, or its process runs on this machine.  False if
            nothing is known yet; waiting for the lease's lifetime decides it.
    """

    def __init__(self, path: str, holder: Holder, alive: bool) -> None:
        self.owner = holder.owner
        self.age = max(0.0, time.time() - holder.since)
        self.alive = alive
        advice = "" if alive else f"; if that process is gone, ask again in {holder.ttl_seconds:.0f} s"
        super().__init__(
            f"{path} is held by {self.owner} (process {holder.pid} on {holder.host}) for {self.age:.0f} s{advice}"
        )


@dataclass(frozen=True)
class Holder:
    """Contents of the lease object, as JSON.

    Attributes:
        owner: name for people.
        host: host name, for people.
        machine: scope in which a process id is unique: one boot of one kernel, and its namespace.
        pid: process id; 0 after the lease was released.
        process_start: start of the process in the kernel's ticks; None if the kernel does not provide it.
        epoch: 1 for the first holder, one more for each later one.
        beat: number of renewals so far, so that every renewal changes the tag.
        since: time at which it was taken, in seconds since 1970, by the holder's clock.
        ttl_seconds: lifetime: how long an unchanged tag keeps other processes away.
    """

    owner: str = "unknown"
    host: str = "unknown"
    machine: str = ""
    pid: int = -1
    process_start: int | None = None
    epoch: int = 0
    beat: int = 0
    since: float = 0.0
    ttl_seconds: float = TTL_SECONDS

    @property
    def is_released(self) -> bool:
        return self.pid == 0

    @property
    def on_this_machine(self) -> bool:
        return bool(self.machine) and self.machine == this_machine()

    @property
    def dead(self) -> bool:
        """True if the process is known to be gone.  Only processes of this machine can be checked."""
        return self.on_this_machine and _process_ended(self.pid, self.process_start)


class Lease:
    """The right to be the only writer of something, for as long as it is renewed.

    Use `with lease.hold():`, which renews the lease in the background, and check `lease.is_lost` before
    each action that only the holder may take.  A launch goes on until `lease.is_taken`: in an outage of the store
    nobody renews a lease, but nobody takes one either.

    Args:
        store: store that contains the lease.
        path: path of its object.  The object stays after a release, because epochs only grow while it exists.
        owner: name to show to processes that are refused.
        ttl_seconds: how long others wait, after our last renewal, before they take over.
        clock: this process's monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        path: str,
        owner: str,
        ttl_seconds: float = TTL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = store
        self.path = path
        self.owner = owner
        self.ttl_seconds = ttl_seconds
        self._clock = clock
        self._lock = threading.RLock()  # shared with the renewing thread
        self._mine: Holder | None = None
        self._tag: str | None = None  # tag of our last write; None if we do not hold the lease
        self._renewed_at = 0.0
        self._seen: tuple[str, float] | None = None  # another holder's tag, and when we first saw it
        self._seen_alive = False

    @property
    def epoch(self) -> int:
        """Number of our time as holder: larger than that of every holder before; 0 before the first."""
        return self._mine.epoch if self._mine else 0

    @property
    def is_lost(self) -> bool:
        """True if we took the lease, did not release it, and another process has it or may have it.

        A holder that could not renew for nearly the whole lifetime counts as having lost the lease.  It counts as
        the holder again after a renewal succeeds, which proves that no other process took the lease.
        """
        if self._mine is None or self._mine.is_released:  # no lock: a renewal that hangs must not block this check
            return False
        return self._tag is None or self._clock() - self._renewed_at >= self.ttl_seconds * BELIEF

    @property
    def is_taken(self) -> bool:
        """True if we took the lease, did not release it, and have seen in the store that another process took it."""
        return self._mine is not None and not self._mine.is_released and self._tag is None

    def acquire(self, patience: float = 0.0, on_wait: Callable[[LeaseHeld], object] | None = None) -> Literal[True]:
        """Take the lease if it is free, released, or held by a dead process; renew it if it is ours.

        Args:
            patience: seconds for which to keep trying while the holder may be dead.  A holder on another
                machine is known to be dead only after the lease's lifetime.
            on_wait: called before the first wait, and then every `WAIT_SECONDS`.

        Raises:
            Held: another process holds it.  Raised at once if that process is known to be alive.
            StoreError: the store cannot be used.
        """
        deadline = speak_at = None
        while True:
            asked_at = self._clock()
            try:
                return self._take()
            except LeaseHeld as held:
                # Patience counts from the first look on, so that patience for the whole lifetime always suffices.
                deadline = self._clock() + patience if deadline is None else deadline
                if held.alive or not patience or asked_at >= deadline:
                    raise
                if on_wait is not None and (speak_at is None or asked_at >= speak_at):
                    speak_at = asked_at + WAIT_SECONDS
                    on_wait(held)
            time.sleep(min(1.0, self.ttl_seconds / 10))

    def renew(self, seconds: float = math.inf) -> bool:
        """Renew the lease, which proves to others that we are alive.

        Args:
            seconds: time after which each call of the store is given up; it may be long, as the store decides.

        Returns:
            False if the lease is not ours (any more); nothing was changed then.

        Raises:
            StoreError: the store cannot be used.  The lease may still be ours, see `is_lost`.
        """
        with self._lock:
            if self._mine is None or self._tag is None:
                return False
            record, store = replace(self._mine, beat=self._mine.beat + 1), self.store.within(seconds)
            if self._write(record, self._tag, store) or self._write_over_own(record, store):
                return True
            self._tag = None
            return False

    def release(self) -> None:
        """Make the lease free for others at once.  Do nothing if it is not ours."""
        with self._lock:
            if self._mine is not None and self._tag is not None:
                record, store = replace(self._mine, pid=0), self.store.within(self._call_seconds)
                _ = self._write(record, self._tag, store) or self._write_over_own(record, store)
                self._tag = None

    @contextmanager
    def hold(self, patience: float = 0.0, on_wait: Callable[[LeaseHeld], object] | None = None) -> Iterator[Lease]:
        """Acquire the lease, renew it from a background thread while the block runs, and release it.

        Args:
            patience, on_wait: as for `acquire`.

        Raises:
            Held, StoreError: from acquiring.  Losing the lease inside the block raises nothing: check
                `is_lost`.
        """
        self.acquire(patience, on_wait)
        done = threading.Event()
        thread = threading.Thread(target=self._renew_until, args=(done,), name=f"lease {self.path}", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()
            with suppress(StoreError):  # the lease expires by itself; the block's own error matters more
                self.release()

    @property
    def _call_seconds(self) -> float:
        return self.ttl_seconds / CALLS_PER_TTL

    def _renew_until(self, done: threading.Event) -> None:
        while not done.wait(self.ttl_seconds / RENEWALS_PER_TTL):
            with suppress(StoreError):  # an outage; `is_lost` becomes True when it lasts too long
                if not self.renew(self._call_seconds):
                    return

    def _take(self) -> Literal[True]:
        with self._lock:
            for _ in range(LOOKS):
                if self.renew():
                    return True
                asked_at = self._clock()
                epoch, tag = 0, None
                with suppress(ObjectNotFound):
                    data, tag = self.store.get_tagged(self.path)
                    holder = _parse(data)
                    self._judge(holder, tag, asked_at)
                    epoch = holder.epoch
                if self._write(self._record(epoch + 1), tag, self.store):
                    return True
        raise StoreError(
            f"cannot take {self.path} in {self.store.url}: each time it differs from what was read; "
            "look at that object, and delete it if no launch runs"
        )

    def _judge(self, holder: Holder, tag: str, asked_at: float) -> None:
        """Raise Held unless the lease may be taken over."""
        if holder.is_released or holder.dead:
            return
        if self._seen is None or self._seen[0] != tag:
            self._seen_alive = self._seen is not None
            self._seen = (tag, self._clock())  # time after the answer: the tag may have been written just then
        if asked_at - self._seen[1] < holder.ttl_seconds:
            raise LeaseHeld(self.path, holder, alive=self._seen_alive or holder.on_this_machine)

    def _write(self, record: Holder, tag: str | None, store: Store) -> bool:
        asked_at = self._clock()  # time before the request: others may see the new tag as early as this
        written = store.put_if(self.path, json.dumps(vars(record)).encode(), tag)
        if written is None:
            return False
        self._renewed_at, self._mine, self._tag, self._seen = asked_at, record, written, None
        return True

    def _write_over_own(self, record: Holder, store: Store) -> bool:
        """Write over our own last renewal, if that is what the store holds; renew a lease that was deleted.

        A renewal that failed in an outage may have reached the store nevertheless.
        """
        try:
            data, tag = store.get_tagged(self.path)
        except ObjectNotFound:
            return not record.is_released and self._write(record, None, store)
        found = _parse(data)
        ours = self._mine is not None and replace(found, beat=self._mine.beat) == self._mine
        # Equal bytes would leave the tag as it is, and an observer counts from when it saw that tag first.
        return ours and self._write(replace(record, beat=found.beat + 1), tag, store)

    def _record(self, epoch: int) -> Holder:
        return Holder(
            owner=self.owner,
            host=socket.gethostname(),
            machine=this_machine(),
            pid=os.getpid(),
            process_start=_process_start(os.getpid()),
            epoch=epoch,
            since=time.time(),
            ttl_seconds=self.ttl_seconds,
        )


def take_over(lease: Lease) -> None:
    """Take the lease from a holder that is dead, or that is alive and releases it soon.

    Raises:
        Held: a holder keeps it for longer than `HANDOVER_SECONDS`.
        StoreError: the store cannot be used.
    """
    until = time.monotonic() + HANDOVER_SECONDS
    while True:
        try:
            lease.acquire(patience=lease.ttl_seconds)
            return
        except LeaseHeld:
            if time.monotonic() > until:
                raise
        time.sleep(0.5)


def owner_name() -> str:
    """Return USER@HOST, the name under which other users see the holder of a sweep."""
    return f"{os.environ.get('USER', 'someone')}@{socket.gethostname()}"


def _parse(data: bytes) -> Holder:
    """Return the holder.  An unreadable record counts as another process's lease, which only the clock ends."""
    try:
        record = parse_json(data)
        if mismatch(record, _HOLDER) is not None:
            return Holder()
        return Holder(**{field.name: record[field.name] for field in fields(Holder) if field.name in record})
    except ValueError:
        return Holder()


_HOLDER: Shape = {
    "owner?": str, "host?": str, "machine?": str, "pid?": int, "process_start?": (int, None), "epoch?": int,
    "beat?": int, "since?": float, "ttl_seconds?": float,
}  # fmt: skip


def this_machine() -> str:
    """Identify one boot of this kernel and the namespace of process ids.

    A host name would not do: host names are not unique, and containers on one host do not see each
    other's processes.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _process_start(pid: int) -> int | None:
    """Return the start of a process in ticks since boot; 0 if it has ended unreaped, None if it is not visible."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()  # the process name before it may contain anything
    except OSError:
        return None
    return 0 if words[0] in (b"Z", b"X") else int(words[19])


def _process_ended(pid: int, start: int | None) -> bool:
    """Return True if the process is certainly gone.  Another process may have its id by now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's process, whose details may be hidden from us
    return start is not None and _process_start(pid) not in (start, None)
