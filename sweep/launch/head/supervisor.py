"""Keeps the driver of one launch running on a head, and ends the head's work whatever comes.

    python -m sweep.launch.head.supervisor STORAGE SWEEP NUMBER [--then COMMAND] [--log FILE [--detach]]

One for each sweep and machine.  A driver that dies is started again, until it has died several times in a row
without a new result.  While it lives it touches a file by which the machine's guard knows that somebody is there.
When the launch has ended, however it did, `sweeps/SWEEP/head.json` says so, and then COMMAND is run, once: it
takes the machines away.  SIGTERM, SIGUSR2 or Ctrl-C ends the launch in order: trials write their resume state.
SIGUSR1 does the same to this machine's work alone: the launch has not ended, COMMAND is not run, and the same
command goes on with it, here or elsewhere.  So does SIGTERM with SWEEP_TERM_SUSPENDS=1 in the environment, where it
comes from a place that takes machines back.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from sweep import errors
from sweep.signals import die_with_parent, term_suspends
from sweep.store import launch_status, open_store
from sweep.store.base import StoreError
from sweep.store.launch_status import LaunchStatus

SUPERVISED_FILE = "/run/sweep/supervised"
TOUCH_SECONDS = 5.0
DEATHS_IN_A_ROW = 5
LONGEST_PAUSE = 60.0  # seconds before the driver is started again
WRITE_SECONDS = 300.0  # to go on trying to write that the launch has ended: the machines cost meanwhile
OTHERS_SECONDS = 60.0  # for which a record of another launch counts as that of a driver that lives
FINAL = (errors.DONE, errors.USER_ERROR, errors.SOME_FAILED, errors.BUDGET, errors.INTERRUPTED)
NOT_STARTED = 127  # as shells have it
LAST_LINES = 20  # of what a driver said


@dataclass
class Supervisor:
    """Of one launch.

    Attributes:
        storage, sweep, number: name the launch.
        deaths: in a row after which it gives up.
        pause: seconds before the first new start; each further death doubles it.
        suspended: whether it was asked to leave the launch to a later run.
    """

    storage: str
    sweep: str
    number: int
    deaths: int = DEATHS_IN_A_ROW
    pause: float = 1.0
    _driver: subprocess.Popen[bytes] | None = None
    suspended: bool = False
    _stopping: bool = False

    def run(self) -> int:
        """Until the launch has ended, or is suspended; returns its exit code."""
        head = self._head()
        if head is not None and head.has_ended and head.exit_code is not None:
            return head.exit_code  # an earlier supervisor was cut off between this and its last command
        code, cause = self._outcome()
        if self.suspended and code != errors.INTERRUPTED:
            self.suspended = False  # it had come to its end
        if self.suspended:
            tell(f"launch {self.number} of {self.sweep} is suspended")
            return code
        tell(f"launch {self.number} of {self.sweep} has ended with exit code {code}")
        self._write_end(code, cause)
        return code

    def stop(self, *, suspend: bool = False) -> None:
        """In order; asked again, now.  Called by a signal, so it takes no lock."""
        if not self._stopping:  # whoever ends this machine's processes next does not change what was wanted
            self.suspended = suspend
        self._stopping = True
        driver = self._driver
        if driver is not None and driver.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(driver.pid, signal.SIGUSR1 if self.suspended else signal.SIGUSR2)

    def _outcome(self) -> tuple[int, str]:
        """Exit code of the launch, and the last words about it."""
        died, done = 0, -1
        while not self._stopping:
            code, words = self._drive()
            if code in FINAL:
                return code, words
            head = self._head()
            if head is not None and head.has_ended and head.exit_code is not None:
                return head.exit_code, words  # it was killed after its last word
            found = head.done if head is not None else -1
            died = 1 if found > done >= 0 else died + 1
            done = max(done, found)
            tell(f"the driver ended with status {code}, {died} in a row without a new result")
            if died >= self.deaths:
                return errors.USER_ERROR, f"the driver died {died} times in a row (status {code}): {words}"
            self._wait(min(LONGEST_PAUSE, self.pause * 2 ** (died - 1)))
        return errors.INTERRUPTED, "stopped while no driver ran"

    def _drive(self) -> tuple[int, str]:
        """Run a driver to its end; returns its exit status and its last words."""
        try:
            self._driver = subprocess.Popen(
                [sys.executable, "-m", "sweep.launch.head", self.storage, self.sweep, str(self.number)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C comes to us, and we decide
                preexec_fn=die_with_parent,  # the supervisor that comes next starts one of its own
            )
        except OSError as error:  # no memory for another process, for now
            return NOT_STARTED, str(error)
        if self._stopping:  # asked between our look and its start
            self.stop(suspend=self.suspended)
        assert self._driver.stdout is not None
        last: deque[str] = deque(maxlen=LAST_LINES)
        with self._driver.stdout as said:
            for line in said:
                last.append(line.decode(errors="replace"))
                say(last[-1])
        return self._driver.wait(), "".join(last).strip()

    def _write_end(self, code: int, cause: str) -> None:
        """See to it that the record says that the launch has ended, for as long as that may take.

        A driver that could, has written it.  The record of another launch whose driver lives is its own.
        """
        until, pause = time.monotonic() + WRITE_SECONDS, 1.0
        while True:
            try:
                store = open_store(self.storage)
                head = launch_status.read(store, self.sweep)
                ours = head is not None and head.launch == self.number
                if head is None or (not head.has_ended if ours else head.has_ended or not _fresh(head)):
                    before = (
                        head if head is not None and ours else LaunchStatus(self.number, "ended", since=time.time())
                    )
                    ended = replace(before, state="ended", exit_code=code, cause=cause or None, running=0)
                    launch_status.write(store, self.sweep, ended)
                return
            except StoreError as error:
                tell(f"head.json was not written: {error}")
                if time.monotonic() > until:
                    return
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)

    def _head(self) -> LaunchStatus | None:
        """The record, None also where it is of another launch, or the store does not answer."""
        try:
            head = launch_status.read(open_store(self.storage), self.sweep)
            return head if head is not None and head.launch == self.number else None
        except StoreError as error:
            tell(f"head.json was not read: {error}")
            return None

    def _wait(self, seconds: float) -> None:
        """Not by an event, whose lock a signal may find taken."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stopping:
            time.sleep(min(0.2, seconds))


