"""Status of a launch: one object that the head of a sweep overwrites, for readers on other machines.

    sweeps/<id>/head.json

The object is only a view for people.  The ledger decides what has been done, and the lease decides who runs the sweep.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from sweep.errors import INTERRUPTED
from sweep.redaction import hide_secrets
from sweep.store.base import ObjectNotFound, Store
from sweep.store.records import Shape, mismatch, parse_json

State = Literal["starting", "running", "reporting", "ended"]


@dataclass(frozen=True)
class Node:
    """One machine of the cluster.

    Attributes:
        name: id or address, unique in the cluster.
        type: instance type; "" if the provider has none.
        market: "spot", "on demand", or "".
        zone: availability zone, or "".
        since: time at which it joined the cluster, in seconds since 1970.
        alive: True while it is part of the cluster.
        until: time at which it ended or was first missed; None while it is alive, or if the end was not noticed yet.
        usd_per_hour: price; None if unknown.
    """

    name: str
    type: str = ""
    market: str = ""
    zone: str = ""
    since: float = 0.0
    alive: bool = True
    until: float | None = None
    usd_per_hour: float | None = None

    def usd(self, started: float, now: float) -> float | None:
        """Return the dollars spent between two times, in seconds since 1970; None if the price is unknown."""
        if self.usd_per_hour is None:
            return None
        until = now if self.until is None else min(now, self.until)
        return max(0.0, until - max(started, self.since)) / 3600 * self.usd_per_hour


@dataclass(frozen=True)
class LaunchStatus:
    """Progress of a launch.

    Attributes:
        launch: number of the launch.
        state: "starting" until Ray accepts trials, "reporting" once no trial runs any more; "ended" is final.
        exit_code: exit code of `sweep.errors`; None before the end.
        cause: why the launch ended early, or what went wrong at its end; None if nothing did.
        time: time of writing, in seconds since 1970 like all times here.
        since: time at which the launch first ran on this head.
        deadline: time at which the launch is stopped; None for never.
        trials, done, failed, pruned, to_run: numbers of trials, as `plan --json` counts them.
        running: trials that run now.
        slots: trials that the present machines can run at the same time.
        refused: the provider's last answer when it gave no machine; None once it has given one again.
        preemptions: attempts of this launch that ended because their machine went away.
        restarts: how often the driver was restarted after it had crashed.
        nodes: machines, including those that are gone.
        usd: dollars of this launch so far; None if a price is unknown.
    """

    launch: int
    state: State
    exit_code: int | None = None
    cause: str | None = None
    time: float = 0.0
    since: float = 0.0
    deadline: float | None = None
    trials: int = 0
    done: int = 0
    failed: int = 0
    pruned: int = 0
    to_run: int = 0
    running: int = 0
    slots: int = 0
    refused: str | None = None
    preemptions: int = 0
    restarts: int = 0
    nodes: tuple[Node, ...] = ()
    usd: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the form in which it is stored."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> LaunchStatus:
        """Read the form of `to_json`; keys that a later version added are ignored.

        Raises:
            ValueError: the record is not of this form.
        """
        problem = mismatch(record, _HEAD)
        if problem is not None:
            raise ValueError(f"not the status of a launch: {problem}")
        nodes = tuple(Node(**_known_fields(Node, node)) for node in record.get("nodes", ()))
        return cls(**{**_known_fields(cls, record), "nodes": nodes})

    @property
    def has_ended(self) -> bool:
        return self.state == "ended"


def read(store: Store, sweep_id: str) -> LaunchStatus | None:
    """Return the status of a sweep's launch; None if there is none, or it is not readable.

    Raises:
        StoreError: the store cannot be read.
    """
    try:
        return LaunchStatus.from_json(parse_json(store.get(_path(sweep_id))))
    except (ObjectNotFound, ValueError):
        return None


def write(store: Store, sweep_id: str, head: LaunchStatus) -> None:
    """Replace the stored status, with the present time as its `time`.

    Raises:
        StoreError: the store failed.
    """
    cause, refused = head.cause and hide_secrets(head.cause), head.refused and hide_secrets(head.refused)
    now = replace(head, time=time.time(), cause=cause, refused=refused)
    store.put(_path(sweep_id), json.dumps(now.to_json()).encode())


def close(store: Store, sweep_id: str, cause: str, code: int = INTERRUPTED, since: float | None = None) -> None:
    """Mark a launch as ended whose machines are gone, if its head could not do so.

    Args:
        store: store of the sweep.
        sweep_id: id of the sweep.
        cause: why the machines are gone.
        code: exit code of the launch.
        since: time at which their removal began, in seconds since 1970.  If the head was stopped in order after that
            time, its launch has ended for this cause too.

    Raises:
        StoreError: the store failed.
    """
    head = read(store, sweep_id)
    if head is None:
        return
    stopped = head.exit_code == INTERRUPTED and since is not None and head.time >= since
    if head.has_ended and not stopped:
        return
    text = f"{cause}; {head.cause}" if head.has_ended and head.cause else cause
    nodes = merge_nodes(head.nodes, (), time.time())
    write(store, sweep_id, replace(head, state="ended", exit_code=code, cause=text, running=0, slots=0, nodes=nodes))


def dollars(nodes: Iterable[Node], started: float, now: float) -> float | None:
    """Sum the dollars of machines since the start of a launch; None if a price is unknown."""
    costs = [node.usd(started, now) for node in nodes]
    return None if any(cost is None for cost in costs) else math.fsum(cost for cost in costs if cost is not None)


def merge_nodes(known: Iterable[Node], seen: Iterable[Node], now: float, started: float = 0.0) -> tuple[Node, ...]:
    """Update the known nodes with those that are seen now.  Nodes that are gone stay, with the time of their end.

    Two kinds of new nodes are left out.  The first kind ended before `started`.  The second kind joined before
    `started` and was already gone when it was first seen, so that its end is unknown.

    Args:
        known: nodes known before.
        seen: nodes as they are now.
        now: present time, in seconds since 1970.
        started: start of the launch, in seconds since 1970.
    """
    found = {node.name: node for node in known}
    present = {node.name: node for node in seen}
    for name, node in present.items():
        before = found.get(name)
        if before is None and not node.alive and (node.until or node.since) < started:
            continue
        until = None if node.alive else (before.until if before and before.until else node.until or now)
        found[name] = replace(node, since=before.since if before else node.since, until=until)
    return tuple(
        node if node.name in present or not node.alive else replace(node, alive=False, until=now)
        for node in found.values()
    )


_NUMBER = (float, None)
_NODE: Shape = {
    "name": str, "type?": str, "market?": str, "zone?": str, "since?": float, "alive?": bool, "until?": _NUMBER,
    "usd_per_hour?": _NUMBER,
}  # fmt: skip
_HEAD: Shape = {
    "launch": int, "state": frozenset(get_args(State)), "exit_code?": (int, None), "cause?": (str, None),
    "refused?": (str, None), "nodes?": [_NODE], "time?": float, "since?": float, "deadline?": _NUMBER, "usd?": _NUMBER,
    **{f"{name}?": int for name in (
        "trials", "done", "failed", "pruned", "to_run", "running", "slots", "preemptions", "restarts")},
}  # fmt: skip


def _path(sweep_id: str) -> str:
    return f"sweeps/{sweep_id}/head.json"


def _known_fields(kind: type[Node] | type[LaunchStatus], record: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {key: value for key, value in record.items() if key in names}
