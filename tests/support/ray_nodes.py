"""A Ray cluster of several nodes on this machine; each node has its own processes, which a test may kill.

As a script it runs one node until it is killed:

    python -m tests.support.ray_nodes FOLDER HOST:PORT 0          the head
    python -m tests.support.ray_nodes FOLDER HOST:PORT CPUS       a worker
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.sweeps import descendants, environment, kill_everything, wait_until, words_of

OBJECT_STORE_BYTES = 80_000_000
SOON_DEAD = {"RAY_health_check_period_ms": "500", "RAY_health_check_timeout_ms": "1000",
             "RAY_health_check_failure_threshold": "4", "RAY_health_check_initial_delay_ms": "5000"}  # fmt: skip


@dataclass
class RayNodes:
    """A head without slots, and workers.

    Attributes:
        folder: folder for logs and sockets.
        address: HOST:PORT of the head.
        token: secret that clients need.
        processes: processes of the nodes, the head first.
    """

    folder: str
    address: str
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def entry(self) -> dict[str, str]:
        """Environment of a client of the cluster."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_ADDRESS": self.address}

    def start_head(self) -> None:
        self._start("0")
        wait_until(lambda: _answers(self.address), self.processes[0])

    def start_worker(self, cpus: int = 1, **extra: str) -> subprocess.Popen[bytes]:
        """Start a node with slots; `kill_everything` on its process is like a power cut."""
        return self._start(str(cpus), **extra)

    def workers_running(self, process: subprocess.Popen[bytes]) -> int:
        """Return the number of Ray's worker processes on a node, busy or idle."""
        names = [words_of(pid) for pid in descendants(process.pid)]
        return sum(name.startswith(b"ray::") for name in names)

    def _start(self, cpus: str, **extra: str) -> subprocess.Popen[bytes]:
        with open(f"{self.folder}/nodes.log", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, self.folder, self.address, cpus],
                env=environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=self.token, **SOON_DEAD, **extra),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process


@contextmanager
def ray_nodes() -> Iterator[RayNodes]:
    """Yield a cluster with a head, and kill all its nodes at the end."""
    with tempfile.TemporaryDirectory(prefix="nodes-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        nodes = RayNodes(folder, f"127.0.0.1:{_free_port()}")
        try:
            nodes.start_head()
            yield nodes
        finally:
            for process in nodes.processes:
                if process.poll() is None:
                    kill_everything(process)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as connection:
        return connection.connect_ex((host, int(port))) == 0


def main(folder: str, address: str, cpus: str) -> None:
    """Run one node."""
    from ray._private.node import Node
    from ray._private.parameter import RayParams

    from sweep.engine.tuner import ray_patches

    ray_patches.start_bare()
    params = RayParams(
        num_cpus=int(cpus),
        num_gpus=0,
        object_store_memory=OBJECT_STORE_BYTES,
        min_worker_port=0,
        max_worker_port=0,
        node_manager_port=0,
        dashboard_agent_listen_port=_free_port(),
        include_dashboard=False,
        # Ray's own names of sockets collide if nodes start at the same time.
        plasma_store_socket_name=f"{folder}/plasma-{os.getpid()}",
        raylet_socket_name=f"{folder}/raylet-{os.getpid()}",
    )
    head = cpus == "0"
    if head:
        params.update(temp_dir=folder, gcs_server_port=int(address.rpartition(":")[2]))
    else:
        params.update(gcs_address=address, redis_address=address)
    Node(params, head=head, shutdown_at_exit=False, spawn_reaper=False)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while os.getppid() != 1:  # the node ends if its test was killed
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
