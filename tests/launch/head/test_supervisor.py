"""The supervisor without a cluster: crashes of the driver, giving up, the last command, one supervisor per machine."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from sweep.errors import ALREADY_RUNS, DONE, INTERRUPTED, USER_ERROR
from sweep.launch.head.supervisor import Supervisor, lock_file
from sweep.store import launch_status, open_store
from sweep.store.launch_status import LaunchStatus
from tests.support.launches import SWEEP, ended_head, put_launch, supervise, words
from tests.support.sweeps import ROOT, descendants, environment, logged, wait_until, words_of, write_config


def launched(folder: Path) -> int:
    return put_launch(write_config(folder, [logged(epochs=1)]))


def damaged(folder: Path) -> int:
    """Record a launch whose driver crashes for a reason that is no problem of the user's input."""
    return put_launch(write_config(folder, [logged(epochs=1)]), started="some day")


def then(folder: Path) -> list[str]:
    """Return options for a last command that appends the head's status to a file each time it runs."""
    status_file = folder / f"store/sweeps/{SWEEP}/head.json"
    return ["--then", f"(cat '{status_file}'; echo) >> '{folder}/then'"]


def statuses_then(folder: Path) -> list[LaunchStatus]:
    return [LaunchStatus.from_json(json.loads(line)) for line in (folder / "then").read_text().splitlines()]


def test_it_gives_up_after_several_deaths_and_still_runs_its_last_command_once(tmp_path: Path) -> None:
    number = damaged(tmp_path)
    supervisor = supervise(tmp_path, number, "--deaths", "2", "--pause", "0.01", *then(tmp_path))
    assert supervisor.wait(timeout=120) == USER_ERROR
    head = ended_head(tmp_path)
    assert head.exit_code == USER_ERROR
    assert head.cause is not None
    assert "died 2 times" in head.cause
    assert "ValueError: could not convert" in head.cause
    assert statuses_then(tmp_path) == [head], "it ran after the end was written"


def test_an_outcome_is_not_tried_again(tmp_path: Path) -> None:
    supervisor = supervise(tmp_path, 7, *then(tmp_path))
    assert supervisor.wait(timeout=120) == USER_ERROR
    assert "no launch 7" in (ended_head(tmp_path).cause or "")
    assert len(statuses_then(tmp_path)) == 1
    assert "in a row" not in (tmp_path / "supervisor.log").read_text()


def test_a_launch_that_another_version_wrote_is_not_tried_again(tmp_path: Path) -> None:
    number = put_launch(write_config(tmp_path, [logged(epochs=1)]), platform={"cores": 2})
    supervisor = supervise(tmp_path, number, *then(tmp_path))
    assert supervisor.wait(timeout=120) == USER_ERROR
    cause = ended_head(tmp_path).cause or ""
    assert "cannot be read by this version of sweep" in cause
    assert "launch it again" in cause
    assert len(statuses_then(tmp_path)) == 1
    assert "in a row" not in (tmp_path / "supervisor.log").read_text()


def test_a_launch_that_has_ended_is_not_run_again_but_its_last_command_is(tmp_path: Path) -> None:
    number = launched(tmp_path)
    launch_status.write(open_store(str(tmp_path / "store")), SWEEP, LaunchStatus(number, "ended", exit_code=2))
    supervisor = supervise(tmp_path, number, *then(tmp_path))
    assert supervisor.wait(timeout=60) == 2
    assert len(statuses_then(tmp_path)) == 1
    assert not (tmp_path / "store/trials").exists()


def test_there_is_one_for_each_sweep_and_machine_and_starting_it_again_is_no_problem(tmp_path: Path) -> None:
    number = damaged(tmp_path)
    first = supervise(tmp_path, number, "--pause", "60")
    try:
        wait_until(lambda: "in a row" in (tmp_path / "supervisor.log").read_text(), first)
        assert supervise(tmp_path, number, *then(tmp_path)).wait(timeout=60) == DONE
        assert supervise(tmp_path, number + 1, *then(tmp_path)).wait(timeout=60) == ALREADY_RUNS
        assert not (tmp_path / "then").exists(), "a supervisor that is refused ends nothing"
        assert first.poll() is None
        assert lock_file(str(tmp_path / "store"), SWEEP).exists()
    finally:
        first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=60) == INTERRUPTED, "after a stop it does not wait any longer"
    assert ended_head(tmp_path).exit_code == INTERRUPTED
    assert not lock_file(str(tmp_path / "store"), SWEEP).exists()


