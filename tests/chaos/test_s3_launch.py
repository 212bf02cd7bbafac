"""Whole launches on S3 whose answers are spoiled, or stay away: nothing is lost, and no trial is blamed."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sweep.spec.load import load
from sweep.store import open_store
from sweep.store.ledger import Ledger
from tests.support.s3_proxy import PASSING, Faults, faulty_proxy
from tests.support.s3_servers import S3Server
from tests.support.sweeps import ROOT, TIMEOUT, command, environment, logged, orphans, sweep, wait_until, write_config

pytestmark = [
    pytest.mark.ray,
    pytest.mark.faults,
]
TRIALS = 8
OUTAGE_SECONDS = 25.0  # real ones: more than it takes until a line must say so


@pytest.fixture
def proxied(seaweed: S3Server, seaweed_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    with faulty_proxy(seaweed) as (endpoint, plan):
        plan.kinds, plan.rng = tuple(kind for kind in PASSING if kind != "silent"), random.Random(0)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        yield plan


@pytest.fixture
def config(tmp_path: Path, seaweed_url: str) -> Path:
    return write_config(tmp_path, [{**logged(epochs=1, pause=0.1), "seeds": TRIALS}], storage=seaweed_url)


def count_of(config: Path) -> Callable[[], int]:
    spec = load(config)
    ledger = Ledger(open_store(spec.storage), spec.name)
    return lambda: len(ledger.index().finished)


def assert_whole(config: Path, output: str) -> None:
    spec = load(config)
    index = Ledger(open_store(spec.storage), spec.name).index()
    assert len(index.finished) == TRIALS, output
    assert index.attempts == {}, output
    assert "Traceback" not in output
    wait_until(lambda: not orphans())


def test_a_launch_through_spoiled_answers_is_whole_and_blames_no_trial(proxied: Faults, config: Path) -> None:
    proxied.rate = 0.1
    run = sweep("launch", config, "-y")
    proxied.rate = 0.0
    assert run.returncode == 0, run.stdout + run.stderr
    assert proxied.injected.total() > 5
    assert_whole(config, run.stdout + run.stderr)


def test_a_short_outage_costs_a_launch_waiting_alone_and_is_said(proxied: Faults, config: Path) -> None:
    finished = count_of(config)
    launch = subprocess.Popen(
        command("launch", config, "-y"),
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: finished() > 0, launch)
    proxied.outage = "503"
    time.sleep(OUTAGE_SECONDS)
    proxied.outage = ""
    output, errors = launch.communicate(timeout=TIMEOUT)
    assert launch.returncode == 0, output + errors
    assert proxied.injected["503"] > 1
    assert_whole(config, output + errors)
    assert "SlowDown" in errors and "answers again" in errors


def test_a_long_outage_stops_a_launch_and_the_same_command_goes_on(proxied: Faults, config: Path) -> None:
    finished = count_of(config)
    launch = subprocess.Popen(
        command("launch", config, "-y", "--set", "budget.outage_seconds=2"),
        cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: finished() > 0, launch)
    proxied.outage = "reset"
    output, errors = launch.communicate(timeout=TIMEOUT)
    proxied.outage = ""
    assert launch.returncode == 1, output + errors
    assert "the store failed" in errors and "The same command goes on where it was" in errors
    assert "Traceback" not in output + errors
    run = sweep("launch", config, "-y")
    assert run.returncode == 0, run.stdout + run.stderr
    assert_whole(config, run.stdout + run.stderr)
