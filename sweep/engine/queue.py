"""Which trial runs next: fixed trials and searches through one queue.

Cells advance fairly: the next trial is of the cell of which the smallest share has been started,
and among equals the longest, so that no long trial is left for the end.  A search counts as one
cell per Optuna study, and goes twice as fast: it waits for its own results, and fixed trials that are
left then fill the gaps.  The queue never holds back work while any is runnable.  It knows neither Ray
nor torch: whoever executes asks `next` and says how it went.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from sweep.plan.expand import Planned, PlannedSearch, Work
from sweep.plan.search import Search, Values, values_of
from sweep.store.ledger import Ledger, Record


@dataclass
class Job:
    """One place in the queue.

    Attributes:
        planned: the trial.
        search: None for a fixed trial and for the report of a search.
        candidate, instance: of a search.
    """

    planned: Planned
    cell: _Cell
    search: Search | None = None
    candidate: int = 0
    instance: int = 0

    @property
    def key(self) -> str:
        return self.planned.key


@dataclass
class _Cell:
    """What advances together: one cell of a study, or one search."""

    number: int
    total: int
    cost: float
    waiting: deque[Job] = field(default_factory=deque)
    started: int = 0
    search: Search | None = None
    planned_search: PlannedSearch | None = None
    reported: bool = False

    @property
    def rank(self) -> tuple[float, float]:
        share = self.started / max(1, self.total)
        return (share / 2 if self.search is not None else share, -self.cost)


class Queue:
    """All work of a plan that has no result yet.

    Args:
        work: the plan.
        ledger: for the records of searches, and the results of their candidates.
        finished: keys that have a result.
        cost: expected seconds of a trial.
        retries: further tries of a trial that failed.
        tries: by key, failed tries that count already.
        skip: keys that are not to be tried again.
    """

    def __init__(
        self,
        work: Work,
        ledger: Ledger,
        finished: Iterable[str],
        cost: Callable[[Planned], float],
        *,
        retries: int,
        tries: Mapping[str, int] | None = None,
        skip: Iterable[str] = (),
    ) -> None:
        self._ledger = ledger
        self._finished = set(finished)
        self._values: dict[str, Values | None] = {}  # of finished candidates
        self._retries, self._cost = retries, cost
        self._tries = dict(tries or {})
        self._failed = {*skip, *(key for key, count in self._tries.items() if count > retries)}
        self._live: dict[str, list[Job]] = {}  # jobs that wait for the same running trial
        self._cells = self._fixed_cells(work)
        for search in work.searches:
            self._cells.append(self._search(search))
        self._heap: list[tuple[float, float, int]] = []
        for cell in self._cells:
            self._push(cell)

    # -- for the executor -----------------------------------------------------------------------

    def next(self) -> Job | None:
        """A trial to run now; None while everything left waits for something that runs."""
        blocked = []
        try:
            while self._heap:
                *rank, number = heapq.heappop(self._heap)
                cell = self._cells[number]
                if tuple(rank) != cell.rank:
                    continue  # it was pushed again when its rank changed
                job = self._of(cell)
                if job is None:
                    if cell.search is not None and not cell.reported:
                        blocked.append(cell)
                    continue
                cell.started += 1
                self._push(cell)
                if self._starts(job):
                    return job
            return None
        finally:
            for cell in blocked:
                self._push(cell)

    def _starts(self, job: Job) -> bool:
        """Whether a job needs a trial to be run: not one that is finished, given up or running."""
        key = job.key
        if key in self._finished or key in self._failed:
            self._observe(job)
        elif key in self._live:
            self._live[key].append(job)
        else:
            self._live[key] = [job]
            return True
        return False

    def _push(self, cell: _Cell) -> None:
        heapq.heappush(self._heap, (*cell.rank, cell.number))

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing will."""
        return not self._live and not any(self._has_more(cell) for cell in self._cells)

    @property
    def live(self) -> int:
        """Trials that run."""
        return len(self._live)

    def record_result(self, key: str, result: Record) -> None:
        """A trial has a result."""
        self._finished.add(key)
        jobs = self._live.pop(key)
        if any(job.search for job in jobs):
            self._values[key] = values_of(result)
        for job in jobs:
            self._observe(job)

    def record_failure(self, key: str) -> bool:
        """A try ended without a result.  True: the trial is tried again; False: it failed for good."""
        self._tries[key] = self._tries.get(key, 0) + 1
        jobs = self._live.pop(key)
        if self._tries[key] <= self._retries:
            self._again(jobs, last=True)
            return True
        self._failed.add(key)
        for job in jobs:
            self._observe(job)
        return False

    def record_interruption(self, key: str) -> None:
        """A try was stopped from outside, at no problem of the trial's."""
        self._again(self._live.pop(key), last=False)

    # -- cells ----------------------------------------------------------------------------------

    def _fixed_cells(self, work: Work) -> list[_Cell]:
        cells: dict[tuple[str, ...], _Cell] = {}
        for planned in work.fixed:
            if planned.key in self._finished or planned.key in self._failed:
                continue
            cell = cells.get(planned.cell)
            if cell is None:
                cell = cells[planned.cell] = _Cell(len(cells), total=0, cost=self._cost(planned))
            cell.total += 1
            cell.waiting.append(Job(planned, cell))
        return list(cells.values())

    def _search(self, planned: PlannedSearch) -> _Cell:
        name, ledger = planned.spec.id, self._ledger
        search = Search(
            planned.spec,
            ledger.asks(name),
            ledger.prunes(name),
            lambda number, record: ledger.put_ask(name, number, record),
            lambda number, record: ledger.put_prune(name, number, record),
        )
        asked = [
            (number, instance, planned.instance(candidate.params, instance).key)
            for number, candidate in enumerate(search.candidates)
            for instance in range(planned.spec.instances)
        ]
        results = ledger.results({key for *_, key in asked} & self._finished)
        self._values |= {key: values_of(result) for key, result in results.items()}
        started = 0
        for number, instance, key in asked:
            if key in self._finished or key in self._failed:
                started += 1
                search.observe(number, instance, self._values.get(key))
        total = planned.spec.candidates * planned.spec.instances + len(planned.reports)
        cost = self._cost(planned.tuning[0])
        return _Cell(len(self._cells), total, cost, started=started, search=search, planned_search=planned)

    def _of(self, cell: _Cell) -> Job | None:
        """The next job of a cell."""
        if cell.waiting:
            return cell.waiting.popleft()
        if cell.search is None or cell.planned_search is None or cell.reported:
            return None
        pair = cell.search.next()
        if pair is not None:
            planned = cell.planned_search.instance(cell.search.candidates[pair[0]].params, pair[1])
            return Job(planned, cell, cell.search, *pair)
        if cell.search.finished:
            cell.reported = True
            frozen = cell.search.frozen()
            if frozen is not None:
                cell.waiting.extend(Job(planned, cell) for planned in cell.planned_search.reported_trials(frozen))
                return self._of(cell)
        return None

    def _has_more(self, cell: _Cell) -> bool:
        return bool(cell.waiting) or (cell.search is not None and not cell.reported)

    def _observe(self, job: Job) -> None:
        """Tell a search what its instance came to; one that another sweep has run is read here."""
        if job.search is not None:
            if job.key in self._finished and job.key not in self._values:
                self._values[job.key] = values_of(self._ledger.result(job.key))
            job.search.observe(job.candidate, job.instance, self._values.get(job.key))

    def _again(self, jobs: list[Job], *, last: bool) -> None:
        for job in jobs:
            job.cell.started -= 1
            if job.search is not None:
                job.search.requeue(job.candidate, job.instance)
            elif last:
                job.cell.waiting.append(job)
            else:
                job.cell.waiting.appendleft(job)
            self._push(job.cell)
