"""What the head of a sweep says of itself, for whoever looks from elsewhere: one object, written anew.

    sweeps/<id>/head.json

It is a view, not a truth: what has been done stands in the ledger, and who runs the sweep in its lease.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from sweep.errors import INTERRUPTED
from sweep.store.base import ObjectNotFound, Store

State = Literal["starting", "running", "reporting", "ended"]


@dataclass(frozen=True)
class Node:
    """A machine of the cluster.

    Attributes:
        name: id or address, unique in the cluster.
        type: instance type; "" where the place has none.
        market: "spot", "on demand", or "".
        zone: availability zone, or "".
        since: when it came, in seconds since 1970.
        alive: whether it is there.
        until: when it ended or was seen to be gone; None while it is there, or where nobody has seen it yet.
        usd_per_hour: None where nobody knows.
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
        """Dollars between two times, in seconds since 1970; None where the price is unknown."""
        if self.usd_per_hour is None:
            return None
        until = now if self.until is None else min(now, self.until)
        return max(0.0, until - max(started, self.since)) / 3600 * self.usd_per_hour


@dataclass(frozen=True)
class LaunchStatus:
    """Where a launch is.

    Attributes:
        launch: its number.
        state: "starting" until Ray takes trials, "reporting" once none runs any more; "ended" is final.
        exit_code: as `sweep.errors` says; None before the end.
        cause: why it ended otherwise than done, or what went wrong at the end; None for nothing.
        time: when this was written, in seconds since 1970, as all times here.
        since: when the launch was first run here.
        deadline: when it is stopped, None for never.
        trials, done, failed, pruned, to_run: as `plan --json` counts them.
        running: trials that run now.
        slots: trials that the machines which are there can run at once.
        refused: what the place last answered when it gave no machine; None where it gave one since.
        preemptions: attempts of this launch that ended with their machine.
        restarts: of the driver, after it died.
        nodes: machines, those that are gone included.
        usd: dollars of this launch so far, None where a price is unknown.
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
        """As it is stored."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> LaunchStatus:
        """Inverse of `to_json`; keys of a later version are left out.

        Raises:
            ValueError: it is no such record.
        """
        try:
            nodes = tuple(Node(**_known_fields(Node, node)) for node in record.get("nodes", ()))
            head = cls(**{**_known_fields(cls, record), "nodes": nodes})
        except (AttributeError, TypeError) as error:
            raise ValueError(f"no record of a head: {error}") from None
        if head.state not in get_args(State):
            raise ValueError(f"no record of a head: unknown state {head.state!r}")
        return head

    @property
    def has_ended(self) -> bool:
        return self.state == "ended"


def read(store: Store, sweep_id: str) -> LaunchStatus | None:
    """The record, None where there is none or one that cannot be read.

    Raises:
        StoreError: the store cannot be asked.
    """
    try:
        return LaunchStatus.from_json(json.loads(store.get(_path(sweep_id))))
    except (ObjectNotFound, ValueError):
        return None


def write(store: Store, sweep_id: str, head: LaunchStatus) -> None:
    """Put the record in place of the one before.

    Raises:
        StoreError: the store failed.
    """
    store.put(_path(sweep_id), json.dumps(replace(head, time=time.time()).to_json()).encode())


def close(store: Store, sweep_id: str, cause: str, code: int = INTERRUPTED, since: float | None = None) -> None:
    """Say that a launch has ended whose machines are gone, for a head that did not.

    Args:
        cause: why they are gone.
        code: exit code of the launch.
        since: when taking them away began, in seconds since 1970; a head that was stopped in order after that
            has ended for this cause, too.

    Raises:
        StoreError: the store failed.
    """
    head = read(store, sweep_id)
    if head is None:
        return
    stopped = head.exit_code == INTERRUPTED and since is not None and head.time >= since
    if head.has_ended and not stopped:
        return
    said = f"{cause}; {head.cause}" if head.has_ended and head.cause else cause
    nodes = merge_nodes(head.nodes, (), time.time())
    write(store, sweep_id, replace(head, state="ended", exit_code=code, cause=said, running=0, slots=0, nodes=nodes))


def dollars(nodes: Iterable[Node], started: float, now: float) -> float | None:
    """Dollars of machines since a launch was started; None where a price is unknown."""
    costs = [node.usd(started, now) for node in nodes]
    return None if any(cost is None for cost in costs) else math.fsum(cost for cost in costs if cost is not None)


def merge_nodes(known: Iterable[Node], seen: Iterable[Node], now: float, started: float = 0.0) -> tuple[Node, ...]:
    """Nodes known before, as they are seen now; those that are gone stay, with the time of it.

    What ended before `started` is left out, and so is what came before and was gone, nobody says since when, when it
    was first seen.
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


def _path(sweep_id: str) -> str:
    return f"sweeps/{sweep_id}/head.json"


def _known_fields(kind: type[Node] | type[LaunchStatus], record: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {key: value for key, value in record.items() if key in names}
