"""The contract of every provider: plans, checks, launches, followers and tear-downs rely on it.

The providers are the real ones; stand-ins take the place of the services and programs of their machines.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from rich.console import Console

from sweep.errors import ALREADY_RUNS, AlreadyRuns, CommandFailed, UserError
from sweep.plan.expand import expand
from sweep.plan.status import SweepStatus, read_status
from sweep.providers import shipping
from sweep.providers.aws import client, teardown
from sweep.providers.aws.provider import AwsProvider
from sweep.providers.base import Provider
from sweep.providers.existing.provider import ExistingProvider
from sweep.providers.local_files import cluster_name
from sweep.providers.onprem.provider import OnPremProvider
from sweep.providers.ray_launcher import Launcher
from sweep.providers.registry import PROVIDERS, provider_of
from sweep.providers.slurm.provider import SlurmProvider
from sweep.spec import cluster
from sweep.spec.load import resolve
from sweep.spec.sweep import Budget
from sweep.store import open_store
from sweep.store.base import Store
from sweep.store.ledger import Ledger
from tests.providers.aws.test_teardown import IMAGE, REGION, make
from tests.support.aws_sweeps import STUDY, account, sweep_on_aws
from tests.support.providers import (
    AT_ONCE,
    HOSTS,
    STATUS,
    Dashboard,
    FakeSlurm,
    FakeSsh,
    on_hosts,
    on_ray,
    on_slurm,
    serving,
)

CONSOLE = Console(quiet=True)
DEADLINE = time.time() + 7200


class Premises(ABC):
    """The machines of a provider, or stand-ins for them.

    Attributes:
        provider: of a sweep whose store cannot be reached.
    """

    provider: Provider[Any]

    @abstractmethod
    def supervised(self) -> list[int]:
        """Launches whose supervisors run, or will."""

    @abstractmethod
    def refuse(self) -> None:
        """From now on what is asked for fails half-way."""

    @abstractmethod
    def lose_head(self) -> None:
        """The head is gone, and nothing else of what was made."""

    @abstractmethod
    def lose_reach(self) -> None:
        """From now on nobody here gets an answer."""

    @abstractmethod
    def of_others(self) -> set[str]:
        """What somebody else has there."""


class OnEc2(Premises):
    """EC2 answered by moto; in place of Ray's launcher one that makes machines as Ray does."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(teardown, "POLL_SECONDS", 0.0)
        monkeypatch.setattr(teardown, "SETTLE_SECONDS", 0.0)
        self._patch, self._ec2 = monkeypatch, boto3.client("ec2", REGION)
        self._launch: dict[str, int] = {}  # that a head supervises
        self._refuses = False
        self._others = f"sweep-another-{folder.name}"
        cluster = {"image": IMAGE, "ssh_from": "203.0.113.7", "environment": "/opt/ready"}
        sweep = sweep_on_aws(cluster, storage=f"s3://nobody-reaches-it/{folder}")
        self._name = cluster_name(sweep)
        make(self._ec2, self._others, ("head",))
        monkeypatch.setattr(Launcher, "up", lambda launcher, config, say: self._up())
        monkeypatch.setattr(Launcher, "run", lambda launcher, command: self._run(command))
        self.provider = AwsProvider(sweep)

    def _up(self) -> None:
        if self._head() is None:
            self._ec2.delete_key_pair(KeyName=self._name)  # that `provision` has made
            make(self._ec2, self._name, ("head", "worker"))
        if self._refuses:
            raise UserError("no capacity")

    def _run(self, command: str) -> None:
        asked, head = int(re.findall(r"sweep.launch.head.supervisor \S+ \S+ (\d+)", command)[0]), self._head()
        if head is None:
            raise UserError("there is no head")
        if self._launch.setdefault(head, asked) != asked:
            raise CommandFailed("a command on the head failed", ALREADY_RUNS)

    def _head(self) -> str | None:
        found = teardown.machines(self._ec2, self._name)
        return next((machine.name for machine in found if machine.role == "head"), None)

    def supervised(self) -> list[int]:
        head = self._head()
        return [self._launch[head]] if head in self._launch else []

    def refuse(self) -> None:
        self._refuses = True

    def lose_head(self) -> None:
        self._ec2.terminate_instances(InstanceIds=[self._head()])

    def lose_reach(self) -> None:
        from botocore.exceptions import EndpointConnectionError

        def unreachable(*_: object) -> Any:
            raise EndpointConnectionError(endpoint_url="https://ec2")

        def unreached(*_: object) -> None:
            raise UserError("no route to the head")

        self._patch.setattr(client, "client", unreachable)
        self._patch.setattr(Launcher, "run", unreached)

    def of_others(self) -> set[str]:
        return set(map(str, teardown.standing(REGION, self._others)))


