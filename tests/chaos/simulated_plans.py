"""Small plans for simulated launches, and what their trials find."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sweep.plan import search as searches
from sweep.plan.expand import Planned, PlannedSearch, Work, expand
from sweep.plan.search import Search
from sweep.spec.load import resolve
from sweep.spec.sweep import Sweep
from sweep.spec.trial import Scalar, TrialSpec
from tests.plan.test_expand import CPU

TABLE = {"name": "table", "kind": "error_bars", "datasets": ["digits"], "detectors": ["ganomaly"], "seeds": 2}
SEARCH = {
    "name": "search", "kind": "search", "datasets": ["digits"], "detectors": ["ganomaly"], "abnormal": [0],
    "objective": "labelled", "seeds": 1, "space": {"nz": {"choices": [8, 16, 32, 100]}},
}  # fmt: skip


@dataclass(frozen=True)
class SimulatedSweep:
    """A sweep and its plan."""

    name: str
    sweep: Sweep
    work: Work


def _sweep(name: str, retries: int, *studies: Mapping[str, Any]) -> SimulatedSweep:
    trial = {"retries": retries, "stop_after_failures": 0}
    sweep = resolve({"storage": "./r", "sweep": {"name": name, "studies": list(studies)}, "trial": trial})
    work = expand(sweep, CPU)
    cached = tuple(CachedSearch(**vars(search)) for search in work.searches)
    return SimulatedSweep(name, sweep, Work(work.fixed, cached, work.datasets))


@cache
def plans() -> list[list[SimulatedSweep]]:
    """Return the plans: a table and a short search, a search that prunes, and two sweeps that share trials."""
    short = {**SEARCH, "candidates": 3, "parallel": 2, "tuning_seeds": 2}
    pruning = {**SEARCH, "candidates": 4, "parallel": 2, "tuning_seeds": 5}
    tables = [_sweep("a", 1, {**TABLE, "abnormal": [0]}), _sweep("b", 2, {**TABLE, "abnormal": [0, 1]})]
    return [[_sweep("a", 1, {**TABLE, "abnormal": [0]}, short)], [_sweep("a", 1, pruning)], tables]


@dataclass(frozen=True)
class CachedSearch(PlannedSearch):
    """Search that makes each of its trials once in the life of the process: hashing their keys takes time."""

    made: dict[object, Any] = field(default_factory=dict, compare=False)

    def instance(self, params: Mapping[str, Scalar], number: int) -> Planned:
        asked = ("instance", number, *sorted(params.items()))
        if asked not in self.made:
            self.made[asked] = super().instance(params, number)
        return self.made[asked]  # type: ignore[no-any-return]

    def reported_trials(self, frozen: tuple[Mapping[str, Scalar], float | None]) -> tuple[Planned, ...]:
        asked = ("reports", frozen[1], *sorted(frozen[0].items()))
        if asked not in self.made:
            self.made[asked] = super().reported_trials(frozen)
        return self.made[asked]  # type: ignore[no-any-return]


def auroc_of(spec: TrialSpec) -> float:
    """Return the validation AUROC of a candidate's trial: a function of its spec alone."""
    nz = int(spec.hyperparameters["nz"])
    noise = zlib.crc32(f"{nz} {spec.abnormal} {spec.seed}".encode()) % 1000 / 20_000
    return 0.9 - abs(nz - 90) / 200 + noise


def validation_of(spec: TrialSpec) -> dict[str, Any]:
    """Return the validation part of a result."""
    return {"epoch": 1, "lambda": [0.0], "auroc": [auroc_of(spec)]}


# -- decisions of a search, which Optuna takes milliseconds for, and which many schedules have in common ---------------

_samples: dict[object, dict[str, Scalar]] = {}
_sample, _worse = Search._sample, cache(searches._worse)


def sample_once(search: Search, number: int) -> dict[str, Scalar]:
    """Return what `Search._sample` returns, which is a function of the candidates before."""
    seen = [
        (tuple(c.params.items()), n < search._horizon() and (c.pruned, c.complete(search.spec.instances), str(c.seen)))
        for n, c in enumerate(search.candidates)
    ]
    asked = (search.spec.id, search.spec.parallel, number, *seen)
    if asked not in _samples:
        _samples[asked] = _sample(search, number)
    return dict(_samples[asked])


def worse_once(values: list[float], reference: list[float]) -> bool:
    """Return what `_worse` of `sweep.plan.search` returns."""
    return _worse(tuple(values), tuple(reference))
