"""Jobs of Slurm, through its own commands."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sweep.errors import UserError

SECONDS = 60
HERE = "run this where Slurm's commands are, such as on its login node"


class Job(NamedTuple):
    """One in the queue.

    Attributes:
        number: by which Slurm knows it.
        state: such as PENDING or RUNNING.
        where: its nodes, or why it waits.
    """

    number: str
    state: str
    where: str

    def __str__(self) -> str:
        return f"job {self.number} of Slurm, {self.state} {self.where}".rstrip()


def jobs(name: str) -> list[Job]:
    """This user's jobs of a name, in whatever state they are in the queue.

    Raises:
        UserError: Slurm does not say.
    """
    found = query("squeue", "--me", "--noheader", "--states=all", f"--name={name}", "--format=%i %T %R")
    rows = [Job(*(*line.split(maxsplit=2), "")[:3]) for line in found]
    return [row for row in rows if row.state in LIVE]


# All others are past: Slurm shows a job for some minutes after its end.
LIVE = frozenset({
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING",
    "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "SPECIAL_EXIT", "RESV_DEL_HOLD",
})  # fmt: skip


def submit(script: str) -> str:
    """Put a job into the queue; its number.

    Raises:
        UserError: Slurm refuses it, with what it says.
    """
    return query("sbatch", "--parsable", given=script)[0].partition(";")[0]


def test(script: str) -> str:
    """Have Slurm look at a job without taking it; when and where it would run, in its words.

    Raises:
        UserError: Slurm would refuse it, with what it says.
    """
    return " ".join(query("sbatch", "--test-only", given=script))


def end(job: Job, *, in_order: bool) -> None:
    """Ask the job's script to stop in order, for good, or have Slurm end all of it; one that is gone is no problem.

    Raises:
        UserError: Slurm does not answer.
    """
    words = ["--batch", "--signal=USR2"] if in_order else []
    with _answering("scancel"):
        subprocess.run(["scancel", *words, job.number], capture_output=True, timeout=SECONDS)


def query(*words: str, given: str = "") -> list[str]:
    """Lines that one of Slurm's commands prints.

    Raises:
        UserError: it is not there, does not answer, or fails.
    """
    try:
        with _answering(words[0]):
            ran = subprocess.run(words, input=given, capture_output=True, text=True, timeout=SECONDS, check=True)
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.replace(f"{words[0]}: ", "").split())
        raise UserError(f"{words[0]} refuses: {said}") from None
    # --test-only speaks on standard error, and there alone
    return [line for line in (ran.stdout or ran.stderr).splitlines() if line.strip()]


@contextmanager
def _answering(command: str) -> Iterator[None]:
    """A command that cannot be run, or does not come back, becomes a problem of the user's."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{command}: there is no such command here; {HERE}") from None
    except OSError as error:
        raise UserError(f"{command} cannot be run here ({error.strerror}); {HERE}") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command}: no answer for {SECONDS} seconds; is Slurm's controller up?") from None
