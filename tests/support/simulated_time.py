"""Processes on simulated time: code that blocks runs as it is, one thread at a time, in an order that a seed decides.

Each task is a thread of a simulated process.  It runs until it sleeps; then the task that is to wake first goes on.  A
killed process runs no line of code more than the clean-up of its Python frames, in which every sleep fails at once.
"""

from __future__ import annotations

import heapq
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar


class Killed(BaseException):
    """End of a task of a killed process."""


@dataclass(eq=False)
class Process:
    """A simulated process.

    Attributes:
        name: for messages.
        machine: where it runs.
        pid, start: its id, and when it started.
        offset, rate: its clock shows `offset + rate * now`.
        frozen_until: no task of it runs before.
        alive: False after it ended or was killed.
    """

    name: str
    machine: str
    pid: int
    start: int
    offset: float = 0.0
    rate: float = 1.0
    frozen_until: float = 0.0
    alive: bool = True
    tasks: list[Task] = field(default_factory=list)


class Task:
    """One thread of a process."""

    def __init__(self, process: Process, call: Callable[[], object]) -> None:
        self.process, self.call = process, call
        self.turn = 0  # entries of the agenda for earlier turns are void
        self.done = self.killed = False
        self.worker: _Worker | None = None
        self.waiting: list[Task] = []  # tasks that wait for its end


class _Worker:
    """A thread of Python, reused by one task after the other: to start one takes longer than most tasks."""

    idle: ClassVar[list[_Worker]] = []

    def __init__(self) -> None:
        self.gate = threading.Lock()
        self.gate.acquire()
        self.job: Callable[[], None]
        threading.Thread(target=self._work, daemon=True, name="simulated task").start()

    def _work(self) -> None:
        while True:
            self.gate.acquire()
            self.job()


class Simulation:
    """The agenda of all processes, and the time.

    Attributes:
        now: present time in seconds.
        current: the task that runs.
        failure: the first error that left a task.
        check: is called once before the next switch, and raises if something is wrong.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.current: Task | None = None
        self.failure: BaseException | None = None
        self.check: Callable[[], object] | None = None
        self._agenda: list[tuple[float, int, int, Task | Callable[[], object]]] = []
        self._count = 0
        self._tasks: list[Task] = []
        self._main = threading.Lock()
        self._main.acquire()

    # -- for everybody --------------------------------------------------------------------------

    def at(self, time: float, call: Callable[[], object]) -> None:
        """Call something at a time, outside of every process.  It must not sleep."""
        self._push(time, 0, call)

    def spawn(self, process: Process, call: Callable[[], object]) -> Task:
        """Start a task of a process now."""
        task = Task(process, call)
        process.tasks.append(task)
        self._tasks.append(task)
        self._push(self.now, 0, task)
        return task

    def kill(self, process: Process) -> None:
        """End a process as `kill -9` does."""
        process.alive = False
        for task in process.tasks:
            task.killed = True
            self.wake(task)

    def wake(self, task: Task) -> None:
        """Let a task that sleeps go on now."""
        if not task.done and task is not self.current:
            task.turn += 1
            self._push(self.now, task.turn, task)

    def run(self) -> None:
        """Run until nothing is left to do.

        Raises:
            BaseException: the first error that left a task.
        """
        first = self._next()
        if first is not None:
            self._resume(first)
            self._main.acquire()
        if self.failure is not None:
            raise self.failure

    # -- for the task that runs -----------------------------------------------------------------

    @property
    def process(self) -> Process:
        """The process that runs."""
        assert self.current is not None, "only a task belongs to a process"
        return self.current.process

    def sleep(self, seconds: float) -> None:
        """Let others run for so long; for ever, or until woken, if the seconds are infinite."""
        me = self.current
        assert me is not None and me.worker is not None
        if me.killed:
            raise Killed
        me.turn += 1
        if seconds < math.inf:
            self._push(self.now + seconds, me.turn, me)
        self.current = None
        following = self._next()
        if following is None:
            self.fail(AssertionError(f"nothing can wake {me.process.name}"))
            following = self._next()
            assert following is not None
        if following is not me:
            self._resume(following)
            me.worker.gate.acquire()
        self.current = me
        if me.killed:
            raise Killed

    def join(self, task: Task, seconds: float = math.inf) -> None:
        """Wait for the end of a task."""
        assert self.current is not None
        if not task.done:
            task.waiting.append(self.current)
            self.sleep(seconds)

    def fail(self, error: BaseException) -> None:
        """Keep an error, and end everything."""
        self.failure = self.failure or error
        for task in self._tasks:
            task.killed = True
            self.wake(task)

    # -- agenda ---------------------------------------------------------------------------------

    def _push(self, time: float, turn: int, item: Task | Callable[[], object]) -> None:
        self._count += 1  # among equal times, the first one that came
        heapq.heappush(self._agenda, (time, self._count, turn, item))

    def _next(self) -> Task | None:
        if self.check is not None and self.failure is None:
            check, self.check = self.check, None
            self._try(check)
        while self._agenda:
            time, _, turn, item = heapq.heappop(self._agenda)
            if isinstance(item, Task):
                if item.done or item.turn != turn:
                    continue
                if item.process.frozen_until > time and not item.killed:
                    self._push(item.process.frozen_until, turn, item)
                    continue
                self.now = max(self.now, time)
                if not item.killed or item.worker is not None:
                    return item
                item.done = True  # it was killed before it began
            elif self.failure is None:
                self.now = max(self.now, time)
                self._try(item)
        return None

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001  (raised again by `run`)
            self.fail(error)

    def _resume(self, task: Task) -> None:
        self.current = task
        if task.worker is None:
            task.worker = _Worker.idle.pop() if _Worker.idle else _Worker()
            task.worker.job = lambda: self._work(task)
        task.worker.gate.release()

    def _work(self, task: Task) -> None:
        try:
            task.call()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001  (raised again by `run`)
            self.fail(error)
        task.done = True
        for other in task.waiting:
            self.wake(other)
        self.current = None
        following = self._next()
        assert task.worker is not None
        _Worker.idle.append(task.worker)
        if following is None:
            self._main.release()
        else:
            self._resume(following)


class Event:
    """Stand-in for `threading.Event`, and for `threading.Thread` and `RLock` below, on simulated time."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation, self._set = simulation, False
        self._waiting: list[Task] = []

    def set(self) -> None:
        self._set = True
        for task in self._waiting:
            self._simulation.wake(task)
        self._waiting = []

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float = math.inf) -> bool:
        assert self._simulation.current is not None
        if not self._set:
            self._waiting.append(self._simulation.current)
            self._simulation.sleep(timeout)
        return self._set


class Thread:
    def __init__(
        self, simulation: Simulation, target: Callable[..., object], args: tuple[object, ...] = (), **_: object
    ) -> None:
        self._simulation, self._call = simulation, lambda: target(*args)

    def start(self) -> None:
        self._task = self._simulation.spawn(self._simulation.process, self._call)

    def join(self) -> None:
        self._simulation.join(self._task)


class Lock:
    """Reentrant lock."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._owner: Task | None = None
        self._depth = 0

    def __enter__(self) -> None:
        while self._owner not in (None, self._simulation.current):
            self._simulation.sleep(0.01)
        self._owner = self._simulation.current
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
