"""Causes of lost processes, and the stop flag of trials; Ray's answers are made up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray._private.state import state
from ray.core.generated import common_pb2, gcs_pb2
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayTaskError

from sweep.engine.tuner import lost_workers, stop_flag
from sweep.engine.tuner.actor import Preempted
from sweep.engine.tuner.lost_workers import LostWorker, list_workers
from sweep.engine.tuner.stop_flag import StopFlag

NODE = {
    "NodeID": "n", "NodeManagerAddress": "10.0.0.7", "Alive": True, "DeathReasonMessage": "", "Resources": {"CPU": 4.0},
}  # fmt: skip
ACTOR = "b529ebd3bfb98b14581c120201000000"


@dataclass
class Cluster:
    """Made-up tables of Ray about one actor and its node."""

    node: dict[str, Any] = field(default_factory=lambda: dict(NODE))
    state: str = "ALIVE"
    owner_node: str = "head"
    answers: bool = True

    def actor_table(self, actor: str) -> dict[str, Any]:
        if not self.answers:
            raise GetTimeoutError("no answer")
        return {"State": self.state, "Address": {"NodeID": "n"}, "OwnerAddress": {"NodeID": self.owner_node}}

    def node_table(self) -> list[dict[str, Any]]:
        if not self.answers:
            raise GetTimeoutError("no answer")
        return [self.node]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()
    monkeypatch.setattr(lost_workers, "cluster", found)
    return found


def lose(cluster: Cluster) -> None:
    cluster.node |= {"Alive": False, "DeathReasonMessage": "health check failed", "Resources": {}}


def test_a_process_that_dies_on_a_living_machine_has_failed(cluster: Cluster) -> None:
    verdict = LostWorker(RayActorError(ACTOR, "it died")).cause()
    assert verdict is not None
    assert verdict.of == "process"


def test_a_process_whose_machine_is_lost_has_not(cluster: Cluster) -> None:
    lose(cluster)
    assert LostWorker(RayActorError(ACTOR, "it died")).cause() == (
        "machine",
        "the machine 10.0.0.7 was lost (health check failed)",
    )


def test_a_machine_that_was_drained_was_announced(cluster: Cluster) -> None:
    verdict = LostWorker(RayActorError(ACTOR, "it died", preempted=True)).cause()
    assert verdict is not None
    assert verdict.of == "machine"


def test_a_connection_that_is_cut_is_judged_when_ray_knows(cluster: Cluster) -> None:
    death = LostWorker(ActorUnavailableError("the connection is cut", bytes.fromhex(ACTOR)))
    assert death.cause() is None
    cluster.answers = False
    assert death.cause() is None
    assert LostWorker(RayActorError(ACTOR, "it died")).cause() is None
    cluster.answers = True
    cluster.state = "DEAD"  # ended by Tune, or dead with its node: Ray will know later whether the node is alive
    assert death.cause() is None
    lose(cluster)
    found = death.cause()
    assert found is not None
    assert found.of == "machine"


@pytest.mark.parametrize("state", ["ALIVE", "DEAD"])
def test_on_our_own_node_a_connection_that_is_cut_is_judged_at_once(cluster: Cluster, state: str) -> None:
    cluster.owner_node, cluster.state = "n", state
    found = LostWorker(ActorUnavailableError("the connection is cut", bytes.fromhex(ACTOR))).cause()
    assert found is not None
    assert found.of == "process"


def test_ray_names_the_node_of_a_dead_process_and_of_its_owner() -> None:
    gcs, common = vars(gcs_pb2), vars(common_pb2)  # protobuf makes the classes at import
    died = gcs["ActorTableData"](
        state=gcs["ActorTableData"].DEAD,
        address=common["Address"](node_id=b"n"),
        owner_address=common["Address"](node_id=b"n"),
    )
    assert lost_workers._on_our_node(state._gen_actor_info(died))
    died.owner_address.node_id = b"head"
    assert not lost_workers._on_our_node(state._gen_actor_info(died))
    assert not lost_workers._on_our_node({})


def test_a_dead_process_on_a_node_that_goes_on_living_died_by_itself(cluster: Cluster) -> None:
    death = LostWorker(ActorUnavailableError("the connection is cut", bytes.fromhex(ACTOR)))
    death.since -= lost_workers.DEAD_PATIENCE_SECONDS + 1
    cluster.state = "DEAD"
    found = death.cause()
    assert found is not None
    assert found.of == "process"


def test_a_connection_that_stays_cut_is_the_machines_fault_in_the_end(cluster: Cluster) -> None:
    death = LostWorker(ActorUnavailableError("the connection is cut", bytes.fromhex(ACTOR)))
    death.since -= lost_workers.PATIENCE_SECONDS + 1
    found = death.cause()
    assert found is not None
    assert found.of == "machine"


def test_a_trial_that_heeded_the_notice_says_so_itself(cluster: Cluster) -> None:
    error = RayTaskError("train", "a traceback", Preempted("this machine is being taken away"))
    found = LostWorker(error.as_instanceof_cause()).cause()
    assert found is not None
    assert found.of == "notice"


def test_nodes_without_slots_are_no_workers(cluster: Cluster) -> None:
    assert list_workers() == [{"name": "10.0.0.7", "alive": True, "cpus": 4, "gpus": 0}]
    lose(cluster)
    assert list_workers() == [{"name": "10.0.0.7", "alive": False, "cpus": 0, "gpus": 0}]
    cluster.node["Alive"] = True
    assert list_workers() == []
    cluster.answers = False
    assert list_workers() == []


@dataclass
class KeyValues:
    """Made-up key-value store of Ray."""

    held: dict[bytes, bytes] = field(default_factory=dict)
    asked: int = 0
    answers: bool = True

    def internal_kv_get(self, key: bytes, namespace: bytes, timeout: float) -> bytes | None:
        self.asked += 1
        if not self.answers:
            raise GetTimeoutError("no answer")
        return self.held.get(namespace + key)


@pytest.fixture
def values(monkeypatch: pytest.MonkeyPatch) -> KeyValues:
    found = KeyValues()
    monkeypatch.setattr(stop_flag, "internal_kv_get_gcs_client", lambda: found)
    return found


def test_ray_is_asked_at_most_once_a_second(values: KeyValues, tmp_path: Path) -> None:
    now = [0.0]
    flag = StopFlag(str(tmp_path / "stop"), "key", clock=lambda: now[0])
    for now[0] in (0.0, 0.4, 0.9, 1.0, 1.5):
        assert not flag.is_set
    assert values.asked == 2
    values.held[stop_flag.NAMESPACE + b"key"] = b""
    now[0] = 1.9
    assert not flag.is_set
    now[0] = 2.0
    assert flag.is_set
    values.held.clear()
    now[0] = 9.0
    assert flag.is_set, "a request to stop stays valid"
    assert values.asked == 3


def test_the_file_is_heeded_at_once_and_a_head_that_is_gone_stops_nothing(values: KeyValues, tmp_path: Path) -> None:
    values.answers = False
    flag = StopFlag(str(tmp_path / "stop"), "key")
    assert not flag.is_set
    (tmp_path / "stop").touch()
    assert flag.is_set
