"""What a generation of trials is told, as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sweep.plan.platform import Platform


@dataclass(frozen=True)
class TunerJob:
    """What one generation is told.

    Attributes:
        sweep: resolved spec, as JSON.
        platform: what trials run on, as JSON.
        quota: trials after which the generation ends and another begins, since a Tuner's memory
            grows with its trials.
        stop_file: appears when trials are to write their resume state and end.
        stop_key: under which Ray's key-value store then says so on every node.
        attached: whether Ray ran before the generation, and runs on after it.
        scratch: folder for Ray and Tune.
        cache: folder of prepared images on each node; `~` is the home there.
        provenance: commit and dirty, for results.
        skip_failed: whether trials with a failed attempt are left alone.
        launch: number of this launch, whose failed tries count against `trial.retries`.
    """

    sweep: dict[str, Any]
    platform: dict[str, Any]
    quota: int
    stop_file: str
    stop_key: str
    attached: bool
    scratch: str
    cache: str
    provenance: dict[str, Any]
    skip_failed: bool
    launch: int

    def resolved_platform(self) -> Platform:
        return Platform.from_dict(self.platform)
