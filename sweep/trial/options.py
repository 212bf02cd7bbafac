"""Settings of a trial that do not change its numbers, and its progress.  Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from models import catalog
from sweep.spec.trial import TrialSpec
from sweep.store.ledger import Record


@dataclass(frozen=True)
class Options:
    """Settings of a trial that do not change its metrics.

    Attributes:
        cache: folder of prepared images on this node.
        cache_bytes: most bytes that the folder may take.
        checkpoint_seconds: least time between two resume states.
        keep_weights: whether final weights and figures.npz are stored.
        slice_seconds: how often the training loop yields a `Progress`.
        lambda_default: lambda of the metrics in the result; None for a score of one component.
        owner: name of the process that runs the trial, for the lease on resume states.
        attempts: number of earlier attempts that ended without a result.
        provenance: commit, dirty, code (hash of the code that runs), ray, gpus (share of a GPU that the trial has):
            recorded unchanged.
    """

    cache: Path
    cache_bytes: float = math.inf
    checkpoint_seconds: float = 60.0
    keep_weights: bool = True
    slice_seconds: float = 1.0
    lambda_default: float | None = None
    owner: str = ""
    attempts: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)


def make_options(
    spec: TrialSpec,
    *,
    cache: str,
    cache_bytes: float,
    checkpoint_seconds: float,
    keep_weights: bool,
    owner: str,
    attempts: int,
    provenance: Mapping[str, Any],
) -> Options:
    """Return options for a trial with its variant's default lambda; arguments are fields of `Options`.

    Args:
        cache: `~` in it means the home on this node.
    """
    return Options(
        cache=Path(cache).expanduser(),
        cache_bytes=cache_bytes,
        checkpoint_seconds=checkpoint_seconds,
        keep_weights=keep_weights,
        lambda_default=catalog.detector(spec.detector).variant(spec.variant).lam,
        owner=owner,
        attempts=attempts,
        provenance=provenance,
    )


def finish_trial(
    running: Generator[Progress, bool | None, Record], watch: Callable[[Progress], object] = lambda _: None
) -> Record:
    """Run a trial that `run_trial` has begun to its end; returns its result record.

    Args:
        running: the trial.
        watch: called with each `Progress`.
    """
    while True:
        try:
            watch(next(running))
        except StopIteration as end:
            record: Record = end.value
            return record


@dataclass(frozen=True)
class Progress:
    """Progress of a trial.

    Attributes:
        epoch: number of epochs done.
        epochs: number of all epochs.
        step: number of steps done in the next epoch.
        steps: number of steps in an epoch; 0 while the trial scores.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
