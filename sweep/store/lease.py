"""One owner at a time: of a sweep, of a trial's checkpoint.

A lease is one object in the store, changed by compare-and-swap alone.  Its holder renews it, which
changes its tag.  An observer takes it over when the holder's process is known to be dead, or when
the tag stayed the same for the lease's whole lifetime on the observer's own monotonic clock: no
two machines' clocks are ever compared.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

from sweep.store.base import ObjectNotFound, Store, StoreError

TTL_SECONDS = 30.0
LOOKS = 100  # somebody may be faster between our look and our write, but not always
HANDOVER_SECONDS = 20.0  # for a holder that lives and is done
RENEWALS_PER_TTL = 3  # two may fail before an observer may think us dead


class Held(Exception):
    """Somebody else has the lease.

    Attributes:
        owner: who, as they named themselves.
        age: seconds since they took it, by the two machines' wall clocks: to be shown, not reckoned with.
        alive: True when they were seen to renew it, or their process runs on this machine; False
            when nothing is known yet, and waiting for the lease's lifetime would tell.
    """

    def __init__(self, path: str, holder: Holder, alive: bool) -> None:
        self.owner = holder.owner
        self.age = max(0.0, time.time() - holder.since)
        self.alive = alive
        hope = "" if alive else f"; if that process is gone, ask again in {holder.ttl_seconds:.0f} s"
        super().__init__(
            f"{path} is held by {self.owner} (process {holder.pid} on {holder.host}) for {self.age:.0f} s{hope}"
        )


@dataclass(frozen=True)
class Holder:
    """What the lease object says, as JSON.

    Attributes:
        owner: name for people.
        host: host name, for people.
        machine: what a process id is unique in: one boot of one kernel, and its namespace.
        pid: process id; 0 when the lease was released.
        process_start: when the process started, in the kernel's ticks; None where it does not say.
        epoch: 1 for the first holder, one more for each later one.
        beat: renewals so far, so that every renewal changes the tag.
        since: seconds since 1970 when it was taken, by the holder's clock.
        ttl_seconds: for how long an unchanged tag keeps others away.
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
        return bool(self.machine) and self.machine == _machine()

    @property
    def dead(self) -> bool:
        """Whether the process is known to be gone; only this machine's own can be known."""
        return self.on_this_machine and _process_ended(self.pid, self.process_start)


