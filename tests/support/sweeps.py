"""The command line, run as a user does, for tests."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sweep.engine.scratch import MARKER, SCRATCH_VARIABLE

if TYPE_CHECKING:
    from sweep.plan.platform import Platform
    from sweep.spec.sweep import Sweep

ROOT = Path(__file__).parents[2]
TIMEOUT = 240  # seconds; long enough for a slow machine


def write_config(folder: Path, studies: list[dict[str, Any]], **top: Any) -> Path:
    """Write the YAML of a sweep with its own store, a cache next to the folder, and digits of 16 x 16.

    Returns:
        The path of the YAML.
    """
    config = folder / "sweep one's ü.yaml"
    common = {"datasets": ["digits"], "kind": "error_bars", "seeds": 1}
    body = {
        "storage": str(folder / "store"),
        "data": {"size": 16, "cache": str(folder.parent / "cache")},
        "sweep": {
            "name": "test",
            "studies": [{"name": f"s{n}", **common, **s} for n, s in enumerate(studies)],
        },
        **top,
    }
    config.write_text(yaml.safe_dump(body))
    return config


def logged(**hyperparameters: Any) -> dict[str, Any]:
    """Return a study of the detector that logs every step that it trains."""
    name = "tests.support.faulty_detectors:Logged"
    return {"detectors": [name], "abnormal": [0], "hyperparameters": {name: hyperparameters}}


def platform(sweep: Sweep) -> Platform:
    """Return the platform of a sweep's trials, from its provider."""
    from sweep.providers.registry import provider_of

    return provider_of(sweep).platform()


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "sweep", *map(str, words)]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **extra}


def sweep(*words: object, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `python -m sweep` to its end."""
    return sweep_in(ROOT, *words, **extra)


def sweep_in(folder: Path, *words: object, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `python -m sweep` to its end in a folder."""
    return subprocess.run(
        command(*words),
        cwd=folder,
        env=environment(**extra),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        stdin=subprocess.DEVNULL,
    )


def plan_of(config: Path) -> dict[str, Any]:
    """Return what `plan --json` prints."""
    run = sweep("plan", config, "--json")
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def results_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the result records of a folder's store, by key."""
    return {p.parent.name: json.loads(p.read_text()) for p in (folder / "store/trials").glob("*/result.json")}


def wait_until(condition: Any, process: subprocess.Popen[Any] | None = None) -> None:
    """Poll until `condition()` is true; fail if the process ends before."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true"
        assert process is None or process.poll() is None, "the process ended before the condition became true"
        time.sleep(0.02)


def kill_everything(process: subprocess.Popen[Any]) -> None:
    """Kill a process and all its descendants with SIGKILL, as a power cut would: tuner, Ray's daemons, workers."""
    for pid in [*descendants(process.pid), process.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def orphans() -> list[int]:
    """Return the processes that work for a launch that is gone: nobody holds the lock of their scratch folder."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            names = dict(variable.partition("=")[::2] for variable in environ.read_text().split("\0"))
        except OSError:  # it has ended
            continue
        if SCRATCH_VARIABLE in names and _is_abandoned(Path(names[SCRATCH_VARIABLE])):
            found.append(int(environ.parent.name))
    return found


def _is_abandoned(scratch: Path) -> bool:
    try:
        with open(scratch / MARKER) as marker:
            fcntl.flock(marker, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def words_of(pid: int) -> bytes:
    """Return the command line of a process, its words ended by NUL; b"" if the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def descendants(pid: int) -> list[int]:
    """Return the ids of a process's descendants, parents first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, queue = [], [pid]
    while queue:
        for child in children.get(queue.pop(0), []):
            found.append(child)
            queue.append(child)
    return found
