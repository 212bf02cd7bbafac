"""Leases over every kind of store: one holder at a time, and the rules for taking a lease over."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweep.store import open_store
from sweep.store.base import Store, StoreError
from sweep.store.lease import Lease, LeaseHeld
from sweep.store.local import LocalStore
from tests.support.stores import at_once, script

PATH = "sweeps/s/lease"


class Clock:
    """Monotonic clock that a test sets."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["folder_url", "moto_url", "seaweed_url"])
def store(request: pytest.FixtureRequest) -> Store:
    return open_store(request.getfixturevalue(request.param))


@pytest.fixture
def local(folder_url: str) -> Store:
    return open_store(folder_url)


def edit(store: Store, **fields: Any) -> None:
    """Change fields of the lease object."""
    store.put(PATH, json.dumps({**json.loads(store.get(PATH)), **fields}).encode())


def from_elsewhere(store: Store, owner: str = "other", clock: Callable[[], float] = time.monotonic) -> Lease:
    """Return a lease that a living process of another machine holds."""
    lease = Lease(store, PATH, owner, ttl_seconds=30, clock=clock)
    lease.acquire()
    edit(store, machine="another boot", host="elsewhere")
    return lease


def test_a_lease_has_one_holder_and_passes_on_after_a_release(store: Store) -> None:
    first, second = Lease(store, PATH, "anna"), Lease(store, PATH, "bob")
    assert first.acquire()
    with pytest.raises(LeaseHeld):
        second.acquire()
    first.release()
    assert second.acquire()
    with pytest.raises(LeaseHeld):
        first.acquire()
    assert not first.renew()
    assert second.renew()


def test_of_many_who_ask_at_once_one_gets_it(store: Store) -> None:
    def ask(lease: Lease) -> bool:
        try:
            return lease.acquire()
        except LeaseHeld:
            return False

    for turn in range(3):
        leases = [Lease(store, PATH, f"owner {n}") for n in range(4)]
        got = at_once([lambda lease=lease: ask(lease) for lease in leases])  # type: ignore[misc]
        assert got.count(True) == 1
        winner = leases[got.index(True)]
        assert winner.epoch == turn + 1
        winner.release()


def test_held_names_the_owner_the_machine_and_the_age(local: Store) -> None:
    Lease(local, PATH, "anna's launch").acquire()
    edit(local, since=time.time() - 90, host="lab-7")
    with pytest.raises(LeaseHeld, match=r"anna's launch \(process \d+ on lab-7\) for 9\d s") as held:
        Lease(local, PATH, "bob").acquire()
    assert held.value.owner == "anna's launch"
    assert 90 <= held.value.age < 150


def test_a_holder_whose_process_is_dead_is_taken_over_at_once(store: Store) -> None:
    holder = script(HOLDER, pickle.dumps(store).hex())
    assert holder.stdout and holder.stdout.readline() == "held\n"
    ours = Lease(store, PATH, "ours")
    with pytest.raises(LeaseHeld) as held:
        ours.acquire()
    assert held.value.alive
    holder.kill()
    holder.communicate()
    assert ours.acquire()
    assert ours.epoch == 2


HOLDER = """
import pickle, sys, time
from sweep.store.lease import Lease
Lease(pickle.loads(bytes.fromhex(sys.argv[1])), "sweeps/s/lease", "child").acquire()
print("held", flush=True)
time.sleep(600)
"""


