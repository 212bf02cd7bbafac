"""What a cluster offers: what each trial is given, and how many run at once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sweep.errors import UserError
from sweep.plan.platform import AMPERE, Platform, multiplies_bf16, multiplies_tf32, resolve_precision
from sweep.spec.cluster import Local
from sweep.spec.sweep import Sweep
from sweep.spec.trial import Numerics


def _this_machine(sweep: Sweep, cluster: Local) -> Platform:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = cores if cluster.cpus == "auto" else cluster.cpus
    found = list_gpus() if cluster.gpus != 0 and sweep.trial.gpus != 0 else []
    problems, cautions = [], []
    if asked > cores:
        problems.append(f"cluster.cpus: {asked} are asked for, this process may use {cores}")
    if cluster.gpus != "auto" and cluster.gpus > len(found) and sweep.trial.gpus != 0:
        problems.append(f"cluster.gpus: {cluster.gpus} are asked for, nvidia-smi lists {len(found)}")
    free = [card for card in found if not card.use]
    alike = len({card.name for card in found}) == 1
    chosen = found
    if cluster.gpus != "auto":  # the name is in every key, so among unlike cards their order alone chooses
        chosen = (sorted(found, key=lambda card: bool(card.use)) if alike else found)[: cluster.gpus]
    elif free and alike:
        chosen = free
        cautions += [f"cluster.gpus: {card} is left alone: {card.use}" for card in found if card.use]
    elif found and not free:  # what it would be
        cautions.append("cluster.gpus: every GPU is busy; a launch would be refused until one is free")
    share = (1.0 if chosen else 0.0) if sweep.trial.gpus == "auto" else float(sweep.trial.gpus)
    if share and not chosen:
        problems.append("trial.gpus: no GPU is there (nvidia-smi lists none); use --set trial.gpus=0")
    cpus = 1 if sweep.trial.cpus == "auto" else sweep.trial.cpus
    if cpus > asked:
        problems.append(f"trial.cpus: {cpus} are asked for, the cluster has {asked}")
    names = sorted({card.name for card in chosen})
    if len(names) > 1:
        problems.append(f"cluster.gpus: unlike GPUs ({', '.join(names)}); choose by CUDA_VISIBLE_DEVICES")
    capability = chosen[0].capability if share and chosen else None
    precision = resolve_precision(sweep.trial.precision, capability)
    if precision == "tf32" and not multiplies_tf32(capability):
        problems.append(
            f"trial.precision: tf32 needs a GPU of compute capability {AMPERE} or more; here float32, bf16 and auto run"
        )
    if problems:
        raise UserError(problems)
    slots = asked // cpus
    if share:
        slots = min(slots, int(len(chosen) / share))
    if sweep.exclusive:
        slots = 1
    if precision == "bf16" and not multiplies_bf16(capability):
        cautions.append("trial.precision: bf16 is slower than float32 here, for want of units for it")
    return Platform(
        device=names[0] if share else "cpu",
        numerics=Numerics(precision=precision, threads=cpus),
        slots=slots,
        cpus=cpus,
        gpus=share,
        caution="\n".join(cautions),
        cards=tuple(card.visible for card in chosen) if len(chosen) < len(found) else (),
    )


def refuse_busy_cards(sweep: Sweep) -> None:
    """Leave GPUs alone that others use, as `gpus: auto` promises.

    Raises:
        UserError: there are GPUs, and every one of them is busy.
    """
    if not isinstance(sweep.cluster, Local) or sweep.cluster.gpus != "auto" or sweep.trial.gpus == 0:
        return
    found = list_gpus()
    if found and all(card.use for card in found):
        uses = "; ".join(f"{card}: {card.use}" for card in found)
        raise UserError(
            f"cluster.gpus: auto leaves busy GPUs alone, and all are ({uses}): wait, or share them "
            f"with --set cluster.gpus={len(found)}, or run on the CPU with --set trial.gpus=0"
        )


BUSY_PERCENT = 10  # of a card's memory or time; a desktop's own pictures take less


FIELDS = ("index", "uuid", "name", "compute_cap", "memory.used", "memory.total", "utilization.gpu")


class Gpu(NamedTuple):
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


def list_gpus() -> list[Gpu]:
    """GPUs that this process may use, in the order of CUDA_VISIBLE_DEVICES; [] without nvidia-smi."""
    rows = _query("--query-gpu", FIELDS)
    processes = _query("--query-compute-apps", ("gpu_uuid", "pid"))
    found: dict[str, Gpu] = {}  # by index
    uuids: dict[str, str] = {}  # to index
    for index, uuid, name, capability, used, total, busy in rows:
        pids = [pid for of, pid in processes if of == uuid]
        found[index] = Gpu(int(index), name, float(capability), uuid, _use(pids, used, total, busy))
        uuids[uuid] = index
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not found:
        return list(found.values())
    return [_find_gpu(part.strip(), found, uuids) for part in visible.split(",") if part.strip() not in ("", "-1")]


def _find_gpu(part: str, found: dict[str, Gpu], uuids: dict[str, str]) -> Gpu:
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


def _query(query: str, fields: Sequence[str]) -> list[list[str]]:
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
