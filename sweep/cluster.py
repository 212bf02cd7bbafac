"""What a cluster offers: what each trial is given, and how many run at once."""

from __future__ import annotations

import os

from sweep.cards import cards
from sweep.faults import UserError
from sweep.hosts import Host, fitted
from sweep.plan import Platform
from sweep.precision import AMPERE, multiplies_bf16, multiplies_tf32, resolve_precision
from sweep.providers import Aws, Existing, Local, OnPrem, Slurm
from sweep.spec import Sweep
from sweep.trialspec import Numerics


def platform(sweep: Sweep) -> Platform:
    """What a sweep's machines give each trial, and how many run at once.

    Raises:
        UserError: if more is asked for than there is.
    """
    match sweep.cluster:
        case Local():
            return _this_machine(sweep, sweep.cluster)
        case Aws():
            from sweep.aws.instances import platform as of_aws  # no launch on this machine needs it

            return of_aws(sweep)
        case Existing():
            from sweep.existing.api import platform as of_existing

            return of_existing(sweep)
        case OnPrem() as cluster:
            machines = cluster.offering
        case Slurm() as cluster:
            machines = cluster.nodes
    return fitted(sweep, [Host(cluster.cpus, cluster.gpus)] * machines, cluster.gpu, cluster.capability)


def _this_machine(sweep: Sweep, cluster: Local) -> Platform:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = cores if cluster.cpus == "auto" else cluster.cpus
    found = cards() if cluster.gpus != 0 and sweep.trial.gpus != 0 else []
    faults, cautions = [], []
    if asked > cores:
        faults.append(f"cluster.cpus: {asked} are asked for, this process may use {cores}")
    if cluster.gpus != "auto" and cluster.gpus > len(found) and sweep.trial.gpus != 0:
        faults.append(f"cluster.gpus: {cluster.gpus} are asked for, nvidia-smi lists {len(found)}")
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
        faults.append("trial.gpus: no GPU is there (nvidia-smi lists none); use --set trial.gpus=0")
    cpus = 1 if sweep.trial.cpus == "auto" else sweep.trial.cpus
    if cpus > asked:
        faults.append(f"trial.cpus: {cpus} are asked for, the cluster has {asked}")
    names = sorted({card.name for card in chosen})
    if len(names) > 1:
        faults.append(f"cluster.gpus: unlike GPUs ({', '.join(names)}); choose by CUDA_VISIBLE_DEVICES")
    capability = chosen[0].capability if share and chosen else None
    precision = resolve_precision(sweep.trial.precision, capability)
    if precision == "tf32" and not multiplies_tf32(capability):
        faults.append(
            f"trial.precision: tf32 needs a GPU of compute capability {AMPERE} or more; here float32, bf16 and auto run"
        )
    if faults:
        raise UserError(faults)
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
    found = cards()
    if found and all(card.use for card in found):
        uses = "; ".join(f"{card}: {card.use}" for card in found)
        raise UserError(
            f"cluster.gpus: auto leaves busy GPUs alone, and all are ({uses}): wait, or share them "
            f"with --set cluster.gpus={len(found)}, or run on the CPU with --set trial.gpus=0"
        )
