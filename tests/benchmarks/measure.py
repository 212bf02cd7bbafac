"""Functions for all benchmarks: run a sweep, measure its processes, and print the results."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType

from tests.support.sweeps import command, descendants, environment

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = ("ray", "torch", "numpy", "pyarrow", "optuna")
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def arguments(description: str | None, *options: tuple[str, int | float | str, str]) -> argparse.Namespace:
    """Parse options given as (name, default, help); the script's docstring is its help."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in options:
        kind = type(default)
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{text} (default {default!r})")
    return parser.parse_args()


@contextmanager
def folder() -> Iterator[Path]:
    """Yield a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        yield Path(name)


def seconds(call: Callable[[], object]) -> float:
    """Return the wall-clock seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def run(words: list[str], **extra: str) -> str:
    """Run a command to its end in a sweep's environment.  Returns its output; a failure ends the benchmark."""
    done = subprocess.run(words, cwd=ROOT, env=environment(**extra), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with status {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def launch(config: Path, **extra: str) -> Usage:
    """Launch a sweep to its end, and measure its processes."""
    words = command("launch", config, "-y")
    with open(config.parent / "launch.log", "wb") as log:
        process = subprocess.Popen(words, cwd=ROOT, env=environment(**extra), stdout=log, stderr=log)
        with Usage(process.pid) as usage:
            code = process.wait()
    if code:
        sys.exit(f"{' '.join(words)} ended with status {code}:\n{(config.parent / 'launch.log').read_text()}")
    return usage


@dataclass
class Usage:
    """CPU seconds and resident memory of a launch and all its processes, sampled twice a second.

    Attributes:
        pid: process id of the launch.
        cpu: last CPU seconds by process id.
        roles: launch, generation, worker or ray, by process id.
        memory: resident MiB of launch and generations by process id, one number for each sample.
        seconds: wall-clock seconds.
    """

    pid: int
    cpu: dict[int, float] = field(default_factory=dict)
    roles: dict[int, str] = field(default_factory=dict)
    memory: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    seconds: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Usage:
        self._began = time.perf_counter()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._began
        self._over.set()
        self._thread.join()

    def by_role(self) -> dict[str, float]:
        """Return the CPU seconds by role."""
        total: dict[str, float] = defaultdict(float)
        for pid, cpu in self.cpu.items():
            total[self.roles[pid]] += cpu
        return dict(total)

    def of(self, role: str) -> list[list[float]]:
        """Return the resident MiB over time of each process of a role, in order of start."""
        return [looks for pid, looks in self.memory.items() if self.roles[pid] == role]

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            for pid in (self.pid, *descendants(self.pid)):
                try:
                    self._look(pid)
                except OSError:
                    continue  # the process has just ended

    def _look(self, pid: int) -> None:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        role = "launch" if pid == self.pid else "generation" if "-m sweep.engine.tuner" in words else "ray"
        # An idle worker is named ray::IDLE, and keeps its role.
        if "ray::" in words and "Agent" not in words:
            role = "worker"
        self.roles[pid] = role if self.roles.get(pid) != "worker" else "worker"
        self.cpu[pid] = (int(fields[11]) + int(fields[12])) / TICK
        if role in ("launch", "generation"):
            self.memory[pid].append(int(fields[21]) * PAGE / 2**20)


def middle(values: list[float], unit: str = "s") -> str:
    """Return median, minimum and maximum as text."""
    return f"{median(values):.3g} {unit} (min {min(values):.3g}, max {max(values):.3g}, n={len(values)})"


def header() -> None:
    """Print date, commit, hardware, versions, and the machine's load."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in VERSIONS)
    print(f"{time.strftime('%Y-%m-%d %H:%M')}, commit {commit}, load before {os.getloadavg()[0]:.1f}")
    print(f"{model or platform.processor()}, {os.cpu_count()} cores")
    print(f"python {platform.python_version()}, {versions}")


def figure(name: str, value: str, reference: str, verdict: str) -> None:
    """Print the line of a result."""
    print(f"{name} | {value} | reference: {reference} | {verdict}")


def bar(value: float, most: float | None = None, least: float | None = None) -> str:
    """Return a value, its bar, and the words "holds" or "MISSED"."""
    if most is not None:
        return f"{value:.3g}, bar {most:g} at most: {'holds' if value <= most else 'MISSED'}"
    return f"{value:.4g}, bar {least:g} at least: {'holds' if value >= (least or 0.0) else 'MISSED'}"
