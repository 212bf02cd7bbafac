"""The tuner process, as seen from the launch that starts it: it drives Ray through one generation of trials.

It starts a Ray cluster of its own on this machine, in a short private folder, so that two sweeps on one machine do not
meet; or it attaches to a Ray cluster that runs already, of which it starts and stops nothing.  If the process dies, its
own Ray dies with it, or the attached cluster takes its trials back.  If the launch dies, so does the process.
"""

from __future__ import annotations

import json
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
SILENCE_SECONDS = 600.0  # without an event; a process that works lists the nodes every ten seconds


class Scratch:
    """A private folder for Ray and Tune, removed at the end, as are folders of owners that have died."""

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
    """A process for each generation of trials, one after another.

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
        """Output of the child and of Ray."""
        return self.scratch / "generation.log"

    def start(self) -> None:
        """Start the process of the next generation and its Ray; this takes seconds, in which the caller can go on."""
        self._events, writing = os.pipe()
        attached = self.address is not None
        where = [self.address] if self.address is not None else _whole(self.platform)
        with open(self.log, "ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "sweep.engine.tuner", str(self.scratch), str(writing), *where],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                env=_environment(() if attached else self.platform.visible_gpus, attached),
                start_new_session=True,  # Ctrl-C comes to us, and we decide
                preexec_fn=die_with_parent,
            )
        os.close(writing)

    def run_generation(self, sweep: Sweep, **parameters: Any) -> Iterator[dict[str, Any] | None]:
        """Run one generation, in the process that `start` has started or in a new one.

        Args:
            sweep: what is run.
            parameters: the other fields of its `TunerJob`.

        Yields:
            Its events as they come, and None after each second without one.

        Raises:
            TunerCrashed: it ended without the event "ended", or has sent nothing for `SILENCE_SECONDS`.
        """
        if self._child is None:
            self.start()
        assert self._child is not None and self._child.stdin is not None
        job = TunerJob(
            sweep=sweep.model_dump(mode="json"),
            platform=asdict(self.platform),
            stop_file=str(self.stop_file),
            stop_key=secrets.token_hex(8),
            attached=self.address is not None,
            scratch=str(self.scratch),
            **parameters,
        )
        try:
            with suppress(BrokenPipeError), self._child.stdin as pipe:  # if it has died, its exit status is read below
                pipe.write(json.dumps(asdict(job)).encode())
            ended, heard = False, time.monotonic()
            for event in _lines(self._events):
                yield event
                if event is not None:
                    heard = time.monotonic()
                elif time.monotonic() - heard > SILENCE_SECONDS:
                    raise TunerCrashed(None, self.log.read_text(errors="replace")[-4000:])
                ended = ended or (event is not None and event["event"] == "ended")
                if ended and DIES_WITH_PARENT:
                    return  # nothing runs and all is in the store; waiting for Ray to shut down would take two seconds
            if not ended:
                raise TunerCrashed(self._child.wait(), self.log.read_text(errors="replace")[-4000:])
        finally:
            self.kill()

    def stop(self) -> None:
        """Ask running trials to write their resume state and end; the second call ends them now."""
        self._stops += 1
        self.stop_file.touch()
        if self._stops > 1:
            self._end()

    def kill(self) -> None:
        """End the child, and its Ray with it."""
        self._end()
        child, self._child = self._child, None
        if child is not None and child.stdin is not None:
            child.wait()
            with suppress(BrokenPipeError):
                child.stdin.close()

    def _end(self) -> None:
        """Kill without waiting: a signal handler may have interrupted a wait, whose lock is not reentrant."""
        child = self._child
        if child is not None and child.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


class TunerCrashed(Exception):
    """The tuner process ended without the event "ended", or hangs.

    Attributes:
        code: its exit status; None if it hangs.
        log: the end of its output.
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
    """Return CPUs and GPUs that a Ray cluster of our own offers."""
    return [str(platform.slots * platform.cpus), str(platform.whole_gpus)]


def _environment(gpus: tuple[str, ...], attached: bool = False) -> dict[str, str]:
    """Return the environment of the child; a Ray of its own hands it to Ray's processes and to trials."""
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
    """Yield JSON lines as they come, and None after each second without one."""
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
