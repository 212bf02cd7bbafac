"""The GPUs of this machine as nvidia-smi tells of them, and which of them somebody is using.

Trials are given cards by CUDA_VISIBLE_DEVICES; whoever sets it is obeyed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from typing import NamedTuple

BUSY_PERCENT = 10  # of a card's memory or time; a desktop's own pictures take less
FIELDS = ("index", "uuid", "name", "compute_cap", "memory.used", "memory.total", "utilization.gpu")


class Card(NamedTuple):
    """What nvidia-smi says of one GPU.

    Attributes:
        number: as nvidia-smi counts.
        name: such as "NVIDIA H100 80GB HBM3".
        capability: compute capability, such as 9.0.
        visible: what CUDA_VISIBLE_DEVICES calls it; its id, since CUDA may count cards in another order than
            nvidia-smi, or as whoever set the variable calls it.
        use: what somebody does on it, such as "process 4711 on it"; "" where it is free.
    """

    number: int
    name: str
    capability: float
    visible: str
    use: str = ""

    def __str__(self) -> str:
        return f"GPU {self.number} ({self.name})"


def cards() -> list[Card]:
    """GPUs that this process may use, in the order of CUDA_VISIBLE_DEVICES; [] without nvidia-smi."""
    rows = _asked("--query-gpu", FIELDS)
    processes = _asked("--query-compute-apps", ("gpu_uuid", "pid"))
    found: dict[str, Card] = {}  # by index
    uuids: dict[str, str] = {}  # to index
    for index, uuid, name, capability, used, total, busy in rows:
        pids = [pid for of, pid in processes if of == uuid]
        found[index] = Card(int(index), name, float(capability), uuid, _use(pids, used, total, busy))
        uuids[uuid] = index
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not found:
        return list(found.values())
    return [_chosen(part.strip(), found, uuids) for part in visible.split(",") if part.strip() not in ("", "-1")]


def _chosen(part: str, found: dict[str, Card], uuids: dict[str, str]) -> Card:
    """The card that a part of CUDA_VISIBLE_DEVICES means: an index, or the first digits of an id."""
    index = next((index for uuid, index in uuids.items() if uuid.startswith(part)), part)
    if index in found:
        return found[index]._replace(visible=part)
    first = next(iter(found.values()))  # a slice of a card, say: nvidia-smi tells nothing of it alone
    return first._replace(visible=part, use="")


def _use(pids: Sequence[str], used: str, total: str, busy: str) -> str:
    """Containers see no processes but their own, so memory and time are looked at, too."""
    if pids:
        return f"process {', '.join(pids)} on it"
    if _number(used) > _number(total) * BUSY_PERCENT / 100:
        return f"{used} of {total} MiB taken"
    return f"{busy} % busy" if _number(busy) >= BUSY_PERCENT else ""


def _number(text: str) -> float:
    """0 where a card does not say, "[N/A]"."""
    try:
        return float(text)
    except ValueError:
        return 0.0


def _asked(query: str, fields: Sequence[str]) -> list[list[str]]:
    """Rows of an answer of nvidia-smi's; [] where there is none."""
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
