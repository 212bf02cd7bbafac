"""The process that drives Ray through one generation of trials, seen from the launch that starts it.

It makes a Ray cluster of its own on this machine, in a short private folder, so two sweeps side by side
do not meet; or attaches to one that runs already, of which it starts and stops nothing.  When the process
dies, its own Ray dies with it, or the attached one takes its trials back; and when the launch dies, so
does the process.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweep.engine.tuner_job import TunerJob
from sweep.plan.platform import Platform
from sweep.signals import DIES_WITH_PARENT, die_with_parent
from sweep.spec.sweep import Sweep

SCRATCH_PREFIX = "sweep-"  # in the system's folder for temporary files: Ray's socket paths must be short
LONGEST_PARENT = 30  # characters: of the 107 that a socket's path may have, Ray takes most
SILENCE_SECONDS = 600.0  # of a process that says every ten seconds which nodes there are


class Scratch:
    """A private folder for Ray and Tune, gone afterwards; folders of dead owners are removed, too."""

    def __enter__(self) -> Path:
        parent = tempfile.gettempdir()
        if len(parent) > LONGEST_PARENT:
            parent = "/tmp"  # noqa: S108  (mkdtemp below makes a private folder in it)
        for folder in Path(parent).glob(f"{SCRATCH_PREFIX}*"):
            owner = folder.name.removeprefix(SCRATCH_PREFIX).partition("-")[0]
            if owner.isdigit() and not _runs(int(owner)):
                shutil.rmtree(folder, ignore_errors=True)
        self._folder = Path(tempfile.mkdtemp(prefix=f"{SCRATCH_PREFIX}{os.getpid()}-", dir=parent))
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


@dataclass
class TunerProcess:
    """Ray for one generation after another.

    Attributes:
        scratch: private folder.
        platform: what trials run on.
        address: HOST:PORT of a Ray cluster that runs already; None for one on this machine that is started
            and stopped with each generation.
    """

    scratch: Path
    platform: Platform
    address: str | None = None
    _child: subprocess.Popen[bytes] | None = None
    _events: int = -1
    _stops: int = 0

    @property
    def stop_file(self) -> Path:
        return self.scratch / "stop"

    @property
    def log(self) -> Path:
        """What the child and Ray print."""
        return self.scratch / "generation.log"

    def start(self) -> None:
        """Start the process of the next generation and its Ray: seconds, in which orders can be prepared."""
        self._events, writing = os.pipe()
        where = [self.address] if self.address is not None else _whole(self.platform)
        with open(self.log, "ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "sweep.engine.tuner", str(self.scratch), str(writing), *where],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                env=_environment(() if self.address is not None else self.platform.cards, self.address is not None),
                start_new_session=True,  # Ctrl-C comes to us, and we decide
                preexec_fn=die_with_parent,
            )
        os.close(writing)

    def generation(self, sweep: Sweep, **told: Any) -> Iterator[dict[str, Any] | None]:
        """Run one generation, in the process that stands by or a new one.

        Args:
            sweep: what is run.
            told: the rest of its `Orders`.

        Yields:
            its events as they come, and None at least every second.

        Raises:
            GenerationDied: if it ends other than by saying so.
        """
        if self._child is None:
            self.start()
        assert self._child is not None and self._child.stdin is not None
        orders = TunerJob(
            sweep=sweep.model_dump(mode="json"),
            platform=asdict(self.platform),
            stop_file=str(self.stop_file),
            stop_key=secrets.token_hex(8),
            attached=self.address is not None,
            scratch=str(self.scratch),
            **told,
        )
        try:
            with suppress(BrokenPipeError), self._child.stdin as pipe:  # if it has died, its status tells why
                pipe.write(json.dumps(asdict(orders)).encode())
            ended, heard = False, time.monotonic()
            for event in _lines(self._events):
                yield event
                if event is not None:
                    heard = time.monotonic()
                elif time.monotonic() - heard > SILENCE_SECONDS:
                    raise TunerCrashed(None, self.log.read_text(errors="replace")[-4000:])
                ended = ended or (event is not None and event["event"] == "ended")
                if ended and DIES_WITH_PARENT:
                    return  # nothing runs, all is in the store: Ray's farewell would take two seconds
            if not ended:
                raise TunerCrashed(self._child.wait(), self.log.read_text(errors="replace")[-4000:])
        finally:
            self.kill()

    def stop(self) -> None:
        """Ask running trials to write their resume state and end; asked again, end them now."""
        self._stops += 1
        self.stop_file.touch()
        if self._stops > 1:
            self._end()

    def kill(self) -> None:
        """End the child and, by that, its Ray."""
        self._end()
        child, self._child = self._child, None
        if child is not None and child.stdin is not None:
            child.wait()
            with suppress(BrokenPipeError):
                child.stdin.close()

    def _end(self) -> None:
        """Without waiting: a signal handler may have interrupted a wait, whose lock is not reentrant."""
        child = self._child
        if child is not None and child.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


class TunerCrashed(Exception):
    """The process that drives Ray ended without saying so.

    Attributes:
        code: its exit status; None when it lives and does nothing.
        log: the last of what it printed.
    """

    def __init__(self, code: int | None, log: str) -> None:
        self.code, self.log = code, log
        super().__init__("the driver of Ray hangs" if code is None else f"the driver of Ray ended with status {code}")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _whole(platform: Platform) -> list[str]:
    """CPUs and GPUs that a cluster of our own offers."""
    return [str(platform.slots * platform.cpus), str(math.ceil(platform.slots * platform.gpus))]


def _environment(gpus: tuple[str, ...], attached: bool = False) -> dict[str, str]:
    """Of the child, and with a Ray of its own of Ray's processes and of trials; all is read when ray is imported."""
    quiet = {
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run` rebuilds the environment in every worker
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # detectors of the user's own are imported from the working folder
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # they keep every result in memory
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "100000",  # its experiment state is scratch
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "PYTHONWARNINGS": "ignore",
    }
    # Whoever started a cluster says how it is entered: RAY_AUTH_MODE, and a token in RAY_AUTH_TOKEN or ~/.ray.
    # Of our own Ray would write a token to the user's home.
    entry = {} if attached else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "OMP_NUM_THREADS")}
    seen = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else {}
    return {**kept, **quiet, **entry, **seen, "PYTHONPATH": path}


def _lines(descriptor: int) -> Iterator[dict[str, Any] | None]:
    """JSON lines as they come, None whenever a second has passed without one."""
    import selectors

    buffer = b""
    with selectors.DefaultSelector() as selector, os.fdopen(descriptor, "rb", buffering=0) as pipe:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout=1.0):
                yield None
                continue
            data = pipe.read(65536)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                yield json.loads(line)