class Lease:
    """The right to be the only one who writes something, for as long as it is renewed.

    Use `with lease.held():`, which renews it in the background, and look at `lease.lost` before
    doing what only a holder may do.

    Args:
        store: where the lease lies.
        path: of its object, which stays after a release: while it stays, epochs only grow.
        owner: name shown to whoever is refused.
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
        self._lock = threading.RLock()  # the renewing thread and the holder's own
        self._mine: Holder | None = None
        self._tag: str | None = None  # of our last write; None when we do not hold it
        self._renewed_at = 0.0
        self._seen: tuple[str, float] | None = None  # a stranger's tag, and when we first saw it
        self._seen_alive = False

    @property
    def epoch(self) -> int:
        """Number of our holding: larger than that of every holder before; 0 before the first."""
        return self._mine.epoch if self._mine else 0

    @property
    def is_lost(self) -> bool:
        """Whether we took the lease, did not release it, and others have it now or may have it.

        A holder that could not renew for the whole lifetime counts as having lost it, until a
        renewal succeeds and so proves that nobody took it.
        """
        if self._mine is None or self._mine.is_released:  # no lock: a renewal that hangs must not hang us
            return False
        return self._tag is None or self._clock() - self._renewed_at >= self.ttl_seconds

    def acquire(self, patience: float = 0.0) -> Literal[True]:
        """Take the lease if it is free, released or a dead holder's; renew it if it is ours.

        Args:
            patience: seconds to go on asking for, while the holder may be dead.  A holder on
                another machine is only known to be dead after its lease's lifetime.

        Raises:
            Held: if somebody else has it, at once when they are known to be alive.
            StoreError: if the store cannot be asked.
        """
        deadline = None
        while True:
            asked_at = self._clock()
            try:
                return self._take()
            except Held as held:
                # From the first look on, so that patience for the whole lifetime always suffices.
                deadline = self._clock() + patience if deadline is None else deadline
                if held.alive or not patience or asked_at >= deadline:
                    raise
            time.sleep(min(1.0, self.ttl_seconds / 10))

    def renew(self) -> bool:
        """Prove that we live.

        Returns:
            False when the lease is not ours (any more); nothing was changed then.

        Raises:
            StoreError: if the store cannot be asked; the lease may still be ours, see `lost`.
        """
        with self._lock:
            if self._mine is None or self._tag is None:
                return False
            record = replace(self._mine, beat=self._mine.beat + 1)
            if self._write(record, self._tag) or self._write_over_own(record):
                return True
            self._tag = None
            return False

    def release(self) -> None:
        """Let others have it at once.  What is not ours is left alone."""
        with self._lock:
            if self._mine is not None and self._tag is not None:
                self._write(replace(self._mine, pid=0), self._tag)
                self._tag = None

    @contextmanager
    def hold(self, patience: float = 0.0) -> Iterator[Lease]:
        """Acquire, renew from a background thread while the block runs, release.

        Args:
            patience: as for `acquire`.

        Raises:
            Held, StoreError: from acquiring.  Losing the lease inside the block raises nothing:
                see `lost`.
        """
        self.acquire(patience)
        done = threading.Event()
        thread = threading.Thread(target=self._renew_until, args=(done,), name=f"lease {self.path}", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()
            with suppress(StoreError):  # it runs out by itself; the block's own error matters more
                self.release()

    def _renew_until(self, done: threading.Event) -> None:
        while not done.wait(self.ttl_seconds / RENEWALS_PER_TTL):
            with suppress(StoreError):  # an outage: `lost` tells when it has lasted too long
                if not self.renew():
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
                if self._write(self._record(epoch + 1), tag):
                    return True
        raise StoreError(
            f"cannot take {self.path} in {self.store.url}: each time it is another than was read; "
            "see what is there, and delete it when nobody runs"
        )

    def _judge(self, holder: Holder, tag: str, asked_at: float) -> None:
        """Raises Held unless the lease may be taken over."""
        if holder.is_released or holder.dead:
            return
        if self._seen is None or self._seen[0] != tag:
            self._seen_alive = self._seen is not None
            self._seen = (tag, self._clock())  # after the answer: the tag may be no older than that
        if asked_at - self._seen[1] < holder.ttl_seconds:
            raise Held(self.path, holder, alive=self._seen_alive or holder.on_this_machine)

    def _write(self, record: Holder, tag: str | None) -> bool:
        asked_at = self._clock()  # before the request: others may see it as early as that
        written = self.store.put_if(self.path, json.dumps(asdict(record)).encode(), tag)
        if written is None:
            return False
        self._renewed_at, self._mine, self._tag, self._seen = asked_at, record, written, None
        return True

    def _write_over_own(self, record: Holder) -> bool:
        """A renewal that failed in an outage may have reached the store all the same."""
        try:
            data, tag = self.store.get_tagged(self.path)
        except ObjectNotFound:
            return False
        return replace(_parse(data), beat=record.beat) == record and self._write(record, tag)

    def _record(self, epoch: int) -> Holder:
        return Holder(
            owner=self.owner,
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            process_start=_process_start(os.getpid()),
            epoch=epoch,
            since=time.time(),
            ttl_seconds=self.ttl_seconds,
        )


def take_over(lease: Lease) -> None:
    """Take the lease of a holder that is dead, or lives and lets go of it soon.

    Raises:
        Held: somebody keeps it.
        StoreError: the store cannot be asked.
    """
    until = time.monotonic() + HANDOVER_SECONDS
    while True:
        try:
            lease.acquire(patience=lease.ttl_seconds)
            return
        except Held:
            if time.monotonic() > until:
                raise
        time.sleep(0.5)


def owner_name() -> str:
    """USER@HOST, as others are told who has a sweep."""
    return f"{os.environ.get('USER', 'someone')}@{socket.gethostname()}"


def _parse(data: bytes) -> Holder:
    """The record; one that cannot be read is a stranger's, judged by the clock alone."""
    try:
        record = json.loads(data)
        return Holder(**{field.name: record[field.name] for field in fields(Holder) if field.name in record})
    except (ValueError, TypeError):
        return Holder()


def _machine() -> str:
    """Host names are not unique, and containers of one host do not see each other's processes."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _process_start(pid: int) -> int | None:
    """Start of a process in ticks since boot; 0 if it only waits to be reaped, None if not to be seen."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
    except OSError:
        return None
    return 0 if words[0] in (b"Z", b"X") else int(words[19])


def _process_ended(pid: int, start: int | None) -> bool:
    """Whether that process is gone for certain; its id may have gone to another one since."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # another user's, and maybe hidden from us
    return start is not None and _process_start(pid) not in (start, None)
