"""A launch on a head: stop signals during trials and during the report, and the end without workers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.engine.loop import LoopEnd, TrialLoop
from sweep.errors import BUDGET, DONE, INTERRUPTED, USER_ERROR
from sweep.launch.head.run import HeadLaunch
from sweep.launch.head.status_writer import StatusWriter
from sweep.report.report import Report
from sweep.signals import TERM_SUSPENDS
from sweep.store import launch_status
from sweep.store.base import StoreUnreachable
from sweep.store.lease import Lease
from tests.support.launches import SWEEP, ended_head, head_of, put_launch
from tests.support.sweeps import write_config

STUDY = {"detectors": ["constant"], "abnormal": [0]}


@pytest.fixture
def launch(tmp_path: Path) -> HeadLaunch:
    number = put_launch(write_config(tmp_path, [STUDY]))
    return HeadLaunch.open(str(tmp_path / "store"), SWEEP, number, Console(quiet=True))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_during_the_report_changes_nothing(
    launch: HeadLaunch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def generations(*_: object) -> LoopEnd:
        signal.raise_signal(number)  # no trial runs any more, and the report has not begun
        return LoopEnd(DONE)

    def write(*_: object) -> None:
        signal.raise_signal(number)
        (tmp_path / "reported").touch()

    monkeypatch.setattr(HeadLaunch, "_run_trials", generations)
    monkeypatch.setattr(Report, "write", write)
    assert launch.run() == DONE
    assert (tmp_path / "reported").exists()
    head = ended_head(tmp_path)
    assert (head.exit_code, head.cause) == (DONE, None)


@pytest.mark.parametrize(
    ("signals", "suspends", "ended"),
    [
        ([signal.SIGTERM], "0", True),
        ([signal.SIGUSR1], "0", False),
        ([signal.SIGUSR2], "0", True),
        ([signal.SIGTERM], "1", False),
        ([signal.SIGTERM, signal.SIGUSR1], "1", False),
        ([signal.SIGTERM, signal.SIGUSR2], "1", True),
    ],
)
def test_a_stop_ends_a_launch_or_suspends_it(
    launch: HeadLaunch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    signals: list[signal.Signals], suspends: str, ended: bool,
) -> None:  # fmt: skip
    def generations(*_: object) -> LoopEnd:
        for number in signals:
            signal.raise_signal(number)
        return LoopEnd(INTERRUPTED)

    monkeypatch.setenv(TERM_SUSPENDS, suspends)
    monkeypatch.setattr(HeadLaunch, "_run_trials", generations)
    monkeypatch.setattr(Report, "write", lambda *_: None)
    assert launch.run() == INTERRUPTED
    head = head_of(tmp_path)
    assert head is not None
    assert (head.state, head.exit_code) == (("ended", INTERRUPTED) if ended else ("starting", None))


@dataclass
class OneGeneration:
    """Stand-in for the tuner process, with one generation that receives a stop signal."""

    stop_file: Path
    finished: bool

    @property
    def scratch(self) -> Path:
        return self.stop_file.parent

    def run_generation(self, *_: object, **job: Any) -> Iterator[dict[str, Any] | None]:
        signal.raise_signal(signal.SIGTERM)
        yield {"event": "ended", "finished": self.finished, "stopped": None}

    def stop(self) -> None:
        self.stop_file.touch()


@pytest.mark.parametrize(("finished", "code"), [(True, DONE), (False, INTERRUPTED)])
def test_a_launch_that_is_asked_to_stop_when_nothing_is_left_is_done(
    launch: HeadLaunch, tmp_path: Path, finished: bool, code: int
) -> None:
    cluster: Any = OneGeneration(tmp_path / "stop", finished)
    lease = Lease(launch.store, f"sweeps/{SWEEP}/lease", "a test")
    with lease.hold():
        generations = TrialLoop(
            sweep=launch.sweep, work=launch.work, platform=launch.platform, ledger=launch.ledger,
            console=launch.console, log_command=str, skip_failed=False, number=launch.number,
            provenance={"commit": None, "dirty": None}, exhausted=lambda: None,
        )  # fmt: skip
        assert generations.run(lease, cluster).code == code


@dataclass
class Outages:
    """Stand-in for `HeadLaunch._run_tuner`, and for a store that does not answer for some looks.

    Attributes:
        silent: number of looks at the store that fail.
        runs: number of times that trials were run.
        looks: number of looks at the store.
    """

    silent: float
    runs: int = 0
    looks: int = 0

    def run(self, *_: object) -> LoopEnd:
        self.runs += 1
        if self.runs == 1:
            raise StoreUnreachable("cannot read s3://b/x: no route")
        return LoopEnd(DONE)

    def read(self, *_: object) -> None:
        self.looks += 1
        if self.looks <= self.silent:
            raise StoreUnreachable("no route")


@pytest.fixture
def outages(launch: HeadLaunch, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outages]:
    """Let the first run of trials end because the store does not answer."""
    found = Outages(silent=3)
    monkeypatch.setattr(HeadLaunch, "_run_tuner", found.run)
    monkeypatch.setattr("sweep.launch.head.run.TunerProcess.start", lambda _: None)
    monkeypatch.setattr(Report, "write", lambda *_: None)
    read = launch_status.read
    monkeypatch.setattr(launch_status, "read", lambda *arguments: found.read() if found.runs else read(*arguments))
    yield found


def test_a_head_waits_for_a_store_that_does_not_answer_and_then_goes_on(
    launch: HeadLaunch, outages: Outages, tmp_path: Path
) -> None:
    assert launch.run() == DONE
    assert (outages.runs, outages.looks) == (2, 4)


@pytest.mark.parametrize("spent", ["", "budget.max_usd=1"])
def test_while_a_head_waits_for_its_store_the_budget_and_a_stop_end_the_launch(
    launch: HeadLaunch, outages: Outages, monkeypatch: pytest.MonkeyPatch, spent: str
) -> None:
    def look(*_: object) -> None:
        if spent:
            monkeypatch.setattr(StatusWriter, "exhausted_budget", lambda _: spent)
        else:
            signal.raise_signal(signal.SIGTERM)
        raise StoreUnreachable("no route")

    monkeypatch.setattr(Outages, "read", look)
    assert launch.run() == (BUDGET if spent else INTERRUPTED)
    assert outages.runs == 1


def test_a_launch_without_workers_ends_with_its_report_and_says_why(
    launch: HeadLaunch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeadLaunch, "_run_trials", lambda *_: LoopEnd(USER_ERROR))
    monkeypatch.setattr(StatusWriter, "why_stranded", lambda _: "no worker has come")
    monkeypatch.setattr(Report, "write", lambda *_: (tmp_path / "reported").touch())
    assert launch.run() == USER_ERROR
    assert (tmp_path / "reported").exists()
    head = ended_head(tmp_path)
    assert (head.exit_code, head.cause) == (USER_ERROR, "no worker has come")
