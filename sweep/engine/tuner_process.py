"""The tuner process, as seen from the launch that starts it: it drives Ray through one generation of trials.

It either starts its own Ray cluster on this machine, or attaches to a Ray cluster that exists.  Its own cluster uses a
short private folder, so that two sweeps on one machine do not disturb each other.  Of an attached cluster it starts
and stops nothing.

The process runs under a reaper (`sweep.engine.reaper`).  If it dies, its own Ray and everything that a trial has
started die with it; an attached cluster ends the trials.  If the launch dies, all of them die with it.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sweep.engine.reaper import END_SIGNAL
from sweep.engine.scratch import SCRATCH_VARIABLE
from sweep.engine.tuner_job import TunerJob
from sweep.plan.platform import Platform
from sweep.signals import DIES_WITH_PARENT, die_with_parent
from sweep.spec.ray_settings import RAY_SETTINGS
from sweep.spec.sweep import Sweep

REAPER = (sys.executable, "-m", "sweep.engine.reaper")
END_SECONDS = 15.0  # then the process group is killed without the reaper
LOG_BYTES, LAST_LINES, LINE_CHARACTERS = 20_000, 6, 300  # of a log: what is read, and what is shown of it
# A process without events for so long hangs: a healthy one lists the nodes every 10 s, unless it waits for the store.
SILENCE_SECONDS = 600.0


@dataclass
class TunerProcess:
    """Tuner process of one generation of trials, and then of the next.

    Attributes:
        scratch: private folder.
        platform: platform of the trials.
        address: HOST:PORT of a Ray cluster that exists; None to start and stop Ray on this machine with each
            generation.
        code: folder with a copy of the code that trials import; None to import the code where it is.
    """

    scratch: Path
    platform: Platform
    address: str | None = None
    code: Path | None = None
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
                [*REAPER, sys.executable, "-m", "sweep.engine.tuner", str(self.scratch), str(writing), *where],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                # Ray puts the working folder of its starter before all other folders of modules in its workers.
                cwd=self.code,
                env=_environment(self.scratch, () if attached else self.platform.visible_gpus, attached),
                start_new_session=True,  # so that Ctrl-C reaches only this process, which then stops the child
                preexec_fn=partial(die_with_parent, END_SIGNAL),
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
            folder=None if self.code is None else os.getcwd(),
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
                    raise TunerCrashed(None, self._last_words())
                ended = ended or (event is not None and event["event"] == "ended")
                if ended and DIES_WITH_PARENT:
                    return  # all is in the store; Ray is killed, and waiting until it ends by itself takes two seconds
            if not ended:
                raise TunerCrashed(self.kill(), self._last_words())
        finally:
            self.kill()

    def stop(self) -> None:
        """Ask running trials to write their resume state and end; the second call ends them at once."""
        self._stops += 1
        self.stop_file.touch()
        if self._stops > 1:
            self._end()

    def kill(self) -> int | None:
        """End the process, and its Ray and every process of a trial with it.

        Returns:
            Exit status of the process, negative if a signal ended it.  None if none was started.
        """
        self._end()
        child, self._child = self._child, None
        if child is None or child.stdin is None:
            return None
        until = time.monotonic() + END_SECONDS
        # The reaper stays a zombie until `wait`, so its id, which is that of its process group, names no other process.
        while not _has_ended(child.pid) and time.monotonic() < until:
            time.sleep(0.005)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        with suppress(BrokenPipeError):
            child.stdin.close()
        return child.wait()

    def _end(self) -> None:
        """Tell the reaper to end everything, without waiting.

        A signal handler calls this.  It may have interrupted a wait, whose lock is not reentrant.
        """
        child = self._child
        if child is not None and child.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(child.pid, END_SIGNAL)

    def _last_words(self) -> str:
        """Return the end of the process's output, and of that of Ray's process for this machine."""
        raylet = self.scratch / "ray/session_latest/logs/raylet.out"
        return "\n".join(filter(None, (_telling(file) for file in (self.log, raylet))))


class TunerCrashed(Exception):
    """The tuner process ended without the event "ended", or hangs.

    Attributes:
        code: exit status of the process; None if it hangs.
        log: last lines of its output and of Ray's, without tracebacks.
    """

    def __init__(self, code: int | None, log: str) -> None:
        self.code, self.log = code, log
        super().__init__("the tuner process hangs" if code is None else f"the tuner process ended with status {code}")


def _has_ended(pid: int) -> bool:
    """Return True if a child has ended, without collecting its exit status; True where the system cannot tell."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13
        return True
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _cluster_size(platform: Platform) -> list[str]:
    """Return the numbers of CPUs and GPUs that a Ray cluster started here offers."""
    return [str(platform.slots * platform.cpus), str(platform.whole_gpus)]


def _telling(file: Path) -> str:
    """Return the last lines of a log that help a person: of a traceback only the error; "" if it cannot be read."""
    try:
        with open(file, "rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    noise = (" ", "\t", "Traceback", "***", "@")  # of tracebacks in Python and in C++
    shown = [line.strip() for line in lines if line.strip() and not line.startswith(noise)]
    return "\n".join(line[:LINE_CHARACTERS] for line in shown[-LAST_LINES:])


def _environment(scratch: Path, gpus: tuple[str, ...], attached: bool = False) -> dict[str, str]:
    """Return the environment of the process; a Ray started here passes it on to Ray's processes and to trials."""
    quiet = {
        **RAY_SETTINGS,
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # these loggers keep every result in memory
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "100000",  # seconds between two writes of Tune's state, which is not needed
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "RAY_gcs_server_port_wait_time_s": "120",  # Ray's own patience, 20 s, is too short on a busy machine
        SCRATCH_VARIABLE: str(scratch),
    }
    # An attached cluster has its own access settings: RAY_AUTH_MODE, and a token in RAY_AUTH_TOKEN or ~/.ray.  For a
    # cluster started here we make a token, because Ray itself would write one to the user's home folder.
    if attached:
        del quiet["RAY_AUTH_MODE"]
    entry = {} if attached else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
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