class OverSsh(Premises):
    """Hosts that are folders; Ray on a host is a process that works where Ray's would."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ssh = FakeSsh(folder, monkeypatch)
        self._hosts = [self._ssh.hosts / name for name in HOSTS[:2]]
        self._rays: dict[Path, subprocess.Popen[bytes]] = {}  # the last of each host
        self._refuses = False
        sweep = on_hosts(hosts=HOSTS[:2])
        self._name = cluster_name(sweep)
        self._other = self._ray_on(self._hosts[0], "sweep-another")
        self._launch = self._hosts[0] / "launch"  # that the head supervises
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

    def supervised(self) -> list[int]:
        return [int(self._launch.read_text())] if self._launch.exists() else []

    def refuse(self) -> None:
        self._refuses = True

    def lose_head(self) -> None:
        head = self._rays[self._hosts[0]]
        head.kill()
        head.wait()
        self._launch.unlink(missing_ok=True)

    def lose_reach(self) -> None:
        self._ssh.hosts.rename(self._ssh.hosts.with_name("away"))

    def of_others(self) -> set[str]:
        return {f"process {self._other.pid}"} if self._other.poll() is None else set()

    def close(self) -> None:
        for ray in (*self._rays.values(), self._other):
            ray.kill()
            ray.wait()


class InSlurm(Premises):
    """A queue in a file."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        programs = folder / "bin"
        programs.mkdir()
        self._slurm, self._patch, self._nothing = FakeSlurm(programs, monkeypatch), monkeypatch, folder
        sweep = on_slurm(folder)
        self._name = cluster_name(sweep)
        self._slurm.holds("sweep-another", "11 RUNNING n1")
        self.provider = SlurmProvider(sweep, AT_ONCE)

    def supervised(self) -> list[int]:
        if not any(line.startswith(f"{self._name} ") for line in self._slurm.queue.read_text().splitlines()):
            return []
        return [int(found) for found in re.findall(r"--comment=launch-(\d+)", self._slurm.submitted.read_text())]

    def refuse(self) -> None:
        self._slurm.refuses.touch()

    def lose_head(self) -> None:
        self._slurm.holds("sweep-another", "11 RUNNING n1")

    def lose_reach(self) -> None:
        self._patch.setenv("PATH", str(self._nothing))

    def of_others(self) -> set[str]:
        return {line for line in self._slurm.queue.read_text().splitlines() if line.startswith("sweep-another")}


class OnRay(Premises):
    """A dashboard that answers as Ray's does, asked by Ray's own client."""

    def __init__(self, dashboard: Dashboard) -> None:
        self._dashboard = dashboard
        dashboard.jobs["sweep-another-1"] = "RUNNING"
        self.provider = ExistingProvider(on_ray(dashboard), AT_ONCE)

    def _ours(self) -> list[str]:
        jobs = self._dashboard.jobs.items()
        return [name for name, state in jobs if state == "RUNNING" and name not in self.of_others()]

    def supervised(self) -> list[int]:
        return [int(name.rpartition("-")[2]) for name in self._ours()]

    def refuse(self) -> None:
        self._dashboard.refuses = True

    def lose_head(self) -> None:
        for name in self._ours():
            self._dashboard.jobs[name] = "FAILED"

    def lose_reach(self) -> None:
        self._dashboard.shutdown()
        self._dashboard.server_close()

    def of_others(self) -> set[str]:
        return {name for name, state in self._dashboard.jobs.items() if "another" in name and state == "RUNNING"}


@pytest.fixture(scope="module")
def ec2() -> Iterator[None]:
    """One account for all: moto takes two seconds to make one.  Sweeps in it have names of their own."""
    with pytest.MonkeyPatch.context() as patch, account(patch):
        yield


@pytest.fixture
def aws(ec2: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Premises:
    return OnEc2(tmp_path, monkeypatch)


@pytest.fixture
def onprem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Premises]:
    premises = OverSsh(tmp_path, monkeypatch)
    try:
        yield premises
    finally:
        premises.close()


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Premises:
    return InSlurm(tmp_path, monkeypatch)


