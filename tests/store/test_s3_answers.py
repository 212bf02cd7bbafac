"""Answers that are neither S3's success nor its error, outages and expired credentials, made by a proxy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sweep.store import open_store, retry, s3
from sweep.store.base import ObjectNotFound, Store, StoreError, StoreUnreachable
from sweep.store.retry import Outage, Retry
from sweep.store.s3 import S3Store
from tests.support.s3_proxy import ERRORS, PAGES, PASSING, Faults, faulty_proxy
from tests.support.s3_servers import S3Server
from tests.support.stores import MovedClock, assert_no_chain, at_once, every_call, retry_on

RESUME = "what is stored is kept: run the same command again to go on"


@pytest.fixture
def faults(moto: S3Server, moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    monkeypatch.setattr(s3, "READ_SECONDS", 0.4)  # real seconds that a silent server costs
    with faulty_proxy(moto) as (endpoint, plan):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        yield plan


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def store(moto_url: str, faults: Faults, clock: MovedClock, lines: list[str]) -> S3Store:
    """A store before whose server the faults are, and whose waits take no time."""
    return S3Store.from_url(moto_url)._with(retry_on(clock, lines))


@pytest.mark.parametrize(
    ("problem", "checksums"),
    [*((problem, True) for problem in PASSING), *((problem, False) for problem in ("truncate", "flip", "wrong etag"))],
)
def test_a_call_goes_on_until_the_answer_is_one_that_only_s3_gives(
    store: Store, faults: Faults, problem: str, checksums: bool
) -> None:
    faults.checksums = checksums

    def after(call: Callable[[], Any]) -> Any:
        faults.problems = [problem]
        return call()

    data = b"whole" * 1000
    after(lambda: store.put("a/x", data))
    assert after(lambda: store.get("a/x")) == data
    assert after(lambda: store.put_once("a/once", b"1"))
    assert not after(lambda: store.put_once("a/once", b"2"))
    assert store.get("a/once") == b"1"
    assert after(lambda: store.exists("a/x"))
    assert not after(lambda: store.exists("a/none"))
    with pytest.raises(ObjectNotFound):
        after(lambda: store.get("a/none"))
    assert after(lambda: list(store.list("a"))) == ["a/once", "a/x"]
    assert after(lambda: store.names("")) == ["a"]
    tag = after(lambda: store.get_tagged("a/x"))[1]
    assert after(lambda: store.put_if("a/x", b"new", "other tag")) is None
    swapped = after(lambda: store.put_if("a/x", b"new", tag))
    assert store.get_tagged("a/x") == (b"new", swapped)
    assert after(lambda: store.put_if("a/x", b"late", tag)) is None
    assert after(lambda: store.put_if("a/none", b"x", tag)) is None
    assert dict(after(lambda: store.get_many(["a/x", "a/once"]))) == {"a/x": b"new", "a/once": b"1"}
    after(lambda: store.delete("a/once"))
    assert not store.exists("a/once")
    after(lambda: store.delete_tree("a"))
    assert list(store.list("")) == []
    assert faults.problems == []


@pytest.mark.parametrize("problem", ["409", "lose", "cut", "html", "no etag"])
def test_a_conditional_write_is_repeated_until_it_is_known_who_won(store: Store, faults: Faults, problem: str) -> None:
    for turn in range(3):
        faults.problems = [problem, "", problem]
        won = at_once([lambda turn=turn, n=n: store.put_once(f"race/{turn}", str(n).encode()) for n in range(3)])  # type: ignore[misc]
        assert won.count(True) == 1
        assert store.get(f"race/{turn}") == str(won.index(True)).encode()


@pytest.mark.parametrize("problem", [*(p for p in PASSING if p != "late"), "denied", "expired"])
def test_an_answer_that_never_gets_better_ends_in_a_message_without_a_traceback(
    store: S3Store, faults: Faults, clock: MovedClock, problem: str
) -> None:
    store.put("x", b"1" * 100)
    faults.outage, last = problem, store.within(2)
    calls = every_call(last)
    for call in calls[:2] if problem == "silent" else calls:  # a silent server costs real seconds
        began = clock.now
        try:
            call()
        except StoreError as error:
            assert not isinstance(error, ObjectNotFound)
            assert_no_chain(error)
            assert "\n" not in str(error)
            if problem not in ("denied", "expired"):
                assert isinstance(error, StoreUnreachable)
                assert RESUME in str(error)
                assert 1.999 <= clock.now - began <= 4, "the two threads of get_many move the clock together"
            else:
                assert ("access denied" if problem == "denied" else "sign in again") in str(error)
        else:
            assert problem in ("truncate", "flip", "no etag", "wrong etag"), "answers without a body or ETag are whole"


def test_an_error_without_a_code_shows_its_status_and_s3s_own_its_code(store: S3Store, faults: Faults) -> None:
    for problem, shown in (("html 403", "HTTP 403"), ("html 404", "HTTP 404"), ("503", r"SlowDown \(HTTP 503\)")):
        faults.outage = problem
        with pytest.raises(StoreError, match=rf"cannot read s3://.*/x: S3 answers .*{shown}"):
            store.within(0.1).get("x")


def test_a_server_without_checksums_whose_etags_are_no_md5_is_read_twice(
    store: S3Store, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("x", b"1")
    faults.checksums, faults.outage = False, "wrong etag"
    assert store.get("x") == b"1"
    assert faults.injected["wrong etag"] == 2


def test_botocore_does_not_try_again_so_that_no_quota_of_a_process_is_used_up(
    store: S3Store, faults: Faults, clock: MovedClock
) -> None:
    for _ in range(60):
        faults.problems = ["503", "reset"]
        store.put("x", b"1")
    assert faults.requests == 3 * 60
    assert clock.now - 1000 < 60 * 0.3


def test_an_outage_of_a_minute_costs_waiting_alone_and_is_said(
    store: S3Store, faults: Faults, clock: MovedClock, lines: list[str]
) -> None:
    store.put("x", b"1")
    for call in every_call(store)[:3]:
        faults.outage, clock.until = "reset", clock.now + 60
        clock.then = lambda: setattr(faults, "outage", "")
        call()
    assert 180 <= clock.now - 1000 < 220
    assert len([line for line in lines if "answers again, after 6" in line]) == 3
    assert len([line for line in lines if "has not answered as it should for 1" in line]) == 3


def test_an_outage_of_an_hour_ends_the_call_after_five_minutes_and_the_same_call_works_later(
    store: S3Store, faults: Faults, clock: MovedClock
) -> None:
    faults.outage = "503"
    with pytest.raises(StoreUnreachable, match=RESUME):
        store.put_once("x", b"1")
    assert clock.now - 1000 == pytest.approx(300)
    clock.now, faults.outage = 4600, ""
    assert store.put_once("x", b"1")


def test_a_server_that_accepts_and_never_answers_is_reported_before_the_try_has_failed(
    moto_url: str, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "READ_SECONDS", 200.0)
    monkeypatch.setattr(retry, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(retry, "LOOK_SECONDS", 0.01)
    said = threading.Event()
    store = S3Store.from_url(moto_url)._with(Retry(60.0, Outage(lambda _: said.set())))
    faults.problems = ["silent"]
    reader = threading.Thread(target=lambda: store.exists("x"))
    reader.start()
    assert said.wait(60)
    assert reader.is_alive()
    faults.ended.set()
    reader.join()


def test_reading_many_objects_ends_soon_when_nobody_waits_for_them(store: S3Store, faults: Faults) -> None:
    for n in range(3):
        store.put(f"n/{n}", b"x")
    found = store.get_many([f"n/{n}" for n in range(3)] + ["n/0"] * 100)
    assert next(found) == ("n/0", b"x")
    faults.outage = "503"
    found.close()  # type: ignore[attr-defined]  # it would not return before the deadline of every call


def test_credentials_that_have_expired_are_read_again_once(
    moto_url: str, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sign_in(key: str) -> None:
        (tmp_path / "credentials").write_text(f"[default]\naws_access_key_id={key}\naws_secret_access_key=secret\n")

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    sign_in("old")
    store = open_store(moto_url)
    store.put("x", b"1")
    faults.expired_key = "old"
    with pytest.raises(StoreError, match=r"rejects these credentials \(ExpiredToken\).*sign in again"):
        store.get("x")
    assert faults.injected["expired"] == 2
    sign_in("new")
    assert at_once([lambda: store.get("x")] * 4) == [b"1"] * 4


def test_every_kind_of_problem_is_one_that_the_proxy_can_make() -> None:
    assert set(PAGES) < set(PASSING)
    assert set(ERRORS) - set(PASSING) == {"denied", "expired"}
