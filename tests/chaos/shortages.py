"""Stories of disks that are full, read-only or emptied in mid-launch, and of resume states that are spoiled."""

from __future__ import annotations

import errno
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from tests.chaos.story import Launch, Story, story, wait, wait_for_moment
from tests.chaos.tally import Tally
from tests.support.sweeps import kill_everything

SHORTAGES = ("full store", "read-only store", "deleted store", "full TMPDIR", "full cache")
NEED_ROOT = tuple(name for name in SHORTAGES if name != "deleted store")
MEGABYTES = 300


def short(name: str, seed: int) -> Tally:
    """Spoil a disk in mid-launch, let the launch end, mend the disk, and run the same command.

    The launch must end by itself: well, or with an error that says what is wrong.
    """
    rng = random.Random(f"{name} {seed}")
    with story(kind="fixed") as told:
        place = {"store": Path(told.storage), "TMPDIR": told.temporary, "cache": told.folder / "cache"}[name.split()[1]]
        with small_disk(place) if name in NEED_ROOT else nullcontext():
            if name == "full cache":
                fill(place)
            launch = Launch(told)
            if name != "full cache":
                wait_for_moment(told, launch, rng, steps=60)
                told.tally.tries += not launch.has_ended
                SPOIL[name.split()[0]](place)
            told.tally.tries += name == "full cache"
            _end(told, launch)
            if name in NEED_ROOT:
                subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
                (place / BALLAST).unlink(missing_ok=True)
            told.finish()
        return told.tally


def spoiled_states(seed: int) -> Tally:
    """Kill a launch, then cut, empty, flip or delete every resume state: the trials start again."""
    rng = random.Random(f"states {seed}")
    with story(kind="fixed") as told:
        launch = Launch(told)
        states = partial(Path(told.storage).glob, "trials/*/checkpoint/*")
        wait(lambda: len(list(states())) > rng.randrange(4) or launch.has_ended)
        kill_everything(launch.process)
        launch.wait()
        told.take(launch)
        for file in sorted(states()):
            data = bytearray(file.read_bytes())
            match rng.randrange(4):
                case 0:
                    file.unlink()
                case 1:
                    file.write_bytes(data[: rng.randrange(len(data))])
                case 2:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                    file.write_bytes(data)
                case _:
                    file.write_bytes(rng.choice([b"", b"{}", b"null", b"text"]))
            told.tally.tries += 1
        told.finish()
        return told.tally


def _end(told: Story, launch: Launch) -> None:
    """Wait for the end of a launch, which is a good one or a clear stop."""
    code = launch.wait()
    told.take(launch)
    is_clear = code == 0 or (code == 1 and "error: " in launch.output)
    told.tally.add("lost", not is_clear, f"ended with {code}:\n{launch.output}")


BALLAST = "ballast"


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """Mount a small disk in memory on a folder; needs root."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path) -> None:
    """Fill the disk of a folder to the last page."""
    with open(place / BALLAST, "wb", buffering=0) as file:
        for size in (2**20, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def remount_read_only(place: Path) -> None:
    """Make a disk read-only, as the kernel does after an error; it waits for a moment without an open file."""
    while subprocess.run(["mount", "-o", "remount,ro", str(place)], capture_output=True).returncode:
        time.sleep(0.01)


SPOIL: dict[str, Callable[[Path], object]] = {"full": fill, "read-only": remount_read_only, "deleted": shutil.rmtree}