@pytest.mark.parametrize(
    ("signals", "suspends", "ended"),
    [
        ([signal.SIGTERM], "0", True),
        ([signal.SIGTERM], "1", False),
        ([signal.SIGUSR1], "0", False),
        ([signal.SIGUSR2], "1", True),
        ([signal.SIGUSR2, signal.SIGTERM], "1", True),
    ],
)
def test_where_sigterm_is_the_places_it_suspends_a_launch_and_sigusr2_ends_it(
    tmp_path: Path, signals: list[signal.Signals], suspends: str, ended: bool
) -> None:
    number = damaged(tmp_path)
    supervisor = supervise(tmp_path, number, "--pause", "60", *then(tmp_path), SWEEP_TERM_SUSPENDS=suspends)
    wait_until(lambda: "in a row" in (tmp_path / "supervisor.log").read_text(), supervisor)
    for each in signals:
        supervisor.send_signal(each)
    assert supervisor.wait(timeout=60) == INTERRUPTED
    head = launch_status.read(open_store(str(tmp_path / "store")), SWEEP)
    assert (head is not None and head.has_ended) == ended
    assert (tmp_path / "then").exists() == ended


def test_detached_it_goes_on_by_itself_and_says_what_it_does_in_its_log(tmp_path: Path) -> None:
    number, log = damaged(tmp_path), tmp_path / "logs/head.log"
    command = words(
        "sweep.launch.head.supervisor",
        tmp_path,
        number,
        "--detach",
        "--log",
        str(log),
        "--deaths",
        "1",
        *then(tmp_path),
    )
    supervised = tmp_path / "run/supervised"
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment(SWEEP_SUPERVISED_FILE=str(supervised)),
        capture_output=True,
        timeout=60,  # it would time out if a child kept the output open
    )
    assert done.returncode == 0
    wait_until((tmp_path / "then").exists)
    assert supervised.exists()
    wait_until(lambda: "ended with status 0" in log.read_text())
    assert "ValueError" in log.read_text()


def test_its_driver_dies_with_it_so_that_the_next_one_can_take_over(tmp_path: Path) -> None:
    number = launched(tmp_path)
    supervisor = supervise(tmp_path, number)
    wait_until(lambda: descendants(supervisor.pid), supervisor)
    drivers = descendants(supervisor.pid)
    supervisor.kill()
    supervisor.wait()
    wait_until(lambda: not any(_drives(pid) for pid in drivers))


def _drives(pid: int) -> bool:
    try:
        return b"sweep.launch.head\0" in words_of(pid)
    except OSError:
        return False


class Scripted(Supervisor):
    """Supervisor with drivers that end as the test wants, after they have written their results."""

    lives: list[tuple[int, int]]  # (results that it has written, exit status) of each driver

    def _drive(self) -> tuple[int, str]:
        done, code = self.lives.pop(0)
        launch_status.write(open_store(self.storage), self.sweep, LaunchStatus(self.number, "running", done=done))
        return code, "its last words"


@pytest.mark.parametrize(
    ("lives", "code"),
    [
        ([(0, -9), (1, -9), (2, -9), (3, -9), (4, 0)], DONE),
        ([(5, -9), (5, -9), (5, -9), (5, 0)], USER_ERROR),
        ([(0, 70), (0, 70), (3, 70), (3, 70), (3, 2)], 2),
        ([(0, 3)], 3),
    ],
)
def test_only_deaths_without_a_new_result_between_them_count(
    folder_url: str, lives: list[tuple[int, int]], code: int
) -> None:
    supervisor = Scripted(folder_url, "test", 1, deaths=3, pause=0.0)
    supervisor.lives = list(lives)
    assert supervisor.run() == code
    head = launch_status.read(open_store(folder_url), "test")
    assert head is not None
    assert (head.state, head.exit_code, head.done) == ("ended", code, lives[-1 if code != USER_ERROR else -2][0])


def test_a_driver_that_is_killed_after_its_last_word_has_ended_as_it_said(folder_url: str) -> None:
    store = open_store(folder_url)

    class Killed(Supervisor):
        def _drive(self) -> tuple[int, str]:
            self.stop()
            launch_status.write(store, self.sweep, LaunchStatus(self.number, "ended", exit_code=2))
            return -15, ""

    assert Killed(folder_url, "test", 1).run() == 2
    assert (launch_status.read(store, "test") or LaunchStatus(1, "starting")).cause is None


def test_the_record_of_another_launch_that_lives_is_left_alone(folder_url: str) -> None:
    store = open_store(folder_url)
    launch_status.write(store, "test", LaunchStatus(2, "running"))
    before = launch_status.read(store, "test")

    class Refused(Supervisor):
        def _drive(self) -> tuple[int, str]:
            return USER_ERROR, "error: refused"

    assert Refused(folder_url, "test", 1).run() == USER_ERROR
    assert launch_status.read(store, "test") == before
    store.put(
        "sweeps/test/head.json",
        json.dumps(replace(before or LaunchStatus(2, "running"), time=1.0).to_json()).encode(),
    )
    assert Refused(folder_url, "test", 1).run() == USER_ERROR
    head = launch_status.read(store, "test")
    assert head is not None
    assert (head.launch, head.cause) == (1, "error: refused")