def test_a_killed_holder_is_dead_even_before_its_parent_has_noticed(local: Store) -> None:
    holder = script(HOLDER, pickle.dumps(local).hex())
    assert holder.stdout and holder.stdout.readline() == "held\n"
    holder.kill()
    assert holder.stdout.read() == ""  # its end of the pipe is closed: the process has ended, but is not reaped
    stat = Path(f"/proc/{holder.pid}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX":
        time.sleep(0.001)
    assert Lease(local, PATH, "ours").acquire()
    holder.communicate()


def test_a_process_id_that_was_given_to_another_process_does_not_keep_the_lease(local: Store) -> None:
    Lease(local, PATH, "dead").acquire()
    if json.loads(local.get(PATH))["process_start"] is None:
        pytest.skip("this system does not show when a process started")
    edit(local, process_start=1)
    assert Lease(local, PATH, "ours").acquire()


def test_a_process_id_of_another_machine_is_not_looked_up_here(local: Store) -> None:
    from_elsewhere(local)
    edit(local, pid=2**22 + 1)
    with pytest.raises(LeaseHeld) as held:
        Lease(local, PATH, "ours").acquire()
    assert not held.value.alive


def test_a_holder_elsewhere_is_taken_over_after_its_lifetime_on_our_own_clock(store: Store) -> None:
    from_elsewhere(store)
    clock = Clock()
    ours = Lease(store, PATH, "ours", ttl_seconds=5, clock=clock)
    for seconds in (0, 10, 29.9):  # the holder's lifetime counts, not ours
        clock.now = 1000 + seconds
        with pytest.raises(LeaseHeld):
            ours.acquire()
    clock.now = 1030
    assert ours.acquire()
    assert ours.epoch == 2


@pytest.mark.parametrize("since", [0.0, 4e9])
def test_a_wrong_wall_clock_elsewhere_decides_nothing(local: Store, since: float) -> None:
    from_elsewhere(local)
    edit(local, since=since)
    clock = Clock()
    ours = Lease(local, PATH, "ours", clock=clock)
    with pytest.raises(LeaseHeld) as held:
        ours.acquire()
    assert held.value.age >= 0
    clock.now += 30
    assert ours.acquire()


def test_a_holder_elsewhere_who_renews_is_never_taken_over(store: Store) -> None:
    there = Lease(store, PATH, "other")
    there.acquire()
    clock = Clock()
    ours = Lease(store, PATH, "ours", clock=clock)
    for beat in range(8):
        assert there.renew()
        beaten, tag = store.get_tagged(PATH)
        edit(store, machine="another boot")
        with pytest.raises(LeaseHeld) as held:
            ours.acquire()
        assert held.value.alive == (beat > 0)
        assert store.put_if(PATH, beaten, store.get_tagged(PATH)[1]) == tag
        clock.now += 29
    assert there.renew()


def test_a_holder_that_lives_here_but_does_not_renew_is_taken_over_after_its_lifetime(local: Store) -> None:
    forgotten = Lease(local, PATH, "forgotten")
    forgotten.acquire()
    clock = Clock()
    ours = Lease(local, PATH, "ours", clock=clock)
    with pytest.raises(LeaseHeld):
        ours.acquire()
    clock.now += 30
    assert ours.acquire()
    assert not forgotten.renew()
    assert forgotten.is_lost


def test_the_epoch_grows_with_every_holder_and_not_with_renewals(store: Store) -> None:
    for epoch in (1, 2, 3):
        lease = Lease(store, PATH, "owner")
        assert lease.epoch == 0
        assert lease.acquire() and lease.renew() and lease.acquire()
        assert lease.epoch == epoch
        lease.release()
    assert json.loads(store.get(PATH))["epoch"] == 3


def test_acquiring_waits_for_a_dead_holder_elsewhere_as_long_as_it_is_told(local: Store) -> None:
    from_elsewhere(local)
    edit(local, ttl_seconds=0.3)
    ours = Lease(local, PATH, "ours", ttl_seconds=0.3)
    start = time.monotonic()
    said: list[str] = []
    assert ours.acquire(patience=0.3, on_wait=lambda held: said.append(held.owner))
    assert time.monotonic() - start >= 0.3
    assert len(said) == 1


def test_acquiring_does_not_wait_for_a_holder_that_is_known_to_live(local: Store) -> None:
    Lease(local, PATH, "alive").acquire()
    start = time.monotonic()
    with pytest.raises(LeaseHeld):
        Lease(local, PATH, "ours").acquire(patience=600, on_wait=lambda held: pytest.fail("it waits"))
    assert time.monotonic() - start < 60


def test_a_holder_notices_that_it_was_taken_over(store: Store) -> None:
    clock = Clock()
    holder, other = Lease(store, PATH, "holder"), Lease(store, PATH, "other", clock=clock)
    holder.acquire()
    assert not holder.is_lost
    with pytest.raises(LeaseHeld):
        other.acquire()
    clock.now += 30
    other.acquire()
    assert not holder.renew()
    assert holder.is_lost
    holder.release()
    assert other.renew()
    assert not other.is_lost


def test_a_holder_that_could_not_renew_for_its_lifetime_counts_as_lost_until_it_could(local: Store) -> None:
    clock = Clock()
    lease = Lease(local, PATH, "holder", ttl_seconds=30, clock=clock)
    assert not lease.is_lost
    lease.acquire()
    clock.now += 29
    assert not lease.is_lost
    clock.now += 1
    assert lease.is_lost
    assert lease.renew()
    assert not lease.is_lost
    lease.release()
    clock.now += 100
    assert not lease.is_lost


def test_every_renewal_changes_the_lease_even_after_one_that_seemed_to_fail(local: Store) -> None:
    lease = Lease(local, PATH, "holder")
    lease.acquire()
    edit(local, beat=1)  # a renewal whose answer was lost: the holder does not know that it came through
    seen = local.get_tagged(PATH)[1]
    assert lease.renew()
    assert local.get_tagged(PATH)[1] != seen, "an observer counts from when it saw a tag first"


def test_a_holder_stops_believing_before_a_faster_clock_takes_the_lease(local: Store) -> None:
    slow, fast = Clock(), Clock()
    holder = Lease(local, PATH, "holder", ttl_seconds=100, clock=slow)
    holder.acquire()
    edit(local, machine="another boot")
    other = Lease(local, PATH, "other", clock=fast)
    for second in range(102):
        slow.now, fast.now = 1000 + second * 0.996, 1000 + second * 1.004
        try:
            other.acquire()
        except LeaseHeld:
            continue
        assert holder.is_lost
        return
    raise AssertionError("it is never taken")


def test_a_lease_is_taken_only_when_another_holder_was_seen(local: Store) -> None:
    clock = Clock()
    holder, other = Lease(local, PATH, "holder", clock=clock), Lease(local, PATH, "other", clock=clock)
    assert not holder.is_taken
    holder.acquire()
    clock.now += 3600  # as in an outage, in which nobody can renew, and nobody can take it
    assert holder.is_lost
    assert not holder.is_taken
    assert holder.renew()
    with pytest.raises(LeaseHeld):
        other.acquire()
    clock.now += 30
    other.acquire()
    assert not holder.is_taken, "it has not looked yet"
    assert not holder.renew()
    assert holder.is_taken
    other.release()
    assert not other.is_taken


def test_a_lease_that_was_deleted_is_renewed_and_a_released_one_is_not_made_again(local: Store) -> None:
    lease = Lease(local, PATH, "holder")
    lease.acquire()
    local.delete(PATH)
    assert lease.renew()
    assert json.loads(local.get(PATH))["owner"] == "holder"
    local.delete(PATH)
    lease.release()
    assert not local.exists(PATH)


def test_a_release_finds_a_renewal_that_came_through_although_it_seemed_to_fail(local: Store) -> None:
    lease = Lease(local, PATH, "holder")
    lease.acquire()
    edit(local, beat=1)
    lease.release()
    assert Lease(local, PATH, "next").acquire()


def test_a_renewal_in_the_background_has_far_less_time_than_the_lifetime(local: Store) -> None:
    asked: list[float] = []

    class Asked(LocalStore):
        def within(self, seconds: float) -> Store:
            asked.append(seconds)
            return self

    with Lease(Asked(local.url), PATH, "holder", ttl_seconds=0.6).hold():
        deadline = time.monotonic() + 60
        while len(asked) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(asked) >= 3
    assert max(asked) <= 0.6 / 5


def test_a_renewal_that_came_through_although_it_seemed_to_fail_keeps_the_lease(local: Store) -> None:
    lease = Lease(local, PATH, "holder")
    lease.acquire()
    edit(local, beat=1)  # as if a request succeeded, but its answer was lost in an outage
    assert lease.renew()
    assert not lease.is_lost
    assert lease.renew()


@pytest.mark.parametrize("junk", [b"", b"{", b"[]", b"7", b"\xff", b'{"owner": "x", "later": 1}'])
def test_an_unreadable_lease_is_somebodys_until_its_lifetime_is_over(local: Store, junk: bytes) -> None:
    local.put(PATH, junk)
    clock = Clock()
    ours = Lease(local, PATH, "ours", clock=clock)
    with pytest.raises(LeaseHeld):
        ours.acquire()
    clock.now += 30
    assert ours.acquire()


def test_held_renews_in_the_background_and_releases_at_the_end(store: Store) -> None:
    lease = Lease(store, PATH, "ours", ttl_seconds=0.6)
    with lease.hold() as same:
        assert same is lease
        first = json.loads(store.get(PATH))["beat"]
        deadline = time.monotonic() + 60
        while json.loads(store.get(PATH))["beat"] < first + 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert json.loads(store.get(PATH))["beat"] >= first + 2
    assert Lease(store, PATH, "next").acquire()


def test_held_notices_a_loss_in_the_background_and_leaves_the_new_holder_alone(local: Store) -> None:
    lease = Lease(local, PATH, "ours", ttl_seconds=0.3)
    with lease.hold():
        edit(local, owner="usurper", epoch=2)
        deadline = time.monotonic() + 60
        while lease.renew() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease.is_lost
    assert json.loads(local.get(PATH))["owner"] == "usurper"
    assert json.loads(local.get(PATH))["pid"] != 0


def test_held_releases_when_the_block_raises_and_refuses_when_taken(local: Store) -> None:
    with pytest.raises(ZeroDivisionError), Lease(local, PATH, "ours").hold():
        raise ZeroDivisionError
    with Lease(local, PATH, "next").hold(), pytest.raises(LeaseHeld, match="next"), Lease(local, PATH, "x").hold():
        pass


def test_a_lease_that_can_be_neither_read_nor_written_is_reported(local: Store) -> None:
    Lease(local, "a/lease", "ours").acquire()
    (Path(local.url) / "b").mkdir()
    (Path(local.url) / "b" / "lease").symlink_to("nowhere")
    with pytest.raises(StoreError, match="cannot take b/lease"):
        Lease(local, "b/lease", "ours").acquire()


def test_an_outage_while_it_is_held_is_survived(local: Store) -> None:
    lease = Lease(local, PATH, "ours", ttl_seconds=0.3)
    file, kept, loop = (Path(local.url) / name for name in (PATH, "kept", "loop"))
    loop.parent.mkdir()
    loop.symlink_to("lease")  # after the renaming below it points to itself, and every call fails
    with lease.hold():
        kept.hardlink_to(file)
        loop.rename(file)
        with pytest.raises(StoreError):
            Lease(local, PATH, "other").acquire()
        deadline = time.monotonic() + 60
        while not lease.is_lost and time.monotonic() < deadline:
            time.sleep(0.01)
        assert lease.is_lost
        kept.rename(file)
        while lease.is_lost and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not lease.is_lost
    assert Lease(local, PATH, "next").acquire()
