"""Jobs of Slurm, by its own commands."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from sweep.errors import UserError

SECONDS = 60  # timeout of a command
HERE = "run this where Slurm's commands are installed, such as on its login node"


class Job(NamedTuple):
    """One job in the queue.

    Attributes:
        number: Slurm's id of the job.
        state: state, such as PENDING or RUNNING.
        where: nodes of the job, or the reason why it waits.
    """

    number: str
    state: str
    where: str

    def __str__(self) -> str:
        return f"job {self.number} of Slurm, {self.state} {self.where}".rstrip()


def jobs(name: str) -> list[Job]:
    """Return this user's jobs with a name that are in the queue, in any state.

    Raises:
        UserError: Slurm does not answer.
    """
    found = query("squeue", "--me", "--noheader", "--states=all", f"--name={name}", "--format=%i %T %R")
    rows = [Job(*(*line.split(maxsplit=2), "")[:3]) for line in found]
    return [row for row in rows if row.state in LIVE]


# States of jobs that have not ended.  Slurm lists a job for some minutes after its end.
LIVE = frozenset({
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING",
    "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "SPECIAL_EXIT", "RESV_DEL_HOLD",
})  # fmt: skip


def submit(script: str) -> str:
    """Put a job into the queue.  Returns its number.

    Raises:
        UserError: Slurm refuses the job, with Slurm's message.
    """
    return query("sbatch", "--parsable", given=script)[0].partition(";")[0]


def test(script: str) -> str:
    """Let Slurm check a job without accepting it.  Returns Slurm's text on when and where the job would run.

    Raises:
        UserError: Slurm would refuse the job, with Slurm's message.
    """
    return " ".join(query("sbatch", "--test-only", given=script))


def end(job: Job, *, in_order: bool) -> None:
    """End a job; it is no problem if the job has ended already.

    Args:
        job: job in the queue.
        in_order: ask the job's script to stop the launch in order; otherwise Slurm kills all of the job.

    Raises:
        UserError: Slurm does not answer.
    """
    words = ["--batch", "--signal=USR2"] if in_order else []
    with _answering("scancel"):
        subprocess.run(["scancel", *words, job.number], capture_output=True, timeout=SECONDS)


def query(*words: str, given: str = "") -> list[str]:
    """Run a command of Slurm.  Returns the lines that it prints.

    Args:
        words: the command.
        given: text for its standard input.

    Raises:
        UserError: the command is not installed, does not answer, or fails.
    """
    try:
        with _answering(words[0]):
            ran = subprocess.run(words, input=given, capture_output=True, text=True, timeout=SECONDS, check=True)
    except subprocess.CalledProcessError as error:
        message = " ".join(error.stderr.replace(f"{words[0]}: ", "").split())
        raise UserError(f"{words[0]} refuses: {message}") from None
    # `sbatch --test-only` prints only to standard error
    return [line for line in (ran.stdout or ran.stderr).splitlines() if line.strip()]


@contextmanager
def _answering(command: str) -> Iterator[None]:
    """Turn the failure to run a command, or its timeout, into a UserError."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{command}: this command is not installed here; {HERE}") from None
    except OSError as error:
        raise UserError(f"{command} cannot be run here ({error.strerror}); {HERE}") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command}: no answer for {SECONDS} seconds; is Slurm's controller up?") from None