@pytest.fixture
def existing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Premises]:
    monkeypatch.setenv("HOME", str(tmp_path))
    with serving(Dashboard()) as dashboard:
        yield OnRay(dashboard)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree to ship that is smaller than this project's, and a cache of its own."""
    folder = tmp_path / "tree"
    (folder / "sweep").mkdir(parents=True)
    (folder / "sweep/driver.py").write_text("print('it drives')")
    monkeypatch.setattr(shipping, "ROOT", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(params=["aws", "onprem", "slurm", "existing"])
def premises(request: pytest.FixtureRequest, tree: None) -> Premises:
    """The machines of each provider that has any but this one."""
    made: Premises = request.getfixturevalue(request.param)
    return made


@pytest.fixture(params=list(PROVIDERS))
def provider(request: pytest.FixtureRequest, tree: None, tmp_path: Path) -> Provider[Any]:
    """Each provider of the registry."""
    if request.param == "local":
        return provider_of(resolve({"storage": str(tmp_path / "store"), "sweep": {"name": "n", "studies": [STUDY]}}))
    premises: Premises = request.getfixturevalue(request.param)
    return premises.provider


def store_and_status(provider: Provider[Any], folder: Path) -> tuple[Store, SweepStatus]:
    """An empty store, and the status of a sweep of which nothing has run."""
    store = open_store(str(folder / "empty"))
    work = expand(provider.sweep, provider.platform())
    return store, read_status(work, Ledger(store, provider.sweep.name))


class TestEveryProvider:
    """Everything that a plan and a check ask, and that nothing stands where nothing was made."""

    def test_the_registry_finds_it_by_the_name_of_its_section(self, provider: Provider[Any]) -> None:
        name = provider.sweep.cluster.provider
        assert PROVIDERS[name] == f"{type(provider).__module__}:{type(provider).__qualname__}"
        assert cluster.PROVIDERS[name] is type(provider).section
        assert isinstance(provider_of(provider.sweep), type(provider))
        assert provider.cluster is provider.sweep.cluster

    def test_its_platform_runs_trials(self, provider: Provider[Any]) -> None:
        found = provider.platform()
        assert found.slots >= 1 and found.cpus >= 1 and found.device
        assert found.whole_gpus == 0 or found.gpus > 0

    def test_findings_are_lines_with_a_fix_where_they_are_not_ok(self, provider: Provider[Any]) -> None:
        found = [*provider.store_findings(fix=False), *provider.findings(fix=False)]
        assert all(line.name and line.said for line in found)
        assert bool(found) == (not provider.cluster.runs_here)

    def test_a_plan_shows_machines_and_prices_only_where_they_would_be_made(
        self, provider: Provider[Any], tmp_path: Path
    ) -> None:
        store, status = store_and_status(provider, tmp_path)
        lines = provider.plan_lines(status, store, "")
        assert bool(lines) == bool(provider.plan_json(status)) == provider.adds_workers
        assert json.loads(json.dumps(provider.plan_json(status))) == provider.plan_json(status)

    def test_the_launchers_input_is_printed_or_refused_with_the_reason(
        self, provider: Provider[Any], tmp_path: Path
    ) -> None:
        _, status = store_and_status(provider, tmp_path)
        try:
            assert provider.launcher_config(status).strip()
        except UserError as error:
            assert f"provider {provider.sweep.cluster.provider} needs no launcher" in str(error)

    def test_a_budget_of_dollars_is_enforced_or_it_is_said_that_it_is_not(self, provider: Provider[Any]) -> None:
        assert provider.budget_caution() == ""
        limited = provider.sweep.model_copy(update={"budget": Budget(max_usd=5, max_hours=2)})
        assert bool(provider_of(limited).budget_caution()) == (not provider.knows_prices)

    def test_a_pinned_sweep_has_the_same_provider_and_is_pinned(self, provider: Provider[Any]) -> None:
        pinned = provider.pin()
        assert provider_of(pinned).pin() == pinned
        assert pinned.name == provider.sweep.name

    def test_only_this_machine_has_the_environment_of_this_process(self, provider: Provider[Any]) -> None:
        assert (provider.environment() is None) == provider.cluster.runs_here

    def test_where_nothing_was_made_nothing_stands(self, provider: Provider[Any]) -> None:
        assert (provider.is_alive(), provider.resources(), provider.teardown(CONSOLE)) == (False, [], [])

    def test_only_a_provider_with_a_head_takes_a_launch(self, provider: Provider[Any]) -> None:
        if provider.cluster.runs_here:
            assert provider.provision(STATUS, CONSOLE, DEADLINE) == DEADLINE
            with pytest.raises(UserError, match="has no head"):
                provider.submit(1)
            assert provider.commands() == {}


class TestMachines:
    """Every provider with machines other than this one."""

    def test_made_again_the_same_stands(self, premises: Premises) -> None:
        provider = premises.provider
        stop = provider.provision(STATUS, CONSOLE, DEADLINE)
        alive, standing = provider.is_alive(), provider.resources()
        assert stop is not None and stop <= DEADLINE
        again = provider.provision(STATUS, CONSOLE, DEADLINE + 60)
        assert again is not None and again <= DEADLINE + 60
        assert (provider.is_alive(), provider.resources()) == (alive, standing)

    def test_a_launch_is_submitted_once_and_another_beside_it_is_refused(self, premises: Premises) -> None:
        provider = premises.provider
        provider.provision(STATUS, CONSOLE, DEADLINE)
        provider.submit(3)
        provider.submit(3)
        assert premises.supervised() == [3] and provider.is_alive() is True
        with pytest.raises(AlreadyRuns):
            provider.submit(4)
        assert premises.supervised() == [3]

    def test_taking_down_lists_what_it_removes_and_leaves_only_what_is_others(self, premises: Premises) -> None:
        provider, others = premises.provider, premises.of_others()
        provider.provision(STATUS, CONSOLE, DEADLINE)
        provider.submit(1)
        standing = provider.resources()
        assert standing and others
        removed = provider.teardown(CONSOLE)
        assert {line.partition(",")[0] for line in standing} <= {line.partition(",")[0] for line in removed}
        assert (provider.is_alive(), provider.resources(), provider.teardown(CONSOLE)) == (False, [], [])
        assert premises.supervised() == [] and premises.of_others() == others

    def test_what_was_taken_down_can_be_launched_again(self, premises: Premises) -> None:
        provider = premises.provider
        for number in (1, 2):
            provider.provision(STATUS, CONSOLE, DEADLINE)
            provider.submit(number)
            assert premises.supervised() == [number] and provider.is_alive() is True
            provider.teardown(CONSOLE)

    def test_what_a_lost_head_leaves_is_removed_before_another_is_made_and_by_taking_down(
        self, premises: Premises
    ) -> None:
        provider = premises.provider
        for number in (1, 2):
            provider.provision(STATUS, CONSOLE, DEADLINE)
            provider.submit(number)
            standing = len(provider.resources())
            assert premises.supervised() == [number]
            premises.lose_head()
            assert provider.is_alive() is False
            assert len(provider.resources()) < standing
        provider.teardown(CONSOLE)
        assert provider.resources() == []

    def test_what_a_launch_that_failed_half_way_has_made_is_taken_down(self, premises: Premises) -> None:
        provider = premises.provider
        premises.refuse()
        with pytest.raises(UserError):
            provider.provision(STATUS, CONSOLE, DEADLINE)
            provider.submit(1)
        provider.teardown(CONSOLE)
        assert (provider.is_alive(), provider.resources()) == (False, [])

    @pytest.mark.parametrize("asked", ["provision", "submit", "teardown"])
    def test_where_nobody_answers_nothing_is_claimed(self, premises: Premises, asked: str) -> None:
        provider = premises.provider
        commands = provider.commands()
        premises.lose_reach()
        calls: dict[str, Callable[[], object]] = {
            "provision": lambda: provider.provision(STATUS, CONSOLE, DEADLINE),
            "submit": lambda: provider.submit(1),
            "teardown": lambda: provider.teardown(CONSOLE),
        }
        with pytest.raises(UserError):
            calls[asked]()
        assert provider.is_alive() is None
        with suppress(UserError):
            assert provider.resources(), "not that nothing stands"
        assert provider.commands() == commands

    def test_commands_are_the_shells(self, premises: Premises) -> None:
        commands = premises.provider.commands()
        assert commands and all(commands.values())
        for lines in commands.values():
            subprocess.run(["bash", "-n"], input="\n".join(lines), text=True, check=True)
