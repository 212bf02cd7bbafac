"""Why a trial's process is gone: by itself, which is a failure, or with its machine, which is none.

Ray's error says it only where the machine was drained before.  Else Ray is asked which node the process ran
on, and whether that node lives; after a cut connection it knows only when the node has missed its health
checks, so an answer may take a minute.  Only our own node is known to live.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ray._private.state import state as cluster
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from sweep.engine.tuner.actor import Preempted

PATIENCE_SECONDS = 90.0  # a node that does not answer is dead after about a minute by Ray's defaults
# Of an actor with a cut connection "dead" may be Tune's own doing, who ends what has failed; a node that lost its
# power is known to be dead half a minute later.
DEAD_PATIENCE_SECONDS = 45.0


class LossCause(NamedTuple):
    """Whose end it was.

    Attributes:
        of: "process"; "machine", lost or drained; "notice", heeded by the trial itself.
        cause: one line; "" where the error says it.
    """

    of: Literal["process", "machine", "notice"]
    cause: str = ""


@dataclass
class LostWorker:
    """A process that is gone, of which it may not be known yet why.

    Attributes:
        error: what Tune was told.
        since: reading of the monotonic clock.
    """

    error: Exception
    since: float = field(default_factory=time.monotonic)

    def verdict(self) -> LossCause | None:
        """Why, None while Ray does not know."""
        if isinstance(self.error, RayTaskError) and isinstance(self.error.cause, Preempted):
            return LossCause("notice")
        actor = getattr(self.error, "actor_id", None)
        if getattr(self.error, "preempted", False):
            return LossCause("machine", "the machine was taken away, as announced")
        if actor is None:
            return LossCause("process")
        waited = time.monotonic() - self.since
        patient = waited <= PATIENCE_SECONDS
        try:
            table = cluster.actor_table(actor)
            node = _node(table)
        except RayError:
            return None if patient else LossCause("process")
        if node is not None and not node["Alive"]:
            why = " ".join(str(node.get("DeathReasonMessage") or "").split())
            return LossCause(
                "machine", f"the machine {node['NodeManagerAddress']} was lost{f' ({why})' if why else ''}"
            )
        if not isinstance(self.error, ActorUnavailableError) or _on_our_node(table):
            return LossCause("process")
        if table.get("State") == "DEAD":
            return None if waited <= DEAD_PATIENCE_SECONDS else LossCause("process")
        return None if patient else LossCause("machine", "the connection to the trial's machine was lost")


def _node(actor: dict[str, Any]) -> dict[str, Any] | None:
    """Entry of the node that a process ran on, None where Ray has none."""
    wanted = actor.get("Address", {}).get("NodeID")
    return next((node for node in cluster.node_table() if node["NodeID"] == wanted), None)


def _on_our_node(actor: dict[str, Any]) -> bool:
    """Whether a process ran where its owner does, who asks, and whose node therefore lives."""
    node = actor.get("Address", {}).get("NodeID")
    return bool(node) and node == actor.get("OwnerAddress", {}).get("NodeID")


def workers() -> list[dict[str, Any]]:
    """Nodes that have slots, by address: whether any lives there, or all that were are lost, and what they offer."""
    try:
        nodes = cluster.node_table()
    except RayError:
        return []
    offering = [node for node in nodes if node["Resources"].get("CPU") or not node["Alive"]]  # the dead offer nothing
    found: dict[str, dict[str, Any]] = {}
    for node in offering:
        at = found.setdefault(node["NodeManagerAddress"], {"alive": False, "cpus": 0, "gpus": 0})
        at["alive"] = at["alive"] or node["Alive"]
        for name, resource in (("cpus", "CPU"), ("gpus", "GPU")):
            at[name] += int(node["Resources"].get(resource, 0)) if node["Alive"] else 0
    return [{"name": address, **at} for address, at in found.items()]
