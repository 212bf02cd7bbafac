"""Records are written once, can be read back, and never change; over every kind of store."""

from __future__ import annotations

import pytest

from sweep.store import open_store
from sweep.store.ledger import Ledger


@pytest.fixture(params=["folder_url", "moto_url", "seaweed_url"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    return Ledger(open_store(request.getfixturevalue(request.param)), "sweep-1")


def test_the_first_result_stands(ledger: Ledger) -> None:
    assert ledger.put_result("k1", {"status": "ok", "auroc": 0.5})
    assert not ledger.put_result("k1", {"status": "ok", "auroc": 0.9})
    assert ledger.result("k1") == {"status": "ok", "auroc": 0.5}
    assert ledger.result("k2") is None


def test_results_are_found_by_key(ledger: Ledger) -> None:
    for n in range(5):
        ledger.put_result(f"k{n}", {"status": "ok", "n": n})
    ledger.put_attempt("k9", {"status": "failed", "cause": "x"})
    assert ledger.index().finished == {f"k{n}" for n in range(5)}
    assert ledger.results(["k1", "k3", "none"]) == {"k1": {"status": "ok", "n": 1}, "k3": {"status": "ok", "n": 3}}


def test_attempts_are_appended_in_order(ledger: Ledger) -> None:
    put = [{"status": "failed", "n": n} for n in range(3)]
    assert [ledger.put_attempt("k", attempt) for attempt in put] == [1, 2, 3]
    assert ledger.attempts_of("k") == put
    assert ledger.attempts(ledger.index(), ["k", "other"]) == {"k": put}


def test_the_first_ask_and_the_first_prune_stand(ledger: Ledger) -> None:
    assert ledger.put_ask("s", 0, {"params": {"nz": 1}}) == {"params": {"nz": 1}}
    assert ledger.put_ask("s", 0, {"params": {"nz": 2}}) == {"params": {"nz": 1}}
    ledger.put_ask("s", 12, {"params": {"nz": 3}})
    assert ledger.asks("s") == {0: {"params": {"nz": 1}}, 12: {"params": {"nz": 3}}}
    assert ledger.put_prune("s", 4, {"step": 4}) == {"step": 4}
    assert ledger.prunes("s") == {4: {"step": 4}}
    assert ledger.asks("other") == {}


def test_every_launch_is_recorded(ledger: Ledger) -> None:
    assert [ledger.put_spec({"n": n}) for n in range(2)] == [1, 2]
    assert ledger.specs() == [{"n": 0}, {"n": 1}]
    assert Ledger(ledger.store, "sweep-2").specs() == []
