"""Random calls of stores, leases and ledgers through a proxy that spoils 1, 10 or 50 % of answers, on a moved clock.

SWEEP_CHAOS_FAULTS is the number of faults of all tests here.  SWEEP_CHAOS_SEED begins other sequences.  A failure shows
the seed and the turn.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sweep.store import s3
from sweep.store.base import ObjectNotFound, StoreUnreachable
from sweep.store.lease import Lease, LeaseHeld
from sweep.store.ledger import Ledger
from sweep.store.s3 import S3Store
from tests.support.records import result_record
from tests.support.s3_proxy import Faults, faulty_proxy
from tests.support.s3_servers import S3Server
from tests.support.stores import MovedClock, at_once, retry_on

FAULTS = int(os.environ.get("SWEEP_CHAOS_FAULTS", "300" if os.environ.get("SWEEP_CI") == "1" else "60"))
SEED = int(os.environ.get("SWEEP_CHAOS_SEED", "0"))
SHARES = {0.01: 0.02, 0.1: 0.18, 0.5: 0.8}  # of the faults, by rate: at 1 % a fault takes 100 requests
TESTS = 4  # that share the faults
DEADLINE = 300.0
PATHS = [f"{folder}/{name}" for folder in ("a", "a-b", "ü") for name in ("x", "y y")]


@pytest.fixture(params=SHARES, ids=lambda rate: f"{rate:.0%}")
def faults(
    request: pytest.FixtureRequest, moto: S3Server, moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Faults]:
    monkeypatch.setattr(s3, "READ_SECONDS", 0.5)  # real seconds that a silent server costs
    with faulty_proxy(moto) as (endpoint, plan):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        plan.rate, plan.rng = request.param, random.Random(SEED)
        yield plan


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def store(moto_url: str, faults: Faults, clock: MovedClock) -> S3Store:
    return S3Store.from_url(moto_url)._with(retry_on(clock, [], DEADLINE, SEED))


def turns(faults: Faults, clock: MovedClock) -> Iterator[int]:
    """Yield numbers until this test's part of the faults was injected; the calls of a turn must keep deadlines."""
    wanted, turn = FAULTS * SHARES[faults.rate] / TESTS, 0
    while turn < 10 or faults.injected.total() < wanted:
        faults.checksums = turn % 3 > 0  # without them, only the ETag shows that a body is flipped
        began = clock.now
        yield turn
        assert clock.now - began < 6 * DEADLINE, (SEED, turn)
        turn += 1


def test_a_store_is_what_a_dictionary_is(store: S3Store, faults: Faults, clock: MovedClock) -> None:
    rng, model = random.Random(SEED), dict[str, bytes]()
    for turn in turns(faults, clock):
        path, data = rng.choice(PATHS), f"{turn} {'x' * rng.randrange(300)}".encode()
        folder, known = path.split("/")[0], model.get(path)
        match rng.randrange(9):
            case 0:
                store.put(path, data)
                model[path] = data
            case 1 | 2:
                assert store.put_once(path, data) == (known is None), (SEED, turn)
                model.setdefault(path, data)
            case 3:
                try:
                    found, tag = store.get_tagged(path)
                except ObjectNotFound:
                    assert known is None, (SEED, turn)
                    assert store.put_if(path, data, "other") is None
                    continue
                assert found == known, (SEED, turn)
                assert store.put_if(path, b"lost", None) is None
                new = store.put_if(path, data, tag)
                assert store.put_if(path, b"late", tag) is None, (SEED, turn)
                assert store.get_tagged(path) == (data, new), (SEED, turn)
                model[path] = data
            case 4:
                assert store.exists(path) == (known is not None), (SEED, turn)
            case 5:
                assert list(store.list(folder)) == sorted(p for p in model if p.startswith(f"{folder}/")), (SEED, turn)
                assert store.names("") == sorted({p.split("/")[0] for p in model}), (SEED, turn)
            case 6:
                store.delete(path)
                model.pop(path, None)
            case 7 if turn % 5 == 0:
                store.delete_tree(folder)
                model = {p: data for p, data in model.items() if not p.startswith(f"{folder}/")}
            case _:
                assert dict(store.get_many(PATHS)) == model, (SEED, turn)
    faults.rate = 0
    assert dict(store.get_many(store.list(""))) == model, SEED


