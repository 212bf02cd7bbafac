"""Stand-ins for the machines of each provider: the provider is the real one, its services and programs are replaced."""

from __future__ import annotations

import re
import subprocess
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import boto3
import pytest

from sweep.errors import ALREADY_RUNS, CommandFailed, UserError
from sweep.providers.aws import client, teardown
from sweep.providers.aws.provider import AwsProvider
from sweep.providers.base import Provider
from sweep.providers.existing.provider import ExistingProvider
from sweep.providers.local_files import cluster_name
from sweep.providers.onprem.provider import OnPremProvider
from sweep.providers.ray_launcher import Launcher
from sweep.providers.slurm.provider import SlurmProvider
from tests.providers.aws.test_teardown import IMAGE, REGION, make
from tests.support.aws_sweeps import sweep_on_aws
from tests.support.providers import AT_ONCE, HOSTS, Dashboard, FakeSlurm, FakeSsh, on_hosts, on_ray, on_slurm


class Premises(ABC):
    """Stand-ins for the machines of a provider.

    Attributes:
        provider: provider of a sweep; the store of this sweep cannot be reached.
    """

    provider: Provider[Any]

    @abstractmethod
    def list_launches(self) -> list[int]:
        """Return the launches whose supervisors run, or will run."""

    @abstractmethod
    def refuse(self) -> None:
        """Let every later request for machines fail half-way."""

    @abstractmethod
    def lose_head(self) -> None:
        """Remove the head, and nothing else that was made."""

    @abstractmethod
    def lose_connection(self) -> None:
        """Let every later request fail without an answer."""

    @abstractmethod
    def list_others(self) -> set[str]:
        """Return what belongs to another sweep there."""


class Ec2Premises(Premises):
    """EC2 by moto, with a replacement for Ray's launcher that makes machines as Ray does."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(teardown, "POLL_SECONDS", 0.0)
        monkeypatch.setattr(teardown, "SETTLE_SECONDS", 0.0)
        self._patch, self._ec2 = monkeypatch, boto3.client("ec2", REGION)
        self._launch: dict[str, int] = {}  # number of the launch on each head
        self._refuses = False
        self._others = f"sweep-another-{folder.name}"
        cluster = {"image": IMAGE, "ssh_from": "203.0.113.7", "environment": "/opt/ready"}
        sweep = sweep_on_aws(cluster, storage=f"s3://cannot-be-reached/{folder}")
        self._name = cluster_name(sweep)
        make(self._ec2, self._others, ("head",))
        monkeypatch.setattr(Launcher, "up", lambda launcher, config, say: self._up())
        monkeypatch.setattr(Launcher, "run", lambda launcher, command: self._run(command))
        self.provider = AwsProvider(sweep)

    def _up(self) -> None:
        if self._head() is None:
            self._ec2.delete_key_pair(KeyName=self._name)  # `provision` has made it, and `make` makes it again
            make(self._ec2, self._name, ("head", "worker"))
        if self._refuses:
            raise UserError("no capacity")

    def _run(self, command: str) -> None:
        asked, head = int(re.findall(r"sweep.launch.head.supervisor \S+ \S+ (\d+)", command)[0]), self._head()
        if head is None:
            raise UserError("no head exists")
        if self._launch.setdefault(head, asked) != asked:
            raise CommandFailed("a command on the head failed", ALREADY_RUNS)

    def _head(self) -> str | None:
        found = teardown.machines(self._ec2, self._name)
        return next((machine.name for machine in found if machine.role == "head"), None)

    def list_launches(self) -> list[int]:
        head = self._head()
        return [self._launch[head]] if head in self._launch else []

    def refuse(self) -> None:
        self._refuses = True

    def lose_head(self) -> None:
        self._ec2.terminate_instances(InstanceIds=[self._head()])

    def lose_connection(self) -> None:
        from botocore.exceptions import EndpointConnectionError

        def unreachable(*_: object) -> Any:
            raise EndpointConnectionError(endpoint_url="https://ec2")

        def unreached(*_: object) -> None:
            raise UserError("no route to the head")

        self._patch.setattr(client, "client", unreachable)
        self._patch.setattr(Launcher, "run", unreached)

    def list_others(self) -> set[str]:
        return set(map(str, teardown.list_resources(REGION, self._others)))


class SshPremises(Premises):
    """Hosts that are folders; Ray on a host is a process that works in Ray's working folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ssh = FakeSsh(folder, monkeypatch)
        self._hosts = [self._ssh.hosts / name for name in HOSTS[:2]]
        self._rays: dict[Path, subprocess.Popen[bytes]] = {}  # the latest Ray on each host
        self._refuses = False
        sweep = on_hosts(hosts=HOSTS[:2])
        self._name = cluster_name(sweep)
        self._other = self._ray_on(self._hosts[0], "sweep-another")
        self._launch = self._hosts[0] / "launch"  # file with the number of the launch on the head
        self._ssh.program(
            HOSTS[0],
            "python",
            f"""
launch=$(cat {self._launch} 2> /dev/null || echo "$5")
[ "$launch" = "$5" ] || exit {ALREADY_RUNS}
echo "$5" > {self._launch}""",
        )
        self._ssh.program(HOSTS[0], "pgrep", f"cat {self._launch} 2> /dev/null")
        self._ssh.program(HOSTS[0], "pkill", f"rm -f {self._launch}")
        monkeypatch.setattr(Launcher, "up", lambda launcher, config, say: self._up(config))
        self.provider = OnPremProvider(sweep, AT_ONCE)

    def _up(self, config: dict[str, Any]) -> None:
        for host in self._hosts[:1] if self._refuses else self._hosts:
            for there, here in config["file_mounts"].items():
                target = Path(there.replace("~", str(host)))
                target.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-rT", here, str(target)], check=True)
            if host not in self._rays or self._rays[host].poll() is not None:
                self._rays[host] = self._ray_on(host, self._name)
        if self._refuses:
            raise UserError("no route to the second host")

    def _ray_on(self, host: Path, sweep: str) -> subprocess.Popen[bytes]:
        folder = host / ".anomaly-sweep" / sweep / "running"
        folder.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(["sleep", "1000"], cwd=folder)

    def list_launches(self) -> list[int]:
        return [int(self._launch.read_text())] if self._launch.exists() else []

    def refuse(self) -> None:
        self._refuses = True

    def lose_head(self) -> None:
        head = self._rays[self._hosts[0]]
        head.kill()
        head.wait()
        self._launch.unlink(missing_ok=True)

    def lose_connection(self) -> None:
        self._ssh.hosts.rename(self._ssh.hosts.with_name("away"))

    def list_others(self) -> set[str]:
        return {f"process {self._other.pid}"} if self._other.poll() is None else set()

    def close(self) -> None:
        for ray in (*self._rays.values(), self._other):
            ray.kill()
            ray.wait()


