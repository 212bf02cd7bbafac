"""Launches on a head for tests: recorded in the store as by a user's machine, then driven or supervised."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweep.plan.launch_record import record
from sweep.spec.load import load
from sweep.store import open_store
from sweep.store.launch_status import LaunchStatus
from sweep.store.ledger import Ledger
from tests.support.sweeps import ROOT, TIMEOUT, environment, platform, wait_until

SWEEP = "test"  # name of the sweep in `sweeps.write_config`


def put_launch(config: Path, slots: int = 2, **fields: Any) -> int:
    """Record a launch in the store, with more fields of its record.  Returns its number."""
    sweep = load(config)
    found = record(sweep, replace(platform(sweep), slots=slots, cpus=1))
    options = {"argv": ["launch", str(config), "-y"], "started": time.time(), "deadline": None, "skip_failed": False}
    return Ledger(open_store(sweep.storage), sweep.name).put_spec({**found, **options, **fields})


def words(module: str, folder: Path, number: int, *more: str) -> list[str]:
    """Return the command line of the driver or the supervisor of a launch."""
    return [sys.executable, "-m", module, str(folder / "store"), SWEEP, str(number), *more]


def drive(folder: Path, number: int, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a driver to its end."""
    command = words("sweep.launch.head", folder, number)
    return subprocess.run(command, cwd=ROOT, env=environment(**extra), capture_output=True, text=True, timeout=TIMEOUT)


def supervise(folder: Path, number: int, *more: str, **extra: str) -> subprocess.Popen[str]:
    """Start a supervisor; its output goes into supervisor.log."""
    with open(folder / "supervisor.log", "ab") as log:
        return subprocess.Popen(
            words("sweep.launch.head.supervisor", folder, number, "--supervised", str(folder / "supervised"), *more),
            cwd=ROOT,
            env=environment(**extra),
            stdout=log,
            stderr=log,
            text=True,
        )


def head_of(folder: Path) -> LaunchStatus | None:
    """Return the status that the head has written; None if there is none yet."""
    try:
        return LaunchStatus.from_json(json.loads((folder / f"store/sweeps/{SWEEP}/head.json").read_text()))
    except FileNotFoundError:
        return None


def ended_head(folder: Path) -> LaunchStatus:
    """Return the status of a launch that has ended."""
    head = head_of(folder)
    assert head is not None
    assert head.has_ended
    return head


def attempts_of(folder: Path) -> list[dict[str, Any]]:
    """Return all attempts, sorted by key and number."""
    return [json.loads(path.read_text()) for path in sorted((folder / "store/trials").glob("*/attempts/*.json"))]


def wait_for_lines(log: Path, count: int, process: subprocess.Popen[Any]) -> None:
    """Wait until trials have logged this number of steps."""
    wait_until(lambda: log.exists() and len(log.read_bytes().splitlines()) >= count, process)
