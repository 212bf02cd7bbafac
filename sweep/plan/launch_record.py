"""Records of launches in the ledger: write one, and read one back."""

from __future__ import annotations

import importlib.metadata
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from sweep.errors import UserError
from sweep.plan.platform import Platform
from sweep.spec.load import load_recorded
from sweep.spec.own_datasets import revise
from sweep.spec.sweep import Sweep
from sweep.store.ledger import Ledger, Record

VERSIONS = ("ray", "optuna", "torch", "torchvision", "pyarrow", "scikit-learn", "numpy")
GIT_SECONDS = 60  # git hangs if a network folder does not answer


def read_back(
    record: Record, ledger: Ledger, number: int, storage: str, needed: Sequence[str] = ()
) -> tuple[Sweep, Platform]:
    """Return the sweep and the platform of a recorded launch.

    Args:
        record: record of the launch.
        ledger: ledger of the record.
        number: number of the launch.
        storage: address of the store as it is reached from here.
        needed: other fields of the record that the caller needs.

    Raises:
        UserError: names everything in the record that this version of sweep, or this machine, cannot use.
    """
    problems = [f"{name}: must be given" for name in ("sweep", "platform", *needed) if name not in record]
    sweep = platform = None
    if "sweep" in record:
        try:
            sweep = load_recorded(record["sweep"], storage)
            found = revise(sweep.data.found, sweep.data.sets, sweep.data.size, ledger.store)
            sweep = sweep.model_copy(update={"data": sweep.data.model_copy(update={"found": found})})
        except UserError as error:
            problems += error.problems
    if "platform" in record:
        try:
            platform = Platform.from_dict(record["platform"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            problems.append(f"platform: {type(error).__name__}: {error}")
    if problems or sweep is None or platform is None:
        commit = record.get("commit")
        heading = (
            f"launch {number} of sweep {ledger.sweep} in {ledger.store.url} cannot be read by this version of sweep; "
            f"it was launched by {f'commit {commit}' if commit else 'another version'}: launch it again, or use that"
        )
        raise UserError(problems, heading=heading)
    return sweep, platform


def launches(ledger: Ledger, storage: str) -> Iterator[tuple[Sweep, Platform]]:
    """Yield every launch of the ledger's sweep, the oldest first.

    Raises:
        UserError: as `read_back`.
    """
    for number, record in enumerate(ledger.specs(), 1):
        yield read_back(record, ledger, number, storage)


def last_launch(ledger: Ledger, storage: str) -> tuple[Sweep, Platform] | None:
    """Return the latest launch; None without any.  Earlier launches need not be readable.

    Raises:
        UserError: as `read_back`.
    """
    last = ledger.last_spec()
    return None if last is None else read_back(last[1], ledger, last[0], storage)


def command_from_argv(verb: str, argv: Sequence[str]) -> str:
    """Return the command line of another command for the sweep that was launched with `argv`."""
    words, rest = ["python", "-m", "sweep", verb], list(argv[1:])
    while rest:
        word = rest.pop(0)
        if word == "--set" and rest:
            words += [word, rest.pop(0)]
        elif not word.startswith("-") or word.startswith("--set="):
            words.append(word)
    return shlex.join(words)


def record(sweep: Sweep, platform: Platform) -> Record:
    """Return the ledger's record of a launch that this machine starts with this command line."""
    return {
        "sweep": sweep.model_dump(mode="json"),
        "platform": asdict(platform),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "python": sys.version.split()[0],
        **commit(),
        "argv": sys.argv[1:],
        "time": time.time(),
        "host": socket.gethostname(),
    }


def commit() -> Record:
    """Return the commit of the code, and whether files differ from it.

    Both are None outside of a git checkout, or if git does not answer; see `commit_caution`.
    """
    try:
        sha = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": sha, "dirty": bool(changed)}


def commit_caution() -> str:
    """Return a warning that the commit cannot be recorded because another user owns the checkout; "" for none."""
    try:
        _git("rev-parse", "HEAD")
    except subprocess.CalledProcessError as error:
        if "safe.directory" in error.stderr:
            return (
                "the commit of the code is unknown, because another user owns the checkout: allow git to read it with "
                f"git config --global --add safe.directory {shlex.quote(str(Path(__file__).resolve().parents[2]))}"
            )
    except (OSError, subprocess.SubprocessError):
        pass
    return ""


def _git(*words: str) -> str:
    """Return what git prints about the code's checkout."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS).stdout.strip()
