"""From the store to the rows of results.parquet, and to what they came from."""

from __future__ import annotations

import io
import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sweep import heads
from sweep.gather import Row, gather
from sweep.ledger import Ledger, undamaged
from sweep.plan import Platform
from sweep.runtimes import Runtime, runtimes
from sweep.status import Survey, reported

if TYPE_CHECKING:
    import pyarrow as pa


def rows(survey: Survey, ledger: Ledger, usd_per_hour: float | None = None) -> list[Row]:
    """Rows of every reported trial of a plan, holes included; the price is of what one trial occupies."""

    shown = list(reported(survey))
    results = ledger.results({planned.key for planned in shown} & survey.finished)
    return gather(
        shown,
        results,
        sweep=ledger.sweep,
        scores=lambda key: scores(ledger, key),
        attempts=survey.attempts,
        finished=survey.finished,
        usd_per_hour=usd_per_hour,
    )


def timed(survey: Survey, ledger: Ledger) -> list[Runtime]:
    """Of every trial of a runtime study of a plan, holes included."""
    planned = [p for p in survey.planned if p.spec.timing is not None]
    results = ledger.results({p.key for p in planned} & survey.finished)
    return runtimes(planned, results, survey.attempts, survey.finished)


def scores(ledger: Ledger, key: str) -> pa.Table:
    """Per-sample scores of a trial: scores.parquet.

    Raises:
        StoreError: if there are none, or they are damaged.
    """
    import pyarrow.parquet as pq

    path = f"trials/{key}/scores.parquet"
    data = ledger.store.get(path)
    with undamaged(path):
        return pq.read_table(io.BytesIO(data))


def provenance(ledger: Ledger, command: str) -> dict[str, object]:
    """What the head of a report says of where its numbers come from."""
    said: dict[str, object] = {"sweep": ledger.sweep, "store": ledger.store.url, "command": command}
    launches = ledger.specs()
    if launches:
        last = launches[-1]
        said["commit"] = f"{last['commit'] or 'unknown'}{' with changes' if last['dirty'] else ''}"
        versions = {"python": last.get("python", "?"), **dict(sorted(last["versions"].items()))}
        said["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
        ran = Platform.from_dict(last["platform"])
        said["ran on"] = f"{ran.device} in {ran.numerics}, {ran.slots} slots"
        said["launched"] = datetime.fromtimestamp(last["time"], UTC).strftime("%Y-%m-%d %H:%M UTC")
        checkout = f"git checkout {last['commit']} && " if last["commit"] else ""
        said["run it again"] = checkout + shlex.join(["python", "-m", "sweep", *last["argv"]])
    head = heads.read(ledger.store, ledger.sweep)
    if head is not None and head.usd is not None:
        said["dollars"] = f"{head.usd:.2f} for the machines of launch {head.launch}"
    return said
