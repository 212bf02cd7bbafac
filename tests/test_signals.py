"""Signals do what a block asks for while it runs, and what they did before after it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from sweep.signals import handling, interruptible, not_interrupted, on_interrupt, stop_on


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Check that every handler is as it was."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    assert [signal.getsignal(number) for number in numbers] == before


def test_handlers_are_restored_also_after_an_error() -> None:
    came: list[int] = []
    with pytest.raises(ZeroDivisionError), handling({signal.SIGUSR1: lambda number, _: came.append(number)}):
        signal.raise_signal(signal.SIGUSR1)
        _ = 1 / 0
    assert came == [signal.SIGUSR1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_calls_what_it_is_told_to(number: signal.Signals) -> None:
    calls: list[bool] = []
    with on_interrupt(lambda: calls.append(True)):
        signal.raise_signal(number)
    assert calls == [True]


def test_a_signal_is_delayed_to_the_end_of_the_block() -> None:
    after = False
    with pytest.raises(KeyboardInterrupt), not_interrupted():
        signal.raise_signal(signal.SIGINT)
        after = True
    assert after, "the block was not interrupted"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_closed_terminal_and_sigterm_interrupt_unless_they_are_ignored(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), interruptible():
        signal.raise_signal(number)
    with handling({number: signal.SIG_IGN}), interruptible():  # type: ignore[dict-item]  # as `nohup` does
        os.kill(os.getpid(), number)


def test_a_stop_is_recorded_and_ends_the_launch_in_order() -> None:
    asked: list[bool] = []
    with on_interrupt(lambda: asked.append(True)), stop_on(signal.SIGUSR1) as came:
        assert not came.is_set()
        signal.raise_signal(signal.SIGUSR1)
        assert came.is_set()
    assert asked == [True]