def _fresh(head: LaunchStatus) -> bool:
    return time.time() - head.time < OTHERS_SECONDS


class AlreadySupervised(Exception):
    """Another supervisor of this sweep runs on this machine.

    Attributes:
        number: of the launch that it is for.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"launch {number} of this sweep is supervised on this machine already")


def lock(storage: str, sweep: str, number: int) -> int:
    """Take the place of this machine's supervisor of a sweep, for as long as the descriptor is open.

    Raises:
        AlreadySupervised: somebody has it.
    """
    digest = hashlib.sha256(f"{storage}\n{sweep}".encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"sweep-supervisor-{os.getuid()}-{digest}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 100)
        os.close(descriptor)
        raise AlreadySupervised(json.loads(holder or b"0")) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(number).encode())
    return descriptor


def touch(file: Path, ended: threading.Event) -> None:
    """Show the machine's guard that somebody is here, until `ended`."""
    told = False
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        except OSError as error:
            if not told:
                tell(f"{file} cannot be touched ({error.strerror}); a guard that watches it powers this machine off")
            told = True
        if ended.wait(TOUCH_SECONDS):
            return


def tell(text: str) -> None:
    """A line of the log."""
    say(f"{time.strftime('%Y-%m-%d %H:%M:%S')} supervisor: {text}\n")


def say(text: str) -> None:
    """Print; a disk that is full, or a reader that is gone, must not keep the machines."""
    with suppress(OSError):
        print(text, end="", flush=True)


def main() -> int:
    """Supervise; returns the exit code of the launch.

    Where a supervisor runs on this machine already: DONE if that is for the same launch, else ALREADY_RUNS.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("storage")
    parser.add_argument("sweep")
    parser.add_argument("number", type=int)
    parser.add_argument("--then", default="", help="shell command to run once the launch has ended")
    parser.add_argument("--log", type=Path, help="file to append what is said to")
    parser.add_argument("--detach", action="store_true", help="return at once; the supervisor goes on by itself")
    parser.add_argument("--deaths", type=int, default=DEATHS_IN_A_ROW, help="of the driver after which to give up")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds before the driver is started again")
    parser.add_argument(
        "--supervised", type=Path, default=Path(os.environ.get("SWEEP_SUPERVISED_FILE", SUPERVISED_FILE)),
        help="file to touch while this lives",
    )  # fmt: skip
    options = parser.parse_args()
    try:
        lock(options.storage, options.sweep, options.number)
    except AlreadySupervised as other:
        tell(str(other))
        return errors.DONE if other.number == options.number else errors.ALREADY_RUNS
    if options.log is not None:
        options.log.parent.mkdir(parents=True, exist_ok=True)
    if options.detach and not _goes_on():
        return errors.DONE
    if options.log is not None:
        _say_into(options.log)
    supervisor = Supervisor(options.storage, options.sweep, options.number, options.deaths, options.pause)

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        supervisor.stop(suspend=number == signal.SIGUSR1 or (number == signal.SIGTERM and term_suspends()))

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, stop)
    ended = threading.Event()
    touching = threading.Thread(target=touch, args=[options.supervised, ended], name="supervised", daemon=True)
    touching.start()
    try:
        return supervisor.run()
    finally:
        if options.then and not supervisor.suspended:
            tell(f"running: {options.then}")
            status = subprocess.run(options.then, shell=True, stdin=subprocess.DEVNULL).returncode  # noqa: S602
            tell(f"that ended with status {status}")
        ended.set()
        touching.join()


def _goes_on() -> bool:
    """Fork away from the session, as daemons do: True in the process that stays, False in the caller's."""
    sys.stdout.flush()
    if os.fork():
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    return True


def _say_into(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, standard in ((nothing, 0), (descriptor, 1), (descriptor, 2)):
        os.dup2(ours, standard)
    os.close(nothing)
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
