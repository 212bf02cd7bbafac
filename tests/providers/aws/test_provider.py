"""EC2 as a provider: files on this machine, requests to EC2, commands on the head."""

from __future__ import annotations

import errno
import json
import shlex
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from rich.console import Console

from sweep.errors import ALREADY_RUNS, AlreadyRuns, CommandFailed, UserError
from sweep.plan.expand import expand
from sweep.plan.status import SweepStatus, read_status
from sweep.providers.aws import client, teardown
from sweep.providers.aws import provider as provider_module
from sweep.providers.aws.key_files import Folder
from sweep.providers.aws.provider import AwsProvider
from sweep.providers.local_files import cluster_name
from sweep.providers.ray_launcher import Launcher
from sweep.providers.registry import provider_of
from sweep.providers.shipping import Shipment
from sweep.spec.sweep import Sweep
from sweep.store import open_store
from sweep.store.ledger import Ledger
from tests.providers.aws.test_teardown import IMAGE, REGION, make, running
from tests.support.aws_sweeps import BUCKET, account, sweep_on_aws

SWEEP = sweep_on_aws({"image": IMAGE, "ssh_from": "203.0.113.7", "environment": "/opt/ready"})
NAME = cluster_name(SWEEP)
CONSOLE = Console(quiet=True)


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(teardown, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(teardown, "SETTLE_SECONDS", 0.0)
    with account(monkeypatch):
        yield boto3.client("ec2", REGION)


@pytest.fixture
def plan(tmp_path: Path) -> SweepStatus:
    from sweep.providers.aws.instances import platform

    return read_status(expand(SWEEP, platform(SWEEP)), Ledger(open_store(str(tmp_path / "store")), SWEEP.name))


class FakeLauncher:
    """Replacement for Ray's launcher, which makes a head in moto as Ray does in EC2."""

    def __init__(self, ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.configs: list[dict[str, Any]] = []
        self.keys: list[bytes] = []

        def up(launcher: Launcher, config: dict[str, Any], say: object) -> None:
            self.configs.append(config)
            self.keys.append((launcher.folder / "ssh_key").read_bytes())
            if NAME not in [p["GroupName"] for p in ec2.describe_security_groups()["SecurityGroups"]]:
                ec2.delete_key_pair(KeyName=NAME)  # `make` makes a new one
                make(ec2, NAME, ("head",))

        monkeypatch.setattr(Launcher, "up", up)


def test_what_this_machine_keeps_is_for_its_owner_alone_and_made_once(tmp_path: Path) -> None:
    folder = Folder(SWEEP, {"XDG_CACHE_HOME": str(tmp_path)})
    folder.make()
    for path in (folder.path, folder.token, folder.key):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    before = folder.token.read_text(), folder.key.read_text()
    assert len(before[0]) == 64
    folder.make()
    assert (folder.token.read_text(), folder.key.read_text()) == before
    assert folder.public_key.startswith("ssh-ed25519 ")
    folder.forget()
    assert not folder.token.exists() and not folder.key.exists()
    folder.make()
    assert folder.token.read_text() != before[0]


def test_a_folder_that_cannot_be_written_is_a_problem_that_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "anomaly-sweep").write_text("a file")
    with pytest.raises(UserError, match="XDG_CACHE_HOME"):
        Folder(SWEEP, {"XDG_CACHE_HOME": str(tmp_path)}).make()


def test_making_ships_the_code_and_a_head_that_is_up_is_kept_as_it_was_made(
    ec2: Any, plan: SweepStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher, provider, folder = FakeLauncher(ec2, monkeypatch), AwsProvider(SWEEP), Folder(SWEEP)
    assert provider.is_alive() is False
    orderly = provider.provision(plan, CONSOLE, 2e9)
    assert orderly == 2e9 - 300, "the driver stops before the machines power themselves off"
    assert provider.is_alive() is True
    assert (folder.code / "sweep/providers/aws/machine/guard.py").exists()
    (config,) = launcher.configs
    assert config["auth"]["ssh_private_key"] == str(folder.key)
    assert config["file_mounts"]["~/anomaly-sweep"] == str(folder.code)

    assert provider.provision(plan, CONSOLE, 2e9 + 9999) == orderly, (
        "the machines power themselves off at the first deadline"
    )
    assert launcher.configs == [config, config], "Ray would end the head if its configuration changed"
    assert len(set(launcher.keys)) == 1
    assert len(running(ec2)) == 1


@pytest.mark.parametrize("what", ["copy_to", "private_text"])
def test_a_disk_that_is_full_is_a_problem_that_names_the_variable(
    ec2: Any, plan: SweepStatus, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    FakeLauncher(ec2, monkeypatch)
    monkeypatch.setattr(Shipment if what == "copy_to" else provider_module, what, full)
    with pytest.raises(UserError, match=r"No space left.*XDG_CACHE_HOME"):
        AwsProvider(SWEEP).provision(plan, CONSOLE, 2e9)


@pytest.mark.parametrize("known", [None, '{"head": "i-another"}', '{"head": "i-', "{}", "[]"])
def test_what_is_left_of_a_head_that_was_not_finished_or_not_made_here_is_removed_first(
    ec2: Any, plan: SweepStatus, monkeypatch: pytest.MonkeyPatch, known: str | None
) -> None:
    old = make(ec2, NAME)
    if known is not None:
        Folder(SWEEP).make()
        Folder(SWEEP).config.write_text(known)
    FakeLauncher(ec2, monkeypatch)
    AwsProvider(SWEEP).provision(plan, CONSOLE, 2e9)
    assert len(running(ec2)) == 1
    assert not running(ec2) & set(old)


def test_a_head_of_an_older_version_is_left_alone_and_the_launch_refused(
    ec2: Any, plan: SweepStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeLauncher(ec2, monkeypatch)
    AwsProvider(SWEEP).provision(plan, CONSOLE, 2e9)
    made = json.loads(Folder(SWEEP).config.read_text())
    made["config"]["provider"]["module"] = "sweep.aws.spot_first.SpotFirst"  # as commit 62b10ff named it
    Folder(SWEEP).config.write_text(json.dumps(made))
    up = running(ec2)
    with pytest.raises(AlreadyRuns, match=r"older version of this project.*end it, then launch again"):
        AwsProvider(SWEEP).provision(plan, CONSOLE, 2e9)
    assert running(ec2) == up


def test_the_public_key_is_imported_with_our_tags(ec2: Any) -> None:
    Folder(SWEEP).make()
    AwsProvider(SWEEP)._import_key()
    AwsProvider(SWEEP)._import_key()
    (pair,) = ec2.describe_key_pairs()["KeyPairs"]
    assert pair["KeyName"] == NAME
    assert [thing.kind for thing in teardown.list_resources(REGION, NAME)] == ["key pair"]


def test_the_submission_is_one_shell_command_that_names_everything() -> None:
    sweep: Sweep = sweep_on_aws({"environment": "/opt/ready"}, storage=f"s3://{BUCKET}/a b'c")
    command = AwsProvider(sweep).submission(7)
    subprocess.run(["bash", "-n", "-c", command], check=True)
    words = shlex.split(command.partition("&& /opt/ready")[2].partition(" || exit")[0])
    assert words[:6] == ["/bin/python", "-m", "sweep.launch.head.supervisor", f"s3://{BUCKET}/a b'c", "table-1", "7"]
    end = shlex.split(words[words.index("--then") + 1])
    assert end == [
        "/opt/ready/bin/python", "-m", "sweep.providers.aws.teardown", "us-east-1", cluster_name(sweep), "--from-head"
    ]  # fmt: skip
    assert "--detach" in words


@pytest.mark.parametrize("status", [ALREADY_RUNS, 1])
def test_a_supervisor_that_is_refused_is_told_from_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    python = tmp_path / "environment/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\nexit {status}\n")
    python.chmod(0o755)
    (tmp_path / "anomaly-sweep").mkdir()

    def on_head(launcher: Launcher, command: str) -> None:
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        ran = subprocess.run(["bash", "-c", command], env=environment, timeout=60)
        raise CommandFailed("it failed", ran.returncode)

    monkeypatch.setattr(Launcher, "run", on_head)
    with pytest.raises(AlreadyRuns if status == ALREADY_RUNS else CommandFailed):
        AwsProvider(sweep_on_aws({"environment": str(tmp_path / "environment")})).submit(2)


def test_a_launch_names_the_image_that_auto_stood_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"Parameter": {"Value": "ami-0abcdef12"}}
    ssm = type("Ssm", (), {"get_parameter": lambda self, **_: answer})()
    monkeypatch.setattr(client, "client", lambda service, region: ssm)
    sweep = provider_of(sweep_on_aws()).pin()
    assert sweep.model_dump(mode="json")["cluster"]["image"] == "ami-0abcdef12"
    assert cluster_name(sweep) == cluster_name(sweep_on_aws())
    assert isinstance(provider_of(sweep), AwsProvider)
