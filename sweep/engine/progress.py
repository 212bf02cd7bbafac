"""Progress display of a running sweep: a live table on a terminal, else plain lines from time to time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from sweep.console import Display, duration
from sweep.plan.status import SweepStatus
from sweep.spec.trial import HEADLINE
from sweep.store.attempts import has_failed

RATE_SECONDS = 120.0  # length of the window in which finished trials are counted for the rate


@dataclass
class _Row:
    """Counts of one detector and variant over all studies."""

    waiting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    pruned: int = 0
    best: float | None = None
    best_cell: str = ""


class Progress(Display):
    """Display that is updated by the events of a tuner process.

    Args:
        status: status of the sweep at the start of the launch.
        slots: number of trials that run at the same time.
        console: where to print.
        log_command: returns the command that shows the log of the trial with a key.
        again: returns True if this launch tries a failed trial again, given the trial's attempts.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        status: SweepStatus,
        slots: int,
        console: Console,
        log_command: Callable[[str], str],
        again: Callable[[Sequence[Mapping[str, Any]]], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(console, clock)
        self._log_command, self._again, self._slots = log_command, again, slots
        self._rows: dict[str, _Row] = {}
        self._began = clock()
        self._finished: deque[float] = deque()
        self.reset(status)

    def take(self, event: Mapping[str, Any] | None) -> None:
        """Update the display with one event, or with None when about a second passed without one."""
        if event is not None and "detector" in event:
            self._count(self._row(event["detector"], event["variant"]), event)
        self.show(self._table, self._line())

    def reset(self, status: SweepStatus) -> None:
        """Replace the counts by those of the store, which also has pruned trials; call it while no trial runs."""
        self._rows = {}
        for line in status.lines:
            row = self._row(line.detector, line.variant)
            row.waiting += line.to_run
            row.done += line.done
            row.failed += line.failed
            row.pruned += line.pruned
        for p in {p.key: p for p in status.planned}.values():
            attempts = status.attempts.get(p.key, ())
            if has_failed(attempts) and self._again(attempts):
                row = self._row(p.detector, p.variant)
                row.waiting, row.failed = row.waiting + 1, row.failed - 1
        self._each = {(n.study, n.detector, n.variant, n.dataset): n.seconds_each for n in status.lines}
        self._expected_left = sum(line.seconds for line in status.lines)
        self._expected = self._took = 0.0  # expected and real seconds of the trials that finished since then

    def counts(self) -> dict[str, int]:
        """Return the present numbers of trials: done, failed, pruned, running, and to_run (which includes running)."""
        counts = {name: self._sum(name) for name in ("done", "failed", "pruned", "running")}
        return {**counts, "to_run": self._sum("waiting") + counts["running"]}

    def _count(self, row: _Row, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "started":
            row.waiting, row.running = max(0, row.waiting - 1), row.running + 1
            return
        row.running = max(0, row.running - 1)
        if kind == "result":
            row.done += 1
            expected = self._each.get(tuple(event[name] for name in ("study", "detector", "variant", "dataset")), 0.0)
            self._expected_left = max(0.0, self._expected_left - expected)
            self._expected += expected
            self._took += event["record"]["seconds"]
            self._finished.append(self.clock())
            self._report_result(row, event)
        elif kind == "attempt":
            again = bool(event["again"])
            row.waiting, row.failed = row.waiting + again, row.failed + (not again)
            self._report_attempt(event, again)
        else:
            row.waiting += 1

    def _report_result(self, row: _Row, event: Mapping[str, Any]) -> None:
        record = event["record"]
        if record["status"] == "diverged":
            self.say(f"{_trial(event)} diverged: {record['cause']}", style="yellow")
        headline = [m["auroc"] for m in record["metrics"] if (m["selection"], m["evaluation"]) == HEADLINE]
        if event["reported"] and headline and (row.best is None or headline[0] > row.best):
            row.best, row.best_cell = headline[0], f"{event['dataset']} {event['abnormal']}"

    def _report_attempt(self, event: Mapping[str, Any], again: bool) -> None:
        record = event["record"]
        then = "tried again" if again else "given up"
        command = self._log_command(event["key"])
        self.say(f"{_trial(event)} {record['status']}, {then}: {record['cause']}   log: {command}", style="red")

    def _row(self, detector: str, variant: str) -> _Row:
        return self._rows.setdefault(f"{detector} {variant}", _Row())

    def _sum(self, name: str) -> int:
        return sum(getattr(row, name) for row in self._rows.values())

    def _rate(self) -> float:
        """Return the number of trials per minute over the last `RATE_SECONDS`."""
        now = self.clock()
        while self._finished and now - self._finished[0] > RATE_SECONDS:
            self._finished.popleft()
        return 60.0 * len(self._finished) / max(1.0, min(RATE_SECONDS, now - self._began))

    def _time_left(self) -> str:
        """Estimate the time left: the rest of the plan's estimate, scaled by its error for the finished trials."""
        if not self._sum("waiting"):
            return "almost done"
        scale = self._took / self._expected if self._expected else 1.0
        return f"about {duration(self._expected_left * scale / self._slots)} left"

    def _line(self) -> str:
        total = f"{self._sum('done')} done, {self._sum('running')} running, {self._sum('waiting')} waiting"
        failed = self._sum("failed")
        failures = f", {failed} failed" if failed else ""
        return f"{total}{failures}; {self._rate():.0f} trials a minute, {self._time_left()}"

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="bold", title=self._line(), title_justify="left")
        table.add_column("detector")
        for heading in ("done", "running", "waiting", "failed", "best AUROC so far"):
            table.add_column(heading, justify="right")
        for name, row in self._rows.items():
            best = "" if row.best is None else f"{row.best:.3f} ({row.best_cell})"
            counts = [row.done, row.running, row.waiting, row.failed]
            table.add_row(name, *(str(count or "-") for count in counts), best)
        return table


def _trial(event: Mapping[str, Any]) -> str:
    where = f"{event['dataset']} {event['abnormal']} seed {event['seed']}"
    return f"{event['detector']} {event['variant']} {where}"
