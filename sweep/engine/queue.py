"""Queue that decides which trial runs next, for fixed trials and searches together.

All cells advance at the same rate: the next trial comes from the cell with the smallest share of started trials.
Among equal cells, the one with the longest trials comes first, so that no long trial is left for the end.  Each Optuna
study of a search is one cell, and advances twice as fast.  The reason is that a search waits for its own results, and
the remaining fixed trials then fill the gaps.  The queue never holds back work while any trial can run.

The queue imports neither Ray nor torch.  The executor calls `next` and reports how each trial ended.
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
    """One entry of the queue.

    Attributes:
        planned: the trial.
        cell: its cell in the queue.
        search: search that waits for its value; None for a fixed trial and for a reported trial of a search.
        candidate, instance: numbers of the candidate and of its instance in the search.
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
    """Trials that advance together: one cell of a study, or one search."""

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
        """Sort key in the heap; the cell with the lowest rank is next."""
        share = self.started / max(1, self.total)
        return (share / 2 if self.search is not None else share, -self.cost)


class Queue:
    """All trials of a plan that have no result yet.

    Args:
        work: the plan.
        ledger: has the records of searches and the results of their candidates.
        finished: keys with a result.
        cost: returns the expected seconds of a trial.
        retries: number of times that a failed trial is tried again.
        tries: number of failed attempts that count already, by key.
        skip: keys of failed trials that must not be tried again.
        alone: keys of failed trials that ran out of memory; they run when no other trial is left, beside no other.
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
        alone: Iterable[str] = (),
    ) -> None:
        self._ledger = ledger
        self._finished = set(finished)
        self._values: dict[str, Values | None] = {}  # key -> value of a finished candidate trial
        self._retries, self._cost = retries, cost
        self._tries = dict(tries or {})
        self._failed = {*skip, *(key for key, count in self._tries.items() if count > retries)}
        self._live: dict[str, list[Job]] = {}  # key of a running trial -> jobs that wait for it
        self._alone: dict[str, list[Job]] = {key: [] for key in alone}  # key of such a trial -> jobs that wait for it
        self._lonely: str | None = None  # key of such a trial while it runs
        self._cells = self._fixed_cells(work)
        for search in work.searches:
            self._cells.append(self._search_cell(search))
        self._heap: list[tuple[float, float, int]] = []
        for cell in self._cells:
            self._push(cell)

    # -- for the executor -----------------------------------------------------------------------

    def next(self) -> Job | None:
        """Return a trial to run now; None while all remaining work waits for running trials, or when none is left."""
        if self._lonely is not None:
            return None
        job = self._next_of_cells()
        if job is None and not self._live and self._alone:
            self._lonely = next(iter(self._alone))
            self._live[self._lonely] = self._alone.pop(self._lonely)
            return self._live[self._lonely][0]
        return job

    def _next_of_cells(self) -> Job | None:
        blocked = []
        try:
            while self._heap:
                *rank, number = heapq.heappop(self._heap)
                cell = self._cells[number]
                if tuple(rank) != cell.rank:
                    continue  # outdated entry: the cell was pushed again when its rank changed
                job = self._next_job(cell)
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
        """Return True if the job's trial must be started: it is not finished, failed or running already."""
        key = job.key
        if key in self._finished or key in self._failed:
            self._observe(job)
        elif key in self._live:
            self._live[key].append(job)
        elif key in self._alone:
            self._alone[key].append(job)
        else:
            self._live[key] = [job]
            return True
        return False

    def _push(self, cell: _Cell) -> None:
        heapq.heappush(self._heap, (*cell.rank, cell.number))

    @property
    def finished(self) -> bool:
        """True if no trial runs and none is left."""
        return not self._live and not self._alone and not any(self._has_more(cell) for cell in self._cells)

    @property
    def live(self) -> int:
        """Number of running trials."""
        return len(self._live)

    def record_result(self, key: str, result: Record) -> None:
        """Record that a trial has a result."""
        self._finished.add(key)
        jobs = self._take(key)
        if any(job.search for job in jobs):
            self._values[key] = values_of(result)
        for job in jobs:
            self._observe(job)

    def record_failure(self, key: str, *, alone: bool = False) -> bool:
        """Record a failed attempt; return True if the trial is tried again, False if it has failed for good.

        Args:
            key: key of the trial.
            alone: try it again when no other trial is left, and run nothing beside it, because memory ran out.
        """
        self._tries[key] = self._tries.get(key, 0) + 1
        jobs = self._take(key)
        if self._tries[key] <= self._retries:
            if alone:
                self._alone[key] = jobs
            else:
                self._requeue(jobs, last=True)
            return True
        self._failed.add(key)
        for job in jobs:
            self._observe(job)
        return False

    def record_interruption(self, key: str) -> None:
        """Record that a trial was stopped from outside, which is not its failure; it is next in its cell."""
        lonely = key == self._lonely
        jobs = self._take(key)
        if lonely:
            self._alone[key] = jobs
        else:
            self._requeue(jobs, last=False)

    def _take(self, key: str) -> list[Job]:
        """Return the jobs of a trial that ran until now, and forget that it runs."""
        if key == self._lonely:
            self._lonely = None
        return self._live.pop(key)

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
            self._alone.get(planned.key, cell.waiting).append(Job(planned, cell))
        self._alone = {
            key: jobs for key, jobs in self._alone.items() if jobs
        }  # others are no fixed trials of this plan
        return list(cells.values())

    def _search_cell(self, planned: PlannedSearch) -> _Cell:
        """Make the cell of a search, with the state that its records and results in the ledger give."""
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
        self._values |= {key: values_of(result, planned.spec.lambdas) for key, result in results.items()}
        started = 0
        for number, instance, key in asked:
            if key in self._finished or key in self._failed:
                started += 1
                search.observe(number, instance, self._values.get(key))
        total = planned.spec.candidates * planned.spec.instances + len(planned.reports)
        cost = self._cost(planned.tuning[0])
        return _Cell(len(self._cells), total, cost, started=started, search=search, planned_search=planned)

    def _next_job(self, cell: _Cell) -> Job | None:
        """Return the next job of a cell; None if it has none now."""
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
                return self._next_job(cell)
        return None

    def _has_more(self, cell: _Cell) -> bool:
        return bool(cell.waiting) or (cell.search is not None and not cell.reported)

    def _observe(self, job: Job) -> None:
        """Pass the value of a finished or failed trial to its search; read the result first if another sweep ran it."""
        if job.search is not None:
            if job.key in self._finished and job.key not in self._values:
                self._values[job.key] = values_of(self._ledger.result(job.key), job.search.spec.lambdas)
            job.search.observe(job.candidate, job.instance, self._values.get(job.key))

    def _requeue(self, jobs: list[Job], *, last: bool) -> None:
        """Put jobs back into their cells, last or first in line; a search decides for itself."""
        for job in jobs:
            job.cell.started -= 1
            if job.search is not None:
                job.search.requeue(job.candidate, job.instance)
            elif last:
                job.cell.waiting.append(job)
            else:
                job.cell.waiting.appendleft(job)
            self._push(job.cell)
