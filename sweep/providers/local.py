"""This machine: Ray runs in a child process of the launch, and ends with it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

from rich.console import Console

from sweep.errors import UserError
from sweep.plan.platform import Host, Platform, fit
from sweep.plan.status import SweepStatus
from sweep.providers.base import Provider
from sweep.providers.finding import Finding
from sweep.spec.cluster import ClusterSection, Local

BUSY_PERCENT = 10  # a GPU is busy above this share of memory or time; a desktop's windows take less
FIELDS = ("index", "uuid", "name", "compute_cap", "memory.used", "memory.total", "utilization.gpu")


class LocalProvider(Provider[Local]):
    """This machine.  A launch runs in its own process, so there is nothing to provision, submit or remove."""

    section: ClassVar[type[ClusterSection]] = Local

    def platform(self) -> Platform:
        """Return the platform of the trials: free GPUs, or CPU cores.

        Raises:
            UserError: more is requested than this machine has.
        """
        cluster, trial = self.cluster, self.sweep.trial
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cpus = cores if cluster.cpus == "auto" else cluster.cpus
        listed = list_gpus() if cluster.gpus != 0 and trial.gpus != 0 else []
        gpus, cautions = self._choose(listed)
        problems = []
        if cpus > cores:
            problems.append(f"cluster.cpus: {cpus} requested, this process may use {cores}")
        if cluster.gpus != "auto" and cluster.gpus > len(listed) and trial.gpus != 0:
            problems.append(f"cluster.gpus: {cluster.gpus} requested, nvidia-smi lists {len(listed)}")
        names = sorted({gpu.name for gpu in gpus})
        if len(names) > 1:
            problems.append(f"cluster.gpus: different GPUs ({', '.join(names)}); choose with CUDA_VISIBLE_DEVICES")
        found = fit(
            self.sweep,
            [Host(cpus, len(gpus))],
            gpu=names[0] if names else "",
            capability=gpus[0].capability if gpus else None,
            cpu_is_here=True,
            no_gpu="no GPU was found (nvidia-smi lists none)",
            no_tf32="use float32, bf16 or auto here",
            problems=problems,
            cautions=cautions,
        )
        return replace(found, visible_gpus=tuple(gpu.visible for gpu in gpus) if len(gpus) < len(listed) else ())

    def _choose(self, listed: Sequence[Gpu]) -> tuple[Sequence[Gpu], list[str]]:
        """Return the GPUs to use, and cautions about the others."""
        free = [gpu for gpu in listed if not gpu.use]
        alike = len({gpu.name for gpu in listed}) == 1
        if self.cluster.gpus != "auto":
            # A GPU's name is in every key.  So among different GPUs the order decides, and not which are free today.
            ordered = sorted(listed, key=lambda gpu: bool(gpu.use)) if alike else listed
            return ordered[: self.cluster.gpus], []
        if free and alike:
            return free, [f"cluster.gpus: {gpu} is not used: {gpu.use}" for gpu in listed if gpu.use]
        if listed and not free:  # the plan shows what trials would run on
            return listed, ["cluster.gpus: every GPU is busy; a launch would be refused until one is free"]
        return listed, []

    def findings(self, *, fix: bool) -> Iterator[Finding]:
        """Return nothing: the platform is checked for every provider, and this machine needs no other check."""
        yield from ()

    def check_launch(self) -> None:
        """Refuse a launch if every GPU is busy, because `gpus: auto` means to use free ones only.

        Raises:
            UserError: there are GPUs, and every one of them is busy.
        """
        if self.cluster.gpus != "auto" or self.sweep.trial.gpus == 0:
            return
        listed = list_gpus()
        if listed and all(gpu.use for gpu in listed):
            uses = "; ".join(f"{gpu}: {gpu.use}" for gpu in listed)
            raise UserError(
                f"cluster.gpus: auto uses free GPUs only, and every one is busy ({uses}): wait, or share them "
                f"with --set cluster.gpus={len(listed)}, or run on the CPU with --set trial.gpus=0"
            )

    def provision(self, status: SweepStatus, console: Console, deadline: float | None) -> float | None:
        """Do nothing: Ray is started by the launch."""
        return deadline

    def submit(self, number: int) -> None:
        """Refuse: no head exists that could run a launch.

        Raises:
            UserError: always.
        """
        raise UserError("provider local runs a launch in the process of its own command, and has no head")

    def is_alive(self) -> bool | None:
        """Return False: there is no head."""
        return False

    def resources(self) -> list[str]:
        """Return []: nothing outlives a launch."""
        return []

    def teardown(self, console: Console) -> list[str]:
        """Return []: nothing outlives a launch."""
        return []


class Gpu(NamedTuple):
    """One GPU, as nvidia-smi reports it.

    Attributes:
        number: number that nvidia-smi gives it.
        name: name, such as "NVIDIA H100 80GB HBM3".
        capability: CUDA compute capability, such as 9.0.
        visible: its name for CUDA_VISIBLE_DEVICES: the one that is set there already, or else its UUID.  CUDA may
            number GPUs in another order than nvidia-smi.
        use: why it is busy, such as "process 4711 on it"; "" if it is free.
    """

    number: int
    name: str
    capability: float
    visible: str
    use: str = ""

    def __str__(self) -> str:
        return f"GPU {self.number} ({self.name})"


def list_gpus() -> list[Gpu]:
    """Return the GPUs that this process may use, in the order of CUDA_VISIBLE_DEVICES; [] without nvidia-smi."""
    rows = _query("--query-gpu", FIELDS)
    processes = _query("--query-compute-apps", ("gpu_uuid", "pid"))
    found: dict[str, Gpu] = {}  # GPUs by index
    uuids: dict[str, str] = {}  # index of each UUID
    for index, uuid, name, capability, used, total, busy in rows:
        pids = [pid for of, pid in processes if of == uuid]
        found[index] = Gpu(int(index), name, float(capability), uuid, _use(pids, used, total, busy))
        uuids[uuid] = index
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not found:
        return list(found.values())
    return [_find_gpu(part.strip(), found, uuids) for part in visible.split(",") if part.strip() not in ("", "-1")]


def _find_gpu(part: str, found: dict[str, Gpu], uuids: dict[str, str]) -> Gpu:
    """Return the GPU that a part of CUDA_VISIBLE_DEVICES means: an index, or the first digits of a UUID."""
    index = next((index for uuid, index in uuids.items() if uuid.startswith(part)), part)
    if index in found:
        return found[index]._replace(visible=part)
    first = next(iter(found.values()))  # e.g. a slice of a GPU (MIG), which nvidia-smi does not list
    return first._replace(visible=part, use="")


def _use(pids: Sequence[str], used: str, total: str, busy: str) -> str:
    """Return why a GPU is busy; "" if it is free.

    Memory and time count, too, because a container sees only its own processes.
    """
    if pids:
        return f"process {', '.join(pids)} on it"
    if _number(used) > _number(total) * BUSY_PERCENT / 100:
        return f"{used} of {total} MiB taken"
    return f"{busy} % busy" if _number(busy) >= BUSY_PERCENT else ""


def _number(text: str) -> float:
    """Return a number that nvidia-smi printed; 0 if it is not available, "[N/A]"."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _query(query: str, fields: Sequence[str]) -> list[list[str]]:
    """Return the rows that nvidia-smi prints; [] if it cannot be run."""
    command = ["nvidia-smi", f"{query}={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return list(_rows(listed, len(fields)))


def _rows(listed: str, width: int) -> Iterator[list[str]]:
    for line in listed.splitlines():
        row = [part.strip() for part in line.split(",")]
        if len(row) == width:
            yield row
