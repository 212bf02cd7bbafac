"""The verb launch: the plan, data where missing, generations until nothing is left, the report."""

from __future__ import annotations

import importlib.metadata
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from sweep.datasets import put_into, unusable
from sweep.exits import INTERRUPTED
from sweep.faults import UserError
from sweep.generations import STOPPED, Generations, at_once, interrupted
from sweep.lease import Held, Lease, whoami
from sweep.ledger import Ledger, Record
from sweep.plan import Platform, Work
from sweep.progress import duration, say
from sweep.ray_cluster import RayCluster, Scratch
from sweep.spec import Sweep
from sweep.store import Store

VERSIONS = ("ray", "optuna", "torch", "torchvision", "pyarrow", "scikit-learn", "numpy")
GIT_SECONDS = 60  # a folder on a network may not answer


@dataclass(frozen=True)
class Prepared:
    """What every launch has, wherever it runs.

    Attributes:
        sweep, work, platform: what is run, on what.
        store, ledger: open, of the sweep.
        console: for progress.
    """

    sweep: Sweep
    work: Work
    platform: Platform
    store: Store
    ledger: Ledger
    console: Console


@dataclass(frozen=True)
class Launch(Prepared):
    """One launch of a sweep on this machine.

    Attributes:
        log_command: the command that shows the log of a trial, given its key.
        skip_failed: leave trials alone that have failed before.
    """

    log_command: Callable[[str], str]
    skip_failed: bool = False

    def run(self) -> int:
        """Run until nothing is left; returns the exit code.

        Raises:
            UserError: another launch of this sweep runs, or data are neither here nor readable.
            StoreError: the store failed; the same command goes on where it was.
        """
        lease = Lease(self.store, f"sweeps/{self.sweep.name}/lease", whoami())
        try:
            with lease.held(patience=lease.ttl_seconds), Scratch() as scratch:
                cluster = RayCluster(scratch, self.platform)
                try:
                    with interrupted(cluster.stop_file.touch):
                        cluster.start()
                        if not cluster.stop_file.exists():
                            with interrupted(at_once):
                                put_missing(self.sweep, self.store, self.console)
                        number = self.ledger.put_spec(record(self.sweep, self.platform))
                        return self._generations(number).run(lease, cluster)
                finally:
                    cluster.kill()
        except KeyboardInterrupt:
            say(self.console, STOPPED)
            return INTERRUPTED
        except Held as held:
            raise refused(self.sweep, held) from None

    def _generations(self, number: int) -> Generations:
        return Generations(
            sweep=self.sweep,
            work=self.work,
            platform=self.platform,
            ledger=self.ledger,
            console=self.console,
            log_command=self.log_command,
            skip_failed=self.skip_failed,
            number=number,
            provenance=commit(),
            exhausted=partial(exhausted, self.sweep, time.monotonic()),
        )


def exhausted(sweep: Sweep, began: float, clock: Callable[[], float] = time.monotonic) -> str | None:
    """Which budget is used up by a launch that began then, by the clock, on this machine."""
    budget, price, hours = sweep.budget, sweep.usd_per_hour, (clock() - began) / 3600
    if budget.max_hours is not None and hours > budget.max_hours:
        return f"budget.max_hours={budget.max_hours:g}"
    if budget.max_usd is not None and price is not None and hours * price > budget.max_usd:
        return f"budget.max_usd={budget.max_usd:g}"
    return None


def record(sweep: Sweep, platform: Platform) -> Record:
    """What the ledger keeps of a launch from this machine, by this command line."""
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


def refused(sweep: Sweep, held: Held) -> UserError:
    """Somebody else runs this sweep."""
    return UserError(
        f"sweep {sweep.name} is being launched by {held.owner}, for {duration(held.age)}: "
        "wait for it, or give this one a name of its own with --set sweep.name=NAME"
    )


def put_missing(sweep: Sweep, store: Store, console: Console) -> None:
    """Put every dataset of the sweep that the store has not, or of which it has a damaged manifest.

    Raises:
        UserError: naming every source that cannot be read here, with the mend.
    """
    faults: list[str] = []
    for name in unusable(store, sweep):
        try:
            put_into(store, sweep, name, console)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)


def commit() -> Record:
    """Commit of the code and whether files differ from it; None each outside a checkout, or where git hangs."""
    here = Path(__file__).resolve().parent
    try:
        head = ["git", "-C", str(here), "rev-parse", "HEAD"]
        sha = subprocess.run(head, capture_output=True, text=True, check=True, timeout=GIT_SECONDS).stdout.strip()
        status = ["git", "-C", str(here), "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True, timeout=GIT_SECONDS).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": sha, "dirty": bool(changed)}