class SlurmPremises(Premises):
    """Slurm with its queue in a file."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        programs = folder / "bin"
        programs.mkdir()
        self._slurm, self._patch, self._empty = FakeSlurm(programs, monkeypatch), monkeypatch, folder
        sweep = on_slurm(folder)
        self._name = cluster_name(sweep)
        self._slurm.holds("sweep-another", "11 RUNNING n1")
        self.provider = SlurmProvider(sweep, AT_ONCE)

    def list_launches(self) -> list[int]:
        if not any(line.startswith(f"{self._name} ") for line in self._slurm.queue.read_text().splitlines()):
            return []
        return [int(found) for found in re.findall(r"--comment=launch-(\d+)", self._slurm.submitted.read_text())]

    def refuse(self) -> None:
        self._slurm.refuses.touch()

    def lose_head(self) -> None:
        self._slurm.holds("sweep-another", "11 RUNNING n1")

    def lose_connection(self) -> None:
        self._patch.setenv("PATH", str(self._empty))

    def list_others(self) -> set[str]:
        return {line for line in self._slurm.queue.read_text().splitlines() if line.startswith("sweep-another")}


class RayPremises(Premises):
    """A dashboard that answers like Ray's, and is asked by Ray's own client."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard
        dashboard.jobs["sweep-another-1"] = "RUNNING"
        self.provider = ExistingProvider(on_ray(dashboard), AT_ONCE)

    def _ours(self) -> list[str]:
        jobs = self._dashboard.jobs.items()
        return [name for name, state in jobs if state == "RUNNING" and name not in self.list_others()]

    def list_launches(self) -> list[int]:
        return [int(name.rpartition("-")[2]) for name in self._ours()]

    def refuse(self) -> None:
        self._dashboard.refuses = True

    def lose_head(self) -> None:
        for name in self._ours():
            self._dashboard.jobs[name] = "FAILED"

    def lose_connection(self) -> None:
        self._dashboard.shutdown()
        self._dashboard.server_close()

    def list_others(self) -> set[str]:
        return {name for name, state in self._dashboard.jobs.items() if "another" in name and state == "RUNNING"}
