"""Classification of a lost trial process: the trial crashed (a failure), or its machine went away (a preemption).

Ray's error gives the reason only if the machine was drained before.  Otherwise this module asks Ray on which node the
process ran, and whether that node is alive.  After a cut connection Ray does not know this until the node has missed
its health checks, which may take a minute.  Only the node of this process is known to be alive.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ray._private.state import state as cluster
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from sweep.engine.tuner.actor import Preempted

PATIENCE_SECONDS = 90.0  # Ray's default: a node is dead after about a minute without an answer
# After a cut connection, state "DEAD" of an actor proves nothing, because Tune itself ends an actor that has failed.
# Ray learns about half a minute later that a node without power is dead.
DEAD_PATIENCE_SECONDS = 45.0


class LossCause(NamedTuple):
    """Cause of the loss of a process.

    Attributes:
        of: "process" (the trial crashed), "machine" (lost or drained), or "notice" (the trial itself left a machine
            that will be taken away).
        cause: one line; "" if the error contains the cause.
    """

    of: Literal["process", "machine", "notice"]
    cause: str = ""


@dataclass
class LostWorker:
    """Process that was lost, perhaps for a reason that is not known yet.

    Attributes:
        error: error that Ray gave to Tune.
        since: monotonic seconds at which the loss was noticed.
    """

    error: Exception
    since: float = field(default_factory=time.monotonic)

    def cause(self) -> LossCause | None:
        """Return the cause of the loss; None while Ray does not know it."""
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
            reason = " ".join(str(node.get("DeathReasonMessage") or "").split())
            return LossCause(
                "machine", f"the machine {node['NodeManagerAddress']} was lost{f' ({reason})' if reason else ''}"
            )
        if not isinstance(self.error, ActorUnavailableError) or _on_our_node(table):
            return LossCause("process")
        if table.get("State") == "DEAD":
            return None if waited <= DEAD_PATIENCE_SECONDS else LossCause("process")
        return None if patient else LossCause("machine", "the connection to the trial's machine was lost")


def _node(actor: dict[str, Any]) -> dict[str, Any] | None:
    """Return Ray's entry of the node that a process ran on; None if Ray has none."""
    wanted = actor.get("Address", {}).get("NodeID")
    return next((node for node in cluster.node_table() if node["NodeID"] == wanted), None)


def _on_our_node(actor: dict[str, Any]) -> bool:
    """Return True if a process ran on the node of its owner, which is this process, so that the node is alive."""
    node = actor.get("Address", {}).get("NodeID")
    return bool(node) and node == actor.get("OwnerAddress", {}).get("NodeID")


def list_workers() -> list[dict[str, Any]]:
    """List the nodes that run trials, by address.

    Returns:
        For each address: "name", "alive" (False if all nodes there were lost), and "cpus" and "gpus" of the nodes that
        are alive.  Empty if Ray does not answer.
    """
    try:
        nodes = cluster.node_table()
    except RayError:
        return []
    # A dead node lists no resources, so its CPUs cannot be tested.
    offering = [node for node in nodes if node["Resources"].get("CPU") or not node["Alive"]]
    by_address: dict[str, dict[str, Any]] = {}
    for node in offering:
        at = by_address.setdefault(node["NodeManagerAddress"], {"alive": False, "cpus": 0, "gpus": 0})
        at["alive"] = at["alive"] or node["Alive"]
        for name, resource in (("cpus", "CPU"), ("gpus", "GPU")):
            at[name] += int(node["Resources"].get(resource, 0)) if node["Alive"] else 0
    return [{"name": address, **at} for address, at in by_address.items()]
