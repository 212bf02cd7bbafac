"""Waits, deadlines and lines of calls that are tried again, on a moved clock."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from sweep.store.retry import LONGEST_WAIT, LOOK_SECONDS, RECENT_SECONDS, Outage, Retry, Transient
from tests.support.stores import MovedClock, retry_on

WHERE = "s3://bucket/prefix"


def failing(count: float, error: Exception | None = None) -> Callable[[], str]:
    """Return an attempt that fails so many times, and then returns "done"."""
    tries: Iterator[int] = iter(range(10**9))

    def attempt() -> str:
        if next(tries) < count:
            raise error or Transient("slow down")
        return "done"

    return attempt


def test_the_first_waits_are_short_then_they_grow_to_a_limit_and_never_beyond_the_deadline() -> None:
    clock = MovedClock()
    retry = replace(retry_on(clock, []), jitter=lambda: 1.0)
    assert retry.call(WHERE, failing(9)) == "done"
    pauses = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert sum(clock.waits) == pytest.approx(sum(pauses))
    assert clock.waits[:4] == pytest.approx(pauses[:4])
    assert max(clock.waits) <= LOOK_SECONDS < LONGEST_WAIT, "a wait in steps keeps the lines on time"


def test_waits_are_random() -> None:
    clocks = [MovedClock(), MovedClock()]
    for seed, clock in enumerate(clocks):
        retry_on(clock, [], seed=seed).call(WHERE, failing(6))
    assert clocks[0].waits != clocks[1].waits
    assert all(0 <= first < 0.1 for first in (clock.waits[0] for clock in clocks))


@pytest.mark.parametrize("seconds", [0.05, 5.0, 300.0])
def test_a_call_is_given_up_at_its_deadline_and_not_before(seconds: float) -> None:
    clock = MovedClock()
    with pytest.raises(Transient, match="slow down"):
        retry_on(clock, [], seconds).call(WHERE, failing(float("inf")))
    assert clock.now - 1000 == pytest.approx(seconds)


def test_an_error_that_waiting_cannot_fix_ends_the_call_at_once() -> None:
    clock = MovedClock()
    with pytest.raises(PermissionError):
        retry_on(clock, []).call(WHERE, failing(1, PermissionError()))
    assert clock.waits == []


def test_a_wait_that_nobody_needs_any_more_ends_the_call() -> None:
    clock = MovedClock()
    retry = replace(retry_on(clock, []), sleep=lambda _: True)
    with pytest.raises(Transient):
        retry.call(WHERE, failing(float("inf")))
    assert clock.now == 1000


def test_a_line_comes_after_ten_seconds_then_every_thirty_and_one_at_the_end() -> None:
    said: list[tuple[float, str]] = []
    clock = MovedClock()
    outage = Outage(lambda line: said.append((clock.now - 1000, line)), clock, watched=False)
    retry = replace(retry_on(clock, []), outage=outage)

    def until_100() -> None:
        if clock.now < 1100:
            raise Transient("slow down")

    retry.call(WHERE, until_100)
    times = [time for time, _ in said]
    assert times[:4] == pytest.approx([10, 40, 70, 100], abs=3 * LOOK_SECONDS)
    assert said[0][1] == f"{WHERE} has not answered as it should for {times[0]:.0f} s, trying again: slow down"
    assert said[-1][1] == f"{WHERE} answers again, after {clock.now - 1000:.0f} s"
    assert sum("answers again" in line for _, line in said) == 1


def test_short_failures_are_not_worth_a_line() -> None:
    lines: list[str] = []
    retry = retry_on(MovedClock(), lines)
    for _ in range(50):
        retry.call(WHERE, failing(3))
    assert lines == []


def test_many_short_calls_that_fail_are_one_outage() -> None:
    clock, lines = MovedClock(), list[str]()
    retry = retry_on(clock, lines, seconds=2)
    for _ in range(20):
        with pytest.raises(Transient):
            retry.call(WHERE, failing(float("inf")))
        clock.now += 3
    assert 2 <= len(lines) <= 4
    assert retry.outage.lasts
    with pytest.raises(LookupError):  # an error is an answer, too
        retry.call(WHERE, failing(1, LookupError()))
    assert "answers again" in lines[-1]
    assert not retry.outage.lasts


def test_an_old_failure_is_no_outage() -> None:
    clock = MovedClock()
    retry = retry_on(clock, [], seconds=1)
    with pytest.raises(Transient):
        retry.call(WHERE, failing(float("inf")))
    assert retry.outage.lasts
    clock.now += RECENT_SECONDS
    assert not retry.outage.lasts


def test_a_request_without_an_answer_is_reported_before_it_fails_and_a_large_upload_has_more_time() -> None:
    clock, lines = MovedClock(), list[str]()
    outage = Outage(lines.append, clock, watched=False)
    with outage.waiting(WHERE), outage.waiting("s3://upload", size=60_000_000):
        clock.now += 9
        outage.look()
        assert lines == []
        clock.now += 1
        outage.look()
        assert lines == [f"{WHERE} has not answered as it should for 10 s, trying again: no answer yet"]
        clock.now += 60
        outage.look()
        assert len(lines) == 2
    outage.look()
    assert len(lines) == 2


def test_a_forked_child_has_locks_and_outages_of_its_own() -> None:
    clock, lines = MovedClock(), list[str]()
    outage = Outage(lines.append, clock, watched=False)
    outage.failed(WHERE, clock.now, "slow down")
    with outage._lock:
        outage.forget()
        assert not outage.lasts
        outage.failed(WHERE, clock.now - 20, "slow down")
    assert len(lines) == 1


def test_a_closed_output_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = MovedClock()
    outage = Outage(clock=clock, watched=False)
    with open(os.devnull, "w") as closed:
        pass
    for stream in (closed, None):
        monkeypatch.setattr("sys.stderr", stream)
        clock.now += 100
        outage.failed(WHERE, clock.now - 20, "slow down")
    assert outage.lasts


def test_the_policy_of_a_process_is_five_minutes() -> None:
    assert Retry().seconds == 300
