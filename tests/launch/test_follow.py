"""Following a head through the store: what is shown, and when it is given up."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sweep.errors import UserError
from sweep.launch.follow import Following, HeadGone, progress, status_lines
from sweep.spec.sweep import Budget
from sweep.store import launch_status, open_store
from sweep.store.base import StoreError
from sweep.store.launch_status import LaunchStatus, Node
from sweep.store.local import LocalStore

RUNNING = LaunchStatus(3, "running", since=1000.0, time=1000.0, trials=10, done=4, to_run=6, running=2, usd=1.5)
NODES = (
    Node("i-1", "m6i.large", "on demand", "us-east-1a"),
    Node("i-2", "g5.xlarge", "spot", "us-east-1b"),
    Node("i-3", "g5.xlarge", "spot", "us-east-1a", alive=False),
)


class Script:
    """A clock that moves only in `sleep`, and one step that happens at each sleep."""

    def __init__(self, *steps: Callable[[], object], alive: bool | None = True) -> None:
        self.now = 0.0
        self.alive = alive
        self._steps = iter(steps)
        self.output = io.StringIO()

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        next(self._steps, lambda: None)()
        assert self.now < 10_000, "following did not end"

    def following(self, store: LocalStore, launch: int = 3) -> Following:
        console = Console(file=self.output, width=200)
        return Following(
            store, "x", launch, lambda: self.alive, Budget(max_usd=50), console, lambda: self.now, self.sleep
        )


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    found = open_store(str(tmp_path / "store"))
    assert isinstance(found, LocalStore)
    return found


def writes(store: LocalStore, head: LaunchStatus) -> Callable[[], None]:
    return lambda: launch_status.write(store, "x", head)


def test_it_is_followed_to_the_end_and_what_happens_is_said_once(store: LocalStore) -> None:
    later = replace(RUNNING, nodes=NODES[:2])
    lost = replace(later, nodes=(NODES[0], replace(NODES[1], alive=False)), preemptions=1)
    script = Script(
        writes(store, replace(RUNNING, state="starting")), writes(store, later), lambda: None, writes(store, lost),
        writes(store, replace(lost, state="ended", exit_code=2, cause="some trials failed")),
    )  # fmt: skip
    head = script.following(store).to_the_end()
    assert (head.exit_code, head.cause) == (2, "some trials failed")
    printed = script.output.getvalue().splitlines()
    events = [line for line in printed if " done, " not in line]
    assert events == [
        "the head: starting",
        "the head: running",
        "machine i-1 is there: m6i.large on demand in us-east-1a",
        "machine i-2 is there: g5.xlarge spot in us-east-1b",
        "machine i-2 is gone",
        "trials preempted, to go on where they were: 1 more, 1 in all",
        "the head: ended",
    ]


def test_a_word_of_an_earlier_launch_is_none_and_one_of_a_later_ends_it(store: LocalStore) -> None:
    launch_status.write(store, "x", replace(RUNNING, launch=2, state="ended", exit_code=0))
    with pytest.raises(UserError, match="launch 4 of sweep x has taken over"):
        Script(writes(store, replace(RUNNING, launch=4))).following(store).to_the_end()


def test_a_head_that_is_silent_and_whose_machine_is_gone_is_gone(store: LocalStore) -> None:
    launch_status.write(store, "x", RUNNING)
    script = Script(alive=False)
    with pytest.raises(HeadGone, match="its machine does not exist any more"):
        script.following(store).to_the_end()
    assert 60 <= script.now <= 70


@pytest.mark.parametrize("alive", [True, None])
def test_a_silent_head_whose_machine_is_there_or_cannot_be_asked_for_is_waited_for(
    store: LocalStore, alive: bool | None
) -> None:
    launch_status.write(store, "x", RUNNING)
    waits = [lambda: None] * 200
    script = Script(*waits, writes(store, replace(RUNNING, state="ended", exit_code=0)), alive=alive)
    assert script.following(store).to_the_end().exit_code == 0
    assert "the head has been silent for" in script.output.getvalue()


class UnreachableStore(LocalStore):
    """A store that does not answer for a while, or never."""

    def __init__(self, folder: str, outage: Iterator[bool]) -> None:
        super().__init__(folder)
        self.outage = outage

    def get(self, path: str) -> bytes:
        if next(self.outage, True):
            raise StoreError("no route to the store")
        return super().get(path)


def test_a_store_that_does_not_answer_for_minutes_is_not_the_silence_of_the_head(store: LocalStore) -> None:
    launch_status.write(store, "x", replace(RUNNING, state="ended", exit_code=0))
    script = Script(alive=False)
    unreachable = UnreachableStore(store.url, iter([*[True] * 100, False]))
    assert script.following(unreachable).to_the_end().exit_code == 0
    assert "the store has not answered" in script.output.getvalue()
    with pytest.raises(StoreError, match="no route"):
        Script().following(UnreachableStore(store.url, iter(()))).to_the_end()


def test_lines_say_state_machines_troubles_and_dollars() -> None:
    head = replace(RUNNING, nodes=NODES, preemptions=2, restarts=1)
    assert status_lines(head, Budget(max_usd=50), now=1130.0) == [
        "launch 3 on the head: running for 2 min, but silent for 2 min",
        "machines: 1 m6i.large on demand, 1 g5.xlarge spot; 1 gone",
        "preemptions: 2, restarts of the driver: 1",
        "dollars so far: 1.50; budget.max_usd is 50",
    ]
    ended = replace(head, state="ended", exit_code=3, cause="budget.max_usd is reached", usd=None)
    assert status_lines(ended, Budget(), now=1010.0) == [
        "launch 3 on the head: ended 10 s ago with exit code 3: budget.max_usd is reached",
        "machines: 3 in all",
        "preemptions: 2, restarts of the driver: 1",
        "dollars so far: unknown, since a price is missing",
    ]


def test_one_line_of_progress() -> None:
    head = replace(RUNNING, nodes=NODES, failed=1)
    assert progress(head) == "4 of 10 done, 2 running, 6 to run, 1 failed; 2 machines, 1.50 dollars"


def test_a_place_that_gives_no_worker_is_quoted_while_trials_wait(store: LocalStore) -> None:
    refused = replace(RUNNING, refused="VcpuLimitExceeded: no")
    assert "no worker yet: VcpuLimitExceeded: no" in status_lines(refused, Budget(), now=1000.0)
    assert "no further worker yet: VcpuLimitExceeded: no" in status_lines(
        replace(refused, slots=2), Budget(), now=1000.0
    )
    for content in (replace(refused, running=6), replace(refused, state="ended", exit_code=0)):
        assert not any("VcpuLimitExceeded" in line for line in status_lines(content, Budget(), now=1000.0))
    again = replace(refused, refused="VcpuLimitExceeded: no, elsewhere")
    script = Script(
        writes(store, RUNNING), writes(store, refused), writes(store, again),
        writes(store, replace(again, state="ended", exit_code=1)),
    )  # fmt: skip
    script.following(store).to_the_end()
    assert script.output.getvalue().count("VcpuLimitExceeded") == 1