def test_of_many_who_put_once_one_wins(store: S3Store, faults: Faults, clock: MovedClock) -> None:
    for turn in turns(faults, clock):
        won = at_once([lambda n=n, turn=turn: store.put_once(f"race/{turn}", f"{n}".encode()) for n in range(3)])  # type: ignore[misc]
        assert won.count(True) == 1, (SEED, turn)
        assert store.get(f"race/{turn}") == str(won.index(True)).encode(), (SEED, turn)


def test_records_of_a_ledger_are_neither_lost_nor_doubled(store: S3Store, faults: Faults, clock: MovedClock) -> None:
    ledger, rng = Ledger(store, "s"), random.Random(SEED)
    keys = [result_record(number)["key"] for number in range(8)]
    results, attempts, asks, launches = dict[str, int](), dict[str, int](), dict[int, int](), 0
    for turn in turns(faults, clock):
        number = rng.randrange(8)
        key = keys[number]
        match rng.randrange(5):
            case 0:
                record = result_record(number, turn=turn)
                assert ledger.put_result(key, record) == (key not in results), (SEED, turn)
                results.setdefault(key, turn)
            case 1:
                attempts[key] = attempts.get(key, 0) + 1
                record = {"status": "failed", "cause": "its own", "launch": 1}
                assert ledger.put_attempt(key, record) == attempts[key], (SEED, turn)
            case 2:
                number = rng.randrange(10)
                record = {"params": {"nz": 4}, "turn": turn}
                assert ledger.put_ask("study", number, record)["turn"] == asks.setdefault(number, turn), (SEED, turn)
            case 3:
                launches += 1
                assert ledger.put_spec({"argv": [], "turn": turn}) == launches, (SEED, turn)
            case _:
                assert {key: found["turn"] for key, found in ledger.results(results).items()} == results, (SEED, turn)
    index = ledger.index()
    assert index.finished == set(results), SEED
    assert {key: len(paths) for key, paths in index.attempts.items()} == attempts, SEED
    assert {number: ask["turn"] for number, ask in ledger.asks("study").items()} == asks, SEED
    assert len(ledger.specs()) == launches, SEED


def test_a_lease_has_one_holder_who_keeps_it(store: S3Store, faults: Faults, clock: MovedClock) -> None:
    """Take turns in holding a lease.  A renewal or a release may fail, as its time is short."""
    rng = random.Random(SEED)
    leases = [Lease(store, "lease", name, clock=clock) for name in ("anna", "bob")]
    holder: Lease | None = None
    epoch = 0
    for turn in turns(faults, clock):
        lease = rng.choice(leases)
        if lease is holder and rng.random() < 0.3:
            while holder is not None:
                with suppress(StoreUnreachable):
                    lease.release()
                    holder = None
        elif lease is holder:
            with suppress(StoreUnreachable):
                assert lease.renew(5.0), (SEED, turn)
        elif holder is None:
            assert lease.acquire(), (SEED, turn)
            holder, epoch = lease, epoch + 1
            assert lease.epoch == epoch, (SEED, turn)
        else:
            with pytest.raises(LeaseHeld):
                Lease(store, "lease", "carl", clock=clock).acquire()
            assert not lease.renew(), (SEED, turn)
        assert holder is None or not holder.is_taken, (SEED, turn)


def test_the_plan_of_the_proxy_is_the_same_for_a_seed(tmp_path: Path) -> None:
    plans = [Faults(rate=0.5, rng=random.Random(SEED)) for _ in range(2)]
    assert [plans[0].next("") for _ in range(100)] == [plans[1].next("") for _ in range(100)]
    assert len(plans[0].injected) > 10
