"""The tuner process, as seen from the launch that starts it: it drives Ray through one generation of trials.

It either starts its own Ray cluster on this machine, or attaches to a Ray cluster that exists.  Its own cluster uses a
short private folder, so that two sweeps on one machine do not disturb each other.  Of an attached cluster it starts
and stops nothing.

If the process dies, its own Ray dies with it; an attached cluster ends the trials.  If the launch dies, the process
dies with it.
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

SCRATCH_PREFIX = "sweep-"  # short, as Ray's socket paths must be; in the system's folder for temporary files
LONGEST_PARENT = 30  # characters; a socket path may have 107, and Ray uses most of them
# A process without events for so long hangs: a healthy one lists the nodes every 10 s, unless it waits for the store.
SILENCE_SECONDS = 600.0


class Scratch:
    """Private folder for Ray and Tune, removed at the end.  Folders of processes that have died are removed, too."""

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
    """Tuner process of one generation of trials, and then of the next.

    Attributes:
        scratch: private folder.
        platform: platform of the trials.
        address: HOST:PORT of a Ray cluster that exists; None to start and stop Ray on this machine with each
            generation.
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
        """File with the output of the process and of Ray."""
        return self.scratch / "generation.log"

    def start(self) -> None:
        """Start the process of the next generation and its Ray.

        This takes seconds, but the method returns at once, so the caller can do other work.
        """
        self._events, writing = os.pipe()
        attached = self.address is not None
        where = [self.address] if self.address is not None else _cluster_size(self.platform)
        with open(self.log, "ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "sweep.engine.tuner", str(self.scratch), str(writing), *where],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                env=_environment(() if attached else self.platform.visible_gpus, attached),
                start_new_session=True,  # so that Ctrl-C reaches only this process, which then stops the child
                preexec_fn=die_with_parent,
            )
        os.close(writing)

    def run_generation(self, sweep: Sweep, **parameters: Any) -> Iterator[dict[str, Any] | None]:
        """Run one generation, in the process that `start` has started or in a new one.

        Args:
            sweep: sweep that is run.
            parameters: the other fields of `TunerJob`.

        Yields:
            The events of the process, and None after each second without one.

        Raises:
            TunerCrashed: the process ended without the event "ended", or sent nothing for `SILENCE_SECONDS` and
                the time of an outage.
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
            # If the process has died, the pipe is broken, and its exit status is read below.
            with suppress(BrokenPipeError), self._child.stdin as pipe:
                pipe.write(json.dumps(asdict(job)).encode())
            ended, heard_at, patience = False, time.monotonic(), SILENCE_SECONDS + sweep.budget.outage_seconds
            for event in _lines(self._events):
                yield event
                if event is not None:
                    heard_at = time.monotonic()
                elif time.monotonic() - heard_at > patience:
                    raise TunerCrashed(None, self.log.read_text(errors="replace")[-4000:])
                ended = ended or (event is not None and event["event"] == "ended")
                if ended and DIES_WITH_PARENT:
                    return  # all is in the store; the kernel ends Ray, and waiting for it would take two seconds
            if not ended:
                raise TunerCrashed(self._child.wait(), self.log.read_text(errors="replace")[-4000:])
        finally:
            self.kill()

    def stop(self) -> None:
        """Ask running trials to write their resume state and end; the second call ends them at once."""
        self._stops += 1
        self.stop_file.touch()
        if self._stops > 1:
            self._end()

    def kill(self) -> None:
        """End the process, and its Ray with it."""
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
        code: exit status of the process; None if it hangs.
        log: end of its output.
    """

    def __init__(self, code: int | None, log: str) -> None:
        self.code, self.log = code, log
        super().__init__("the tuner process hangs" if code is None else f"the tuner process ended with status {code}")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _cluster_size(platform: Platform) -> list[str]:
    """Return the numbers of CPUs and GPUs that a Ray cluster started here offers."""
    return [str(platform.slots * platform.cpus), str(platform.whole_gpus)]


def _environment(gpus: tuple[str, ...], attached: bool = False) -> dict[str, str]:
    """Return the environment of the process; a Ray started here passes it on to Ray's processes and to trials."""
    quiet = {
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # otherwise `uv run` rebuilds the environment in every worker
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # the user's own detectors are imported from the working folder
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # these loggers keep every result in memory
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "100000",  # seconds between two writes of Tune's state, which is not needed
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "PYTHONWARNINGS": "ignore",
    }
    # An attached cluster has its own access settings: RAY_AUTH_MODE, and a token in RAY_AUTH_TOKEN or ~/.ray.  For a
    # cluster started here we make a token, because Ray itself would write one to the user's home folder.
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
