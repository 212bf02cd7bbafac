"""Records are written once, can be read back, and never change; over every kind of store."""

from __future__ import annotations

import pytest

from sweep.store import open_store
from sweep.store.base import ObjectNotFound
from sweep.store.ledger import SCORES, WEIGHTS, Damaged, Ledger
from sweep.store.records import canonical_json, seal
from tests.support.records import result_record


@pytest.fixture(params=["folder_url", "moto_url", "seaweed_url"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    return Ledger(open_store(request.getfixturevalue(request.param)), "sweep-1")


def test_the_first_result_stands(ledger: Ledger) -> None:
    first = result_record(seconds=0.5)
    assert ledger.put_result(first["key"], first)
    assert not ledger.put_result(first["key"], result_record(seconds=0.9))
    assert ledger.result(first["key"]) == seal(first)
    assert ledger.result("k2") is None


def test_results_are_found_by_key(ledger: Ledger) -> None:
    records = [result_record(n) for n in range(5)]
    for record in records:
        ledger.put_result(record["key"], record)
    ledger.put_attempt("k9", {"status": "failed", "cause": "x", "launch": 1})
    assert ledger.index().finished == {record["key"] for record in records}
    asked = [records[1]["key"], records[3]["key"], "none"]
    assert ledger.results(asked) == {key: seal(records[n]) for key, n in zip(asked, (1, 3), strict=False)}


def test_what_a_killed_trial_has_left_is_found_and_removed(ledger: Ledger) -> None:
    record = result_record()
    ledger.put_result(record["key"], record)
    for key in (record["key"], "unfinished"):
        ledger.store.put(f"trials/{key}/checkpoint/000001.pt", b"state")
        ledger.store.put(f"trials/{key}/lease", b"lease")
    index = ledger.index()
    assert index.states == {record["key"], "unfinished"}
    ledger.remove_states(index.states & index.finished)
    assert [*ledger.store.list("trials")] == [
        f"trials/{record['key']}/result.json", "trials/unfinished/checkpoint/000001.pt", "trials/unfinished/lease"
    ]  # fmt: skip
    assert ledger.index().finished == {record["key"]}


def test_attempts_are_appended_in_order(ledger: Ledger) -> None:
    put = [{"status": "failed", "cause": "x", "launch": n} for n in range(3)]
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


def test_a_file_of_a_trial_is_compared_with_the_hash_in_its_result(ledger: Ledger) -> None:
    record = result_record()
    key = record["key"]
    hashes = {name: ledger.put_file(key, name, b"whole") for name in (SCORES, WEIGHTS)}
    ledger.put_result(key, {**record, "files": hashes})
    assert ledger.file(key, SCORES) == b"whole"
    assert list(ledger.files([key], SCORES)) == [(key, b"whole")]
    ledger.store.put(f"trials/{key}/{SCORES}", b"wholf")
    for read in (lambda: ledger.file(key, SCORES), lambda: list(ledger.files([key], SCORES))):
        with pytest.raises(Damaged, match=f"{SCORES} .*SHA-256.*delete trials/{key} there and launch again"):
            read()
    ledger.store.delete(f"trials/{key}/{SCORES}")
    for read in (lambda: ledger.file(key, SCORES), lambda: list(ledger.files([key], SCORES))):
        with pytest.raises(Damaged, match=f"{SCORES} .*missing"):
            read()
    ledger.store.delete(f"trials/{key}/{WEIGHTS}")
    with pytest.raises(ObjectNotFound):  # `trial.keep` deletes weights later: no damage
        ledger.file(key, WEIGHTS)


def test_files_of_a_result_of_an_older_version_are_read_as_they_are(ledger: Ledger) -> None:
    record = result_record()
    ledger.store.put(f"trials/{record['key']}/{SCORES}", b"any")
    ledger.store.put_once(f"trials/{record['key']}/result.json", canonical_json(record).encode())
    assert ledger.file(record["key"], SCORES) == b"any"


@pytest.mark.parametrize("winner", [0, 1])
def test_two_runs_of_one_trial_with_different_numbers_leave_the_files_of_the_result_that_stands(
    ledger: Ledger, winner: int
) -> None:
    """Interleave the runs: both put their files, in either order, before either puts its result."""
    record = result_record()
    key, contents = record["key"], (b"of the first", b"of the second")
    hashes = [ledger.put_file(key, SCORES, data) for data in contents]
    for run in (winner, 1 - winner):
        assert ledger.put_result(key, {**record, "files": {SCORES: hashes[run]}}) == (run == winner)
    again = Ledger(ledger.store, "x")
    assert again.file(key, SCORES) == contents[winner]
    assert list(again.files([key], SCORES)) == [(key, contents[winner])]


def test_a_run_that_puts_its_files_after_the_result_of_another_changes_nothing(ledger: Ledger) -> None:
    record = result_record()
    key = record["key"]
    ledger.put_result(key, {**record, "files": {SCORES: ledger.put_file(key, SCORES, b"whole")}})
    late = ledger.put_file(key, SCORES, b"of a late run")
    assert not ledger.put_result(key, {**record, "files": {SCORES: late}})
    assert Ledger(ledger.store, "x").file(key, SCORES) == b"whole"
