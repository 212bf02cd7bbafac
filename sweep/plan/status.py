"""Status of a sweep, from the store alone: trials that are done, failed, pruned, stale or to run, and their time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sweep.plan.cost import Cost, sample_cost
from sweep.plan.expand import Planned, PlannedSearch, Work
from sweep.plan.more_seeds import grow, may_come
from sweep.plan.search import Search, values_of
from sweep.spec.trial import older_keys, other_arithmetic_keys
from sweep.store.attempts import has_failed
from sweep.store.ledger import Damaged, Ledger, Record

COUNTS = ("trials", "done", "failed", "pruned", "to_run", "stale", "other_arithmetic")


@dataclass
class StatusRow:
    """One row of the overview: a detector and variant on a dataset in a study.

    Attributes:
        trials: number of trials that are known now, and those that a search may still request.
        reported: number of those that a board shows, so not the candidates of a search.
        done, failed, pruned, to_run: numbers of these trials; they add up to `trials`.
        stale: number of those to run for which an older revision has a result.
        other_arithmetic: number of those to run that have a result from another kind of CPU, see `Numerics.units`.
        seconds: expected seconds of those to run, on one slot.
        seconds_each: expected seconds of one trial.
        measured: True if the seconds come from results of such trials; False if from hints.
    """

    study: str
    detector: str
    variant: str
    dataset: str
    trials: int = 0
    reported: int = 0
    done: int = 0
    failed: int = 0
    pruned: int = 0
    to_run: int = 0
    stale: int = 0
    other_arithmetic: int = 0
    seconds: float = 0.0
    seconds_each: float = 0.0
    measured: bool = False


@dataclass(frozen=True)
class SweepStatus:
    """A plan compared with the store.

    Attributes:
        lines: rows of the overview.
        planned: every trial that is known now, including candidates of searches.
        finished: keys that have a result, from any sweep.
        attempts: attempts of the planned trials without a result, by key.
        searches: each search and its present state.
        damaged: what is wrong with each damaged result that was read, and the fix, by key.  `report` reads all.
        leftovers: keys of finished trials whose resume state was not deleted.
        may_come: number of trials that the first seeds may still add.
    """

    lines: tuple[StatusRow, ...]
    planned: tuple[Planned, ...]
    finished: frozenset[str]
    attempts: Mapping[str, list[Record]]
    searches: tuple[tuple[PlannedSearch, Search], ...] = field(default=())
    damaged: Mapping[str, Damaged] = field(default_factory=dict)
    leftovers: frozenset[str] = frozenset()
    may_come: int = 0

    def count(self, name: str) -> int:
        """Return the sum of one number over all rows."""
        return sum(getattr(line, name) for line in self.lines)

    def seconds_left(self, slots: int) -> float:
        """Return the expected wall-clock seconds of the trials to run."""
        return sum(line.seconds for line in self.lines) / max(1, slots)

    def failures(self) -> dict[str, list[str]]:
        """Return the keys of trials without a result, grouped by the cause of their last attempt."""
        causes: dict[str, list[str]] = {}
        for key, attempts in self.attempts.items():
            causes.setdefault(f"{attempts[-1]['status']}: {attempts[-1]['cause']}", []).append(key)
        return causes

    def to_json(self, slots: int) -> dict[str, Any]:
        """Return what `plan --json` prints."""
        return {
            **{name: self.count(name) for name in COUNTS},
            "may_come": self.may_come,
            "seconds": self.seconds_left(slots),
            "slots": slots,
            "detectors": sorted({line.detector for line in self.lines}),
            "lines": [vars(line) for line in self.lines],
            "damaged": {key: str(error) for key, error in self.damaged.items()},
        }


def read_status(work: Work, ledger: Ledger) -> SweepStatus:
    """Compare a plan with the store; needs neither torch, Ray nor Optuna.

    Only a sample of the results of fixed trials is read; for the others it is enough that a result exists.
    """
    index = ledger.index()
    more = may_come(work, index.finished)
    work = grow(work, ledger, index.finished)
    searches = [(planned, _search(planned, ledger)) for planned in work.searches]
    candidates = {s.spec.id: list(_instances(s, search)) for s, search in searches}
    asked = [p for found in candidates.values() for _, _, p in found]
    known = [*work.fixed, *asked]
    damaged: dict[str, Damaged] = {}
    results = ledger.results({p.key for p in asked} & index.finished, damaged)
    attempts = ledger.attempts(index, {p.key for p in known} - index.finished)
    for planned, search in searches:
        for number, instance, p in candidates[planned.spec.id]:
            if p.key in results or has_failed(attempts.get(p.key, ())):
                try:
                    search.observe(number, instance, values_of(results.get(p.key), planned.spec.lambdas))
                except Damaged as error:
                    damaged[p.key] = error
    reports = [p for planned, search in searches for p in _reports(planned, search)]
    attempts |= ledger.attempts(index, {p.key for p in reports} - index.finished)
    cost = sample_cost(work, (*work.fixed, *reports), ledger, index.finished, also=results.values(), damaged=damaged)
    counter = _Counter(frozenset(index.finished), attempts, cost)
    for p in {p.key: p for p in reversed(work.fixed)}.values():  # a trial of two studies counts in the first
        counter.trial(p)
    for planned, search in searches:
        counter.search(planned, search, candidates[planned.spec.id])
    lines = tuple(counter.lines.values())
    leftovers = frozenset(index.finished & index.states & {p.key for p in (*known, *reports)})
    return SweepStatus(lines, (*known, *reports), counter.finished, attempts, tuple(searches), damaged, leftovers, more)


def reported_trials(status: SweepStatus) -> Iterator[Planned]:
    """Yield the trials that the leaderboard shows; for a search that has not chosen yet, trials without a result."""
    yield from (p for p in status.planned if p.reported)
    for planned, search in status.searches:
        if not _reports(planned, search):
            for p in planned.reports:
                # The hyperparameters are not known yet, so the key must match no result.
                yield replace(p, spec=replace(p.spec, hyperparameters={}))


class _Counter:
    def __init__(self, finished: frozenset[str], attempts: Mapping[str, list[Record]], cost: Cost) -> None:
        self.lines: dict[tuple[str, ...], StatusRow] = {}
        self.finished, self._attempts, self._cost = finished, attempts, cost

    def trial(self, p: Planned) -> None:
        line = self._line(p)
        line.trials += 1
        line.reported += p.reported
        if p.key in self.finished:
            line.done += 1
        elif has_failed(self._attempts.get(p.key, ())):
            line.failed += 1
        else:
            self._to_run(line, p)
            line.stale += any(older in self.finished for older in older_keys(p.spec))
            line.other_arithmetic += any(other in self.finished for other in other_arithmetic_keys(p.spec))

    def search(self, planned: PlannedSearch, search: Search, instances: Iterable[tuple[int, int, Planned]]) -> None:
        for number, _, p in instances:
            if p.key not in self.finished and self._given_up(search, number, p):
                line = self._line(p)
                line.trials += 1
                line.pruned += 1
            else:
                self.trial(p)
        unasked = search.spec.candidates - len(search.candidates)
        for p in planned.tuning:
            line = self._line(p)
            line.trials += unasked
            self._to_run(line, p, unasked)
        chosen = list(_reports(planned, search))
        for p in chosen:
            self.trial(p)
        for p in () if chosen else planned.reports:
            line = self._line(p)
            line.trials += 1
            line.reported += 1
            if search.finished:  # no candidate was completed, so there is nothing to report
                line.failed += 1
            else:
                self._to_run(line, p)

    def _given_up(self, search: Search, number: int, p: Planned) -> bool:
        candidate = search.candidates[number]
        failed = has_failed(self._attempts.get(p.key, ()))
        return candidate.pruned is not None or (bool(candidate.failed) and not failed)

    def _to_run(self, line: StatusRow, p: Planned, count: int = 1) -> None:
        line.to_run += count
        line.seconds += count * self._cost.seconds(p)

    def _line(self, p: Planned) -> StatusRow:
        line = self.lines.get((p.study, p.detector, p.variant, p.dataset))
        if line is None:
            line = StatusRow(p.study, p.detector, p.variant, p.dataset)
            line.seconds_each, line.measured = self._cost.seconds(p), self._cost.measured(p)
            self.lines[p.study, p.detector, p.variant, p.dataset] = line
        return line


def _search(planned: PlannedSearch, ledger: Ledger) -> Search:
    return Search(planned.spec, ledger.asks(planned.spec.id), ledger.prunes(planned.spec.id))


def _instances(planned: PlannedSearch, search: Search) -> Iterator[tuple[int, int, Planned]]:
    for number, candidate in enumerate(search.candidates):
        for instance in range(planned.spec.instances):
            yield number, instance, planned.instance(candidate.params, instance)


def _reports(planned: PlannedSearch, search: Search) -> tuple[Planned, ...]:
    frozen = search.frozen() if search.finished else None
    return () if frozen is None else planned.reported_trials(frozen)
