"""Sweeps on each provider, with stand-ins for the programs and services of real machines."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import ray

from sweep.plan.status import SweepStatus
from sweep.providers.base import Waiting
from sweep.spec.load import resolve
from sweep.spec.sweep import Sweep
from tests.support.aws_sweeps import STUDY

TICKS = itertools.count()
AT_ONCE = Waiting(
    clock=lambda: float(next(TICKS)), sleep=lambda seconds: None
)  # every reading of the clock is a second later
STATUS = SweepStatus((), (), frozenset(), {})  # nothing is left to run
HOSTS = ["10.0.0.1", "10.0.0.2", "gpu-3.example.org"]


def on_hosts(storage: str = "/nfs/store", **cluster: Any) -> Sweep:
    keys = {"provider": "onprem", "hosts": HOSTS, "cpus": 8, "ssh_user": "us", "environment": "/opt/venv", **cluster}
    return resolve({"storage": storage, "cluster": keys, "sweep": {"name": "table-1", "studies": [STUDY]}})


def on_slurm(folder: Path, **cluster: Any) -> Sweep:
    keys = {
        "provider": "slurm", "cpus": 3, "folder": f"{folder}/shared", "environment": f"{folder}/environment",
        "scratch": "/tmp", **cluster,
    }  # fmt: skip
    body = {"name": "table-1", "studies": [STUDY]}
    return resolve({"storage": f"{folder}/it's a store", "cluster": keys, "sweep": body})


def on_ray(dashboard: Dashboard | str, trial: dict[str, Any] | None = None, **cluster: Any) -> Sweep:
    address = dashboard if isinstance(dashboard, str) else dashboard.address
    keys = {"provider": "existing", "address": address, **cluster}
    body = {"name": "n", "studies": [STUDY]}
    return resolve({"storage": "s3://b/p", "cluster": keys, "trial": trial or {}, "sweep": body})


class FakeSsh:
    """A program named ssh.  Each host is a folder; scripts run in it, with the host's programs first on PATH."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hosts = folder / "hosts"
        programs = folder / "bin"
        for name in HOSTS:
            (self.hosts / name / "bin").mkdir(parents=True)
            for program in ("rsync", "pgrep"):
                self.program(name, program, "true")
            self.program(name, "nproc", "echo 8")
            self.program(name, "nvidia-smi", "exit 1")
        programs.mkdir()
        ssh = f"""#!/bin/bash
host="${{@: -2:1}}"
[ -d "{self.hosts}/$host" ] || {{ echo "no route to $host" >&2; exit 255; }}
cd "{self.hosts}/$host" && HOME="$PWD" PATH="$PWD/bin:/usr/bin:/bin" exec bash -s
"""
        (programs / "ssh").write_text(ssh)
        (programs / "ssh").chmod(0o755)
        (programs / "rsync").symlink_to("/bin/true")
        monkeypatch.setenv("PATH", str(programs), prepend=":")

    def program(self, host: str, name: str, body: str) -> None:
        path = self.hosts / host / "bin" / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)


class FakeSlurm:
    """Slurm's commands on PATH, with a queue in a file: a line `NAME NUMBER STATE REASON` for each job."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        self.queue, self.calls = folder / "queue", folder / "calls"
        self.queue.touch()
        bodies = {
            "squeue": f"""
for word in "$@"; do case "$word" in --name=*) name="${{word#--name=}}" ;; esac; done
sed -n "s/^$name //p" '{self.queue}'""",
            "scancel": f"""
echo scancel "$@" >> '{self.calls}'
for number in "$@"; do :; done
sed -i "/^[^ ]* $number /d" '{self.queue}'""",
            "sbatch": f"""
[ "$1" != --version ] || {{ echo slurm-wlm 22.05.8; exit; }}
[ ! -e '{folder}/refuses' ] || {{ echo "sbatch: error: Batch job submission failed: Invalid qos" >&2; exit 1; }}
[ "$1" != --test-only ] || {{ cat > /dev/null; echo "sbatch: Job 3 to start at noon" >&2; exit; }}
cat > '{folder}/submitted'
number=$((12 + $(grep -c . '{self.queue}')))
echo "$(sed -n 's/^#SBATCH --job-name=//p' '{folder}/submitted') $number PENDING (Priority)" >> '{self.queue}'
echo $number""",
            "sinfo": "echo 'main 1-00:00:00'; echo 'gpu infinite'",
        }
        for name, body in bodies.items():
            (folder / name).write_text(f"#!/bin/sh\n{body}\n")
            (folder / name).chmod(0o755)
        self.submitted, self.refuses = folder / "submitted", folder / "refuses"

    def holds(self, name: str, *jobs: str) -> None:
        """Replace the queue by these jobs, each given as `NUMBER STATE REASON`."""
        self.queue.write_text("".join(f"{name} {job}\n" for job in jobs))


class Dashboard(ThreadingHTTPServer):
    """Server that answers like Ray's dashboard, with and without a token; the answers have the form of Ray 2.60.

    Attributes:
        token: token that clients need; "" for none.
        version: version of Ray.
        nodes: resources of each node.
        jobs: state of each job, by its name.
        refuses: True to refuse new jobs.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), DashboardAnswer)
        self.token, self.version = "", ray.__version__
        self.nodes: list[dict[str, float]] = [{"CPU": 4.0}]
        self.jobs: dict[str, str] = {}
        self.refuses = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class DashboardAnswer(BaseHTTPRequestHandler):
    server: Dashboard

    def do_GET(self) -> None:
        nodes = [{"state": "ALIVE", "resources_total": has} for has in self.server.nodes]
        nodes.append({"state": "DEAD", "resources_total": {"CPU": 99.0}})
        answer: Any = {"data": {"result": {"result": nodes}}}
        if self.path == "/api/version":
            answer = {"ray_version": self.server.version}
        elif self.path == "/api/jobs/":
            answer = [{"submission_id": name, "status": state} for name, state in self.server.jobs.items()]
            answer.append({"submission_id": None, "status": "RUNNING"})  # a driver that was not submitted as a job
        self._answer(answer)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({})

    def do_POST(self) -> None:
        if self.path == "/api/jobs/":
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.server.refuses or asked["submission_id"] in self.server.jobs:
                self.send_error(500)
                return
            self.server.jobs[asked["submission_id"]] = "RUNNING"
            self._answer({"job_id": "1", "submission_id": asked["submission_id"]})
        else:
            self.server.jobs[self.path.split("/")[-2]] = "STOPPED"
            self._answer({"stopped": True})

    def _answer(self, answer: Any) -> None:
        if self.server.token and self.headers["Authorization"] != f"Bearer {self.server.token}":
            self.send_error(401)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Print nothing."""


@contextmanager
def serving(server: Dashboard) -> Iterator[Dashboard]:
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
