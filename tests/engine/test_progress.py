"""Progress display: a live table on a terminal, and a line from time to time elsewhere."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from sweep.console import PLAIN_SECONDS
from sweep.engine.progress import Progress
from sweep.plan.expand import expand
from sweep.plan.platform import Platform
from sweep.plan.status import StatusRow, SweepStatus
from sweep.spec.load import resolve
from sweep.spec.trial import Numerics

TRIAL = {
    "key": "abc", "study": "s", "detector": "ganomaly", "variant": "repo_head", "dataset": "digits", "abnormal": "3",
    "seed": 0, "reported": True,
}  # fmt: skip


class Screen:
    """Progress display of ten trials of 60 s on two slots, with its own clock."""

    def __init__(self, terminal: bool) -> None:
        self.now = 0.0
        self.file = io.StringIO()
        line = StatusRow("s", "ganomaly", "repo_head", "digits", trials=10, to_run=10, seconds=600.0, seconds_each=60.0)
        console = Console(file=self.file, force_terminal=terminal, width=100, color_system=None)
        status = SweepStatus((line,), (), frozenset(), {})
        self.progress = Progress(status, 2, console, lambda key: f"show {key}", bool, clock=lambda: self.now)

    def send(self, event: str, **fields: Any) -> str:
        """Send an event; return what it adds to the screen."""
        before = len(self.file.getvalue())
        self.progress.take({"event": event, **TRIAL, **fields})
        return self.file.getvalue()[before:]

    def finish(self, auroc: float = 0.75, seconds: float = 60.0) -> str:
        started = self.send("started")
        entry = {"selection": "last", "evaluation": "clean", "auroc": auroc}
        return started + self.send(
            "result", record={"status": "ok", "cause": None, "seconds": seconds, "metrics": [entry]}
        )


@pytest.fixture
def terminal() -> Screen:
    return Screen(terminal=True)


@pytest.fixture
def pipe() -> Screen:
    return Screen(terminal=False)


def test_a_terminal_sees_counts_best_and_rate_at_every_event(terminal: Screen) -> None:
    with terminal.progress:
        assert "1 running, 9 waiting" in terminal.send("started")
        terminal.now = 60.0
        shown = terminal.finish(auroc=0.8125)
        assert "1 done, 1 running, 8 waiting; 1 trials a minute" in shown
        assert "0.812 (digits 3)" in shown
        assert "0.812 (digits 3)" in terminal.finish(auroc=0.5), "the best stays"


def test_a_pipe_gets_a_line_now_and_then_and_no_control_characters(pipe: Screen) -> None:
    with pipe.progress:
        assert pipe.finish() == ""
        pipe.now = PLAIN_SECONDS
        line = pipe.finish()
        assert line == "1 done, 1 running, 8 waiting; 3 trials a minute, about 4 min left\n"
        assert pipe.finish() == ""
    assert "\x1b" not in pipe.file.getvalue()


def test_time_left_learns_from_what_trials_took(pipe: Screen) -> None:
    pipe.finish(seconds=6.0)
    pipe.now = PLAIN_SECONDS
    assert "about 27 s left" in pipe.send("started")  # nine trials of 6 s on two slots


def test_a_failure_shows_at_once_in_one_line_with_the_command_that_shows_its_log(pipe: Screen) -> None:
    record = {"status": "oom", "cause": "CUDA out of memory"}
    assert pipe.send("attempt", record=record, again=True) == (
        "ganomaly repo_head digits 3 seed 0 oom, tried again: CUDA out of memory   log: show abc\n"
    )
    assert "given up" in pipe.send("attempt", record=record, again=False)


def test_a_divergence_is_told(pipe: Screen) -> None:
    pipe.send("started")
    record = {"status": "diverged", "cause": "loss g is NaN", "seconds": 1.0, "metrics": []}
    assert "diverged: loss g is NaN" in pipe.send("result", record=record)


def test_the_table_is_gone_when_it_ends(terminal: Screen) -> None:
    with terminal.progress:
        terminal.finish()
    assert terminal.file.getvalue().endswith("\x1b[2K")


def test_a_failed_trial_waits_where_this_launch_tries_it_again() -> None:
    study = {"name": "s", "kind": "error_bars", "datasets": ["digits"], "detectors": ["ganomaly"], "abnormal": [0, 1]}
    sweep = resolve({"storage": "./r", "sweep": {"studies": [{**study, "seeds": 1}]}})
    planned = expand(sweep, Platform(device="cpu", numerics=Numerics(), slots=1, cpus=1, gpus=0.0)).fixed
    line = StatusRow("s", "ganomaly", "repo_head", "digits", trials=2, failed=2)
    tried = {p.key: [{"status": "failed", "launch": number}] for number, p in enumerate(planned, start=1)}
    shown = Progress(
        SweepStatus((line,), planned, frozenset(), tried), 1, Console(file=io.StringIO()), str,
        again=lambda attempts: attempts[-1]["launch"] == 2,
    )  # fmt: skip
    assert shown.counts() == {"done": 0, "failed": 1, "pruned": 0, "running": 0, "to_run": 1}
