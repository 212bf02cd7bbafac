"""Parameters of one tuner process, sent as JSON on its standard input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sweep.plan.platform import Platform


@dataclass(frozen=True)
class TunerJob:
    """Parameters of one generation: the trials that one tuner process runs.

    Attributes:
        sweep: resolved spec, as JSON.
        platform: `Platform` of the trials, as JSON.
        quota: number of trials after which the generation ends and another one begins, because the memory of a
            `ray.tune.Tuner` grows with its trials.
        stop_file: path of a file that is created when trials must write their resume state and end.
        stop_key: key that is then set in Ray's key-value store, so that every node can see it.
        attached: True if Ray ran before the generation and keeps running after it.
        scratch: folder for files of Ray and Tune.
        folder: working folder of trials on this machine, if the tuner process itself has another one.
        cache: folder of prepared images on each node; `~` is the home folder on that node.
        provenance: commit, dirty and code, for results.
        skip_failed: True if trials with a failed attempt are not run again.
        launch: number of this launch; only its failed attempts count against `trial.retries`.
    """

    sweep: dict[str, Any]
    platform: dict[str, Any]
    quota: int
    stop_file: str
    stop_key: str
    attached: bool
    scratch: str
    folder: str | None
    cache: str
    provenance: dict[str, Any]
    skip_failed: bool
    launch: int

    def resolved_platform(self) -> Platform:
        """Return `platform` as an object."""
        return Platform.from_dict(self.platform)
