"""Keep the driver of one launch running on a head, and end the work of the head in every case.

    python -m sweep.launch.head.supervisor STORAGE SWEEP NUMBER [--then COMMAND] [--log FILE [--detach]]

There is one supervisor for each sweep and machine.  It starts the driver again if it crashes, until it has crashed
several times in a row without a new result.  While the supervisor lives, it touches a file every few seconds: the
machine's guard watches this file.  When the launch has ended, for any reason, it writes so into
`sweeps/SWEEP/head.json`.  Then it runs COMMAND once, which removes the machines.

Signals:

- SIGTERM, SIGUSR2 and Ctrl-C end the launch in order: trials write their resume state.
- SIGUSR1 suspends the launch: trials write their resume state, but the launch has not ended and COMMAND is not run.
  The same command goes on with the launch later, here or elsewhere.
- With SWEEP_TERM_SUSPENDS=1 in the environment, SIGTERM suspends the launch, too.  It is set if the provider sends
  SIGTERM when it takes machines back.
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
from sweep.console import write_anything
from sweep.signals import die_with_parent, term_suspends
from sweep.store import launch_status, open_store
from sweep.store.base import StoreError
from sweep.store.launch_status import LaunchStatus

SUPERVISED_FILE = "/run/sweep/supervised"
TOUCH_SECONDS = 5.0
MAX_CONSECUTIVE_CRASHES = 5  # of the driver, with no new result in between
LONGEST_PAUSE = 60.0  # seconds before the driver is started again
WRITE_SECONDS = 300.0  # time to keep trying to write that the launch has ended; the machines cost money
OTHERS_SECONDS = 60.0  # a status of another launch that is younger belongs to a driver that is alive
FINAL = (errors.DONE, errors.USER_ERROR, errors.SOME_FAILED, errors.BUDGET, errors.INTERRUPTED)
NOT_STARTED = 127  # the status that shells use for a command that cannot be started
LAST_LINES = 20  # lines of the driver's output that are kept for its cause of death


@dataclass
class Supervisor:
    """Supervisor of one launch.

    Attributes:
        storage, sweep, number: names of the store and the sweep, and number of the launch.
        deaths: number of crashes in a row after which it gives up.
        pause: seconds before the first restart; each further crash in a row doubles it.
        suspended: True if the launch is to go on in a later run.
    """

    storage: str
    sweep: str
    number: int
    deaths: int = MAX_CONSECUTIVE_CRASHES
    pause: float = 1.0
    _driver: subprocess.Popen[bytes] | None = None
    suspended: bool = False
    _stopping: bool = False

    def run(self) -> int:
        """Run until the launch has ended or is suspended.  Returns its exit code."""
        head = self._head()
        if head is not None and head.has_ended and head.exit_code is not None:
            return head.exit_code  # an earlier supervisor was killed before it ran COMMAND
        code, cause = self._outcome()
        if self.suspended and code != errors.INTERRUPTED:
            self.suspended = False  # the launch ended before the signal had an effect
        if self.suspended:
            tell(f"launch {self.number} of {self.sweep} is suspended")
            return code
        tell(f"launch {self.number} of {self.sweep} has ended with exit code {code}")
        self._write_end(code, cause)
        return code

    def stop(self, *, suspend: bool = False) -> None:
        """Stop the driver in order; the second call ends it at once.

        A signal handler calls this, so it takes no lock.

        Args:
            suspend: suspend the launch instead of ending it.  Only the first call decides this.
        """
        if not self._stopping:  # a later signal, e.g. when the machine shuts down, does not change this decision
            self.suspended = suspend
        self._stopping = True
        driver = self._driver
        if driver is not None and driver.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(driver.pid, signal.SIGUSR1 if self.suspended else signal.SIGUSR2)

    def _outcome(self) -> tuple[int, str]:
        """Return the exit code of the launch, and the end of the driver's output."""
        crashes, done = 0, -1
        while not self._stopping:
            code, output = self._drive()
            if code in FINAL:
                return code, output
            head = self._head()
            if head is not None and head.has_ended and head.exit_code is not None:
                return head.exit_code, output  # the driver was killed after it had written the end
            done_now = head.done if head is not None else -1
            crashes = 1 if done_now > done >= 0 else crashes + 1
            done = max(done, done_now)
            tell(f"the driver ended with status {code}, {crashes} in a row without a new result")
            if crashes >= self.deaths:
                return errors.USER_ERROR, f"the driver died {crashes} times in a row (status {code}): {output}"
            self._wait(min(LONGEST_PAUSE, self.pause * 2 ** (crashes - 1)))
        return errors.INTERRUPTED, "stopped while no driver ran"

    def _drive(self) -> tuple[int, str]:
        """Run a driver to its end.  Returns its exit status and the end of its output."""
        try:
            self._driver = subprocess.Popen(
                [sys.executable, "-m", "sweep.launch.head", self.storage, self.sweep, str(self.number)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C reaches only the supervisor, which then stops the driver
                preexec_fn=die_with_parent,  # a new supervisor starts its own driver
            )
        except OSError as error:  # e.g. no memory for another process at present
            return NOT_STARTED, str(error)
        if self._stopping:  # the signal came before the driver had started, so it has not received it
            self.stop(suspend=self.suspended)
        assert self._driver.stdout is not None
        last: deque[str] = deque(maxlen=LAST_LINES)
        with self._driver.stdout as pipe:
            for line in pipe:
                last.append(line.decode(errors="replace"))
                say(last[-1])
        return self._driver.wait(), "".join(last).strip()

    def _write_end(self, code: int, cause: str) -> None:
        """Write into head.json that the launch has ended, unless the driver has done so; retry if the store fails.

        The status of another launch whose driver is alive is not overwritten.
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
        """Return the launch status; None if it belongs to another launch, or the store does not answer."""
        try:
            head = launch_status.read(open_store(self.storage), self.sweep)
            return head if head is not None and head.launch == self.number else None
        except StoreError as error:
            tell(f"head.json was not read: {error}")
            return None

    def _wait(self, seconds: float) -> None:
        """Wait; return early if a stop is requested.

        An Event is not used, because a signal handler could find its lock taken.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stopping:
            time.sleep(min(0.2, seconds))


def _fresh(head: LaunchStatus) -> bool:
    return time.time() - head.time < OTHERS_SECONDS


class AlreadySupervised(Exception):
    """Another supervisor of this sweep runs on this machine.

    Attributes:
        number: number of the launch that it supervises.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"launch {number} of this sweep is supervised on this machine already")


def lock(storage: str, sweep: str, number: int) -> int:
    """Lock the sweep on this machine for this supervisor, until the returned descriptor is closed.

    Raises:
        AlreadySupervised: another supervisor holds the lock.
    """
    path = lock_file(storage, sweep)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 100)
            os.close(descriptor)
            raise AlreadySupervised(json.loads(holder or b"0")) from None
        with suppress(FileNotFoundError):  # its last holder has removed the file in the meantime: another one counts
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                break
        os.close(descriptor)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(number).encode())
    return descriptor


def lock_file(storage: str, sweep: str) -> Path:
    """Return the path of the file that the supervisor of a sweep locks on this machine, and removes at its end."""
    digest = hashlib.sha256(f"{storage}\n{sweep}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"sweep-supervisor-{os.getuid()}-{digest}"


def touch(file: Path, ended: threading.Event) -> None:
    """Touch a file every few seconds until `ended`, so that the machine's guard sees that the supervisor is alive."""
    warned = False
    while True:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        except OSError as error:
            if not warned:
                tell(f"{file} cannot be touched ({error.strerror}); a guard that watches it powers this machine off")
            warned = True
        if ended.wait(TOUCH_SECONDS):
            return


def tell(text: str) -> None:
    """Write a line with the time to the log."""
    say(f"{time.strftime('%Y-%m-%d %H:%M:%S')} supervisor: {text}\n")


def say(text: str) -> None:
    """Print; ignore a full disk or a closed pipe, which must not prevent the removal of the machines."""
    with suppress(OSError):
        print(text, end="", flush=True)


def main() -> int:
    """Supervise.  Returns the exit code of the launch.

    If a supervisor runs on this machine already: DONE if it is for the same launch, else ALREADY_RUNS.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("storage")
    parser.add_argument("sweep")
    parser.add_argument("number", type=int)
    parser.add_argument("--then", default="", help="shell command to run once the launch has ended")
    parser.add_argument("--log", type=Path, help="file to append the output to")
    parser.add_argument(
        "--detach", action="store_true", help="return at once; the supervisor goes on in the background"
    )
    parser.add_argument(
        "--deaths", type=int, default=MAX_CONSECUTIVE_CRASHES, help="number of crashes in a row after which to give up"
    )
    parser.add_argument("--pause", type=float, default=1.0, help="seconds before the driver is started again")
    parser.add_argument(
        "--supervised", type=Path, default=Path(os.environ.get("SWEEP_SUPERVISED_FILE", SUPERVISED_FILE)),
        help="file to touch while this process lives",
    )  # fmt: skip
    options = parser.parse_args()
    write_anything()
    try:
        lock(options.storage, options.sweep, options.number)
    except AlreadySupervised as other:
        tell(str(other))
        return errors.DONE if other.number == options.number else errors.ALREADY_RUNS
    if options.log is not None:
        options.log.parent.mkdir(parents=True, exist_ok=True)
    if options.detach and not _detach():
        return errors.DONE
    if options.log is not None:
        _redirect_output(options.log)
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
            tell(f"the command ended with status {status}")
        ended.set()
        touching.join()
        lock_file(options.storage, options.sweep).unlink(missing_ok=True)  # the lock itself ends with this process


def _detach() -> bool:
    """Fork twice away from the session, as daemons do.

    Returns:
        True in the process that stays, False in the caller's process.
    """
    sys.stdout.flush()
    if os.fork():
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    return True


def _redirect_output(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, standard in ((nothing, 0), (descriptor, 1), (descriptor, 2)):
        os.dup2(ours, standard)
    os.close(nothing)
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main())
