"""What a cluster offers, and a generation of trials on the cluster of one machine.

A generation is a child process with a Ray cluster of its own, in a short private folder, so two
sweeps side by side do not meet; when the child dies its Ray dies with it, and when this process
dies, so does the child.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sweep.faults import UserError
from sweep.orders import Orders
from sweep.plan import Platform
from sweep.precision import AMPERE, multiplies_bf16, multiplies_tf32, resolve_precision
from sweep.providers import Aws, Local
from sweep.spec import Sweep
from sweep.trialspec import Numerics

SCRATCH_PREFIX = "sweep-"  # in the system's folder for temporary files: Ray's socket paths must be short
LONGEST_PARENT = 30  # characters: of the 107 that a socket's path may have, Ray takes most
PR_SET_PDEATHSIG = 1
DIES_WITH_PARENT = sys.platform == "linux"  # a process whose parent is killed, and Ray's so with their driver


class GPU(NamedTuple):
    """What nvidia-smi says of one: its name, and its compute capability, such as 9.0."""

    name: str
    capability: float


def platform(sweep: Sweep) -> Platform:
    """What a sweep's machines give each trial, and how many run at once.

    Raises:
        UserError: if more is asked for than there is.
    """
    if isinstance(sweep.cluster, Aws):
        from sweep.aws.instances import platform as of_aws  # no launch on this machine needs it

        return of_aws(sweep)
    return _this_machine(sweep, sweep.cluster)


def _this_machine(sweep: Sweep, cluster: Local) -> Platform:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = cores if cluster.cpus == "auto" else cluster.cpus
    found = gpus() if cluster.gpus != 0 and sweep.trial.gpus != 0 else []
    faults = []
    if asked > cores:
        faults.append(f"cluster.cpus: {asked} are asked for, this process may use {cores}")
    if cluster.gpus != "auto":
        if cluster.gpus > len(found) and sweep.trial.gpus != 0:
            faults.append(f"cluster.gpus: {cluster.gpus} are asked for, nvidia-smi lists {len(found)}")
        found = found[: cluster.gpus]
    share = (1.0 if found else 0.0) if sweep.trial.gpus == "auto" else float(sweep.trial.gpus)
    if share and not found:
        faults.append("trial.gpus: no GPU is there (nvidia-smi lists none); use --set trial.gpus=0")
    cpus = 1 if sweep.trial.cpus == "auto" else sweep.trial.cpus
    if cpus > asked:
        faults.append(f"trial.cpus: {cpus} are asked for, the cluster has {asked}")
    names = sorted({gpu.name for gpu in found})
    if len(names) > 1:
        faults.append(f"cluster.gpus: unlike GPUs ({', '.join(names)}); choose by CUDA_VISIBLE_DEVICES")
    capability = found[0].capability if share and found else None
    precision = resolve_precision(sweep.trial.precision, capability)
    if precision == "tf32" and not multiplies_tf32(capability):
        faults.append(
            f"trial.precision: tf32 needs a GPU of compute capability {AMPERE} or more; here float32, bf16 and auto run"
        )
    if faults:
        raise UserError(faults)
    slots = asked // cpus
    if share:
        slots = min(slots, int(len(found) / share))
    if sweep.exclusive:
        slots = 1
    slow = precision == "bf16" and not multiplies_bf16(capability)
    return Platform(
        device=names[0] if share else "cpu",
        numerics=Numerics(precision=precision, threads=cpus),
        slots=slots,
        cpus=cpus,
        gpus=share,
        caution="trial.precision: bf16 is slower than float32 here, for want of units for it" if slow else "",
    )


def gpus() -> list[GPU]:
    """GPUs that this process may use."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    lines = [line.rpartition(",") for line in listed.splitlines() if line.strip()]
    found = [GPU(name.strip(), float(capability)) for name, _, capability in lines]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    chosen = [part for part in visible.split(",") if part.strip() not in ("", "-1")]
    return [found[int(part)] if part.isdigit() and int(part) < len(found) else found[0] for part in chosen]


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
class LocalCluster:
    """Ray on this machine, started and stopped with each generation.

    Attributes:
        scratch: private folder.
        platform: what trials run on.
    """

    scratch: Path
    platform: Platform
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
        cpus = self.platform.slots * self.platform.cpus
        gpus = math.ceil(self.platform.slots * self.platform.gpus)
        with open(self.log, "ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "sweep.generation", str(self.scratch), str(cpus), str(gpus), str(writing)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[writing],
                env=_environment(),
                start_new_session=True,  # Ctrl-C comes to us, and we decide
                preexec_fn=_die_with_parent,
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
        orders = Orders(
            sweep=sweep.model_dump(mode="json"),
            platform=asdict(self.platform),
            stop_file=str(self.stop_file),
            scratch=str(self.scratch),
            **told,
        )
        try:
            with suppress(BrokenPipeError), self._child.stdin as pipe:  # if it has died, its status tells why
                pipe.write(json.dumps(asdict(orders)).encode())
            ended = False
            for event in _lines(self._events):
                yield event
                ended = ended or (event is not None and event["event"] == "ended")
                if ended and DIES_WITH_PARENT:
                    return  # nothing runs, all is in the store: Ray's farewell would take two seconds
            if not ended:
                raise GenerationDied(self._child.wait(), self.log.read_text(errors="replace")[-4000:])
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


class GenerationDied(Exception):
    """The process that drives Ray ended without saying so.

    Attributes:
        code: its exit status.
        log: the last of what it printed.
    """

    def __init__(self, code: int, log: str) -> None:
        self.code, self.log = code, log
        super().__init__(f"the driver of Ray ended with status {code}")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _environment() -> dict[str, str]:
    """Of the child, of Ray's processes and of trials; all of it is read when ray is imported."""
    quiet = {
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else `uv run` rebuilds the environment in every worker
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",  # detectors of the user's own are imported from the working folder
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray writes one to the user's home
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # they keep every result in memory
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "100000",  # its experiment state is scratch
        "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
        "PYTHONWARNINGS": "ignore",
    }
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    kept = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "OMP_NUM_THREADS")}
    return {**kept, **quiet, "PYTHONPATH": path}


def _die_with_parent() -> None:
    """A launch that is killed must not leave a Ray cluster behind; only Linux can promise that."""
    if DIES_WITH_PARENT:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


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
