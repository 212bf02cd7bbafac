"""A sweep on hosts over SSH: the input of Ray's launcher, the scripts for hosts, and the checks.

tests/lab shows the same with real SSH and Ray.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from sweep.errors import UserError
from sweep.providers import ray_config as ray_yaml
from sweep.providers.finding import Finding
from sweep.providers.local_files import cluster_name
from sweep.providers.onprem import checks, ray_config
from sweep.providers.onprem.provider import OnPremProvider
from sweep.spec.load import load
from sweep.spec.sweep import Sweep
from tests.support.providers import HOSTS, STATUS, FakeSsh, on_hosts
from tests.support.sweeps import platform

ROOT = Path(__file__).parents[2]


def generated(sweep: Sweep) -> dict[str, Any]:
    here = Path("/somewhere")
    return ray_config.configuration(sweep, here / "code", here / "auth_token", here / "end.sh")


@pytest.mark.parametrize(
    "cluster",
    [
        {},
        {"hosts": ["localhost"]},
        {"gpus": 4, "gpu": "NVIDIA L4", "environment": None, "ssh_key": "~/.ssh/id_ed25519"},
        {"ray": {"idle_timeout_minutes": 9, "setup_commands": ["true"]}},
    ],
)
def test_ray_accepts_what_is_generated(cluster: dict[str, Any]) -> None:
    config = generated(on_hosts(**cluster))
    prepared = ray_yaml.validate(config)
    workers = len(config["provider"]["worker_ips"])
    (node_type,) = prepared["available_node_types"].values()
    assert (node_type["min_workers"], node_type["max_workers"]) == (workers, workers), "every host is used all the time"


def test_ray_accepts_what_is_generated_for_the_shipped_file() -> None:
    ray_yaml.validate(generated(load(ROOT / "clusters/onprem.yaml")))
    printed = yaml.safe_load(ray_config.yaml_text(load(ROOT / "clusters/onprem.yaml")))
    assert printed["provider"] == {
        "type": "local", "head_ip": "EDIT-THIS-HEAD", "worker_ips": ["EDIT-THIS-WORKER-1", "EDIT-THIS-WORKER-2"]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"max_wrkers": 3}, "max_wrkers"),
        ({"upscaling_speed": "fast"}, "cluster.ray.upscaling_speed"),
        ({"available_node_types": {"mine": {}}}, "cluster.ray"),
        ({"provider": {"type": "locl"}}, "locl"),
        ({"setup_commands": "pip install x"}, "cluster.ray"),
        ({"auth": {"ssh_key": "x"}}, "ssh_key"),
    ],
)
def test_what_ray_refuses_is_a_problem_of_cluster_ray(keys: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as caught:
        ray_yaml.validate(generated(on_hosts(ray=keys)))
    assert "cluster.ray" in str(caught.value) and named in str(caught.value)


def starts(config: dict[str, Any]) -> tuple[str, str]:
    return config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]


def test_the_head_runs_trials_only_where_it_is_alone() -> None:
    gpus: dict[str, Any] = {"gpus": 2, "gpu": "NVIDIA L4"}
    head, worker = starts(generated(on_hosts(**gpus)))
    assert "--num-cpus=0 --num-gpus=0" in head and "--num-cpus=8 --num-gpus=2" in worker
    head, _ = starts(generated(on_hosts(hosts=["one"], **gpus)))
    assert "--num-cpus=8 --num-gpus=2" in head
    assert platform(on_hosts(hosts=["one"], **gpus)).slots == 2


def test_nobody_enters_without_the_secret_and_nothing_is_fetched_unpinned() -> None:
    for command in starts(generated(on_hosts())):
        assert "RAY_AUTH_MODE=token" in command and "RAY_USAGE_STATS_ENABLED=0" in command
        assert f"chmod 600 ~/.anomaly-sweep/{cluster_name(on_hosts())}/auth_token" in command
    assert "--dashboard-host=127.0.0.1" in starts(generated(on_hosts()))[0]
    assert generated(on_hosts())["setup_commands"] == []
    (made,) = generated(on_hosts(environment=None))["setup_commands"]
    assert ray_yaml.UV in made and "sync" in made


def test_ray_that_somebody_else_runs_on_a_host_is_left_alone() -> None:
    config = generated(on_hosts())
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert not any("ray stop" in command for command in commands)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return the home folder of a host, with the working folder of this sweep's Ray."""
    (tmp_path / ".anomaly-sweep" / cluster_name(on_hosts()) / "running").mkdir(parents=True)
    return tmp_path


def shell(home: Path, script: str) -> str:
    done = subprocess.run(["bash", "-s"], input=script, capture_output=True, text=True, timeout=60, cwd=home,
                          env={"HOME": str(home), "PATH": "/usr/bin:/bin"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_host_is_rid_of_this_sweeps_processes_and_files_and_of_nothing_else(home: Path) -> None:
    folder = home / ".anomaly-sweep" / cluster_name(on_hosts())
    (home / ".anomaly-sweep/other/running").mkdir(parents=True)
    for name in ("auth_token", "end.sh", "supervisor.log"):
        (folder / name).touch()
    (folder / "code").mkdir()
    (home / "ray_bootstrap_config.yaml").write_text(f'{{"cluster_name": "{cluster_name(on_hosts())}"}}')
    (home / "ray_bootstrap_key.pem").touch()
    stubborn = subprocess.Popen(["bash", "-c", "trap '' TERM; sleep 1000 & wait; wait"], cwd=folder / "running",
                                start_new_session=True)  # fmt: skip
    others = subprocess.Popen(["sleep", "1000"], cwd=home / ".anomaly-sweep/other/running")
    try:
        deadline = time.monotonic() + 60
        while shell(home, ray_config.count_script(on_hosts())).strip() != "2":
            assert time.monotonic() < deadline
        assert "ended=2\nremoved=" in shell(home, ray_config.stop_script(on_hosts()))
        assert stubborn.wait(timeout=60) == -signal.SIGKILL
        assert others.poll() is None
    finally:
        others.kill()
        others.wait()
        if stubborn.poll() is None:
            os.killpg(stubborn.pid, signal.SIGKILL)
    assert sorted(path.name for path in folder.iterdir()) == ["supervisor.log"]
    assert not list(home.glob("ray_bootstrap*"))
    assert shell(home, ray_config.stop_script(on_hosts())) == "ended=0\n"


def test_the_key_of_another_sweep_on_the_head_stays(home: Path) -> None:
    (home / "ray_bootstrap_config.yaml").write_text('{"cluster_name": "another"}')
    (home / "ray_bootstrap_key.pem").touch()
    shell(home, ray_config.stop_script(on_hosts()))
    assert (home / "ray_bootstrap_key.pem").exists()


def test_the_end_of_a_head_waits_for_no_host_that_hangs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = home / ".anomaly-sweep" / cluster_name(on_hosts())
    (home / "ssh").write_text(f"#!/bin/sh\necho asked >> {home}/asked\nexec sleep 1000\n")
    (home / "ssh").chmod(0o755)
    (folder / "code").mkdir()
    monkeypatch.setattr("sweep.providers.onprem.ssh.SECONDS", 0.2)
    assert "removed=" in shell(home, f'PATH="$HOME:$PATH"\n{ray_config.end_script(on_hosts())}')
    assert (home / "asked").read_text() == "asked\n" * len(HOSTS[1:])
    assert not (folder / "running").exists()


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSsh:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return FakeSsh(tmp_path, monkeypatch)


def findings(sweep: Sweep) -> dict[str, Finding]:
    return {finding.name: finding for finding in checks.findings(sweep)}


def test_every_host_is_looked_at_and_each_problem_has_its_fix(ssh: FakeSsh, tmp_path: Path) -> None:
    import ray

    environment = tmp_path / "venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin/python").write_text(
        f'#!/bin/sh\ncase "$*" in *ray*) echo {ray.__version__} ;; *) echo 3.11 ;; esac\n'
    )
    (environment / "bin/python").chmod(0o755)
    storage = tmp_path / "it's the store"
    sweep = on_hosts(str(storage), environment=str(environment), gpus=1, gpu="NVIDIA L4", capability=8.9)
    ssh.program(HOSTS[1], "nvidia-smi", "echo 'NVIDIA L4, 8.9'")
    ssh.program(HOSTS[2], "nvidia-smi", "echo 'NVIDIA A10, 8.6'")
    found = findings(sweep)
    assert {found[f"{what} {host}"].state for what in ("environment", "store from") for host in HOSTS} == {"ok"}
    assert found[f"host {HOSTS[0]}"].state == found[f"host {HOSTS[1]}"].state == "ok"
    assert "the head" in found[f"host {HOSTS[0]}"].found and "1 NVIDIA L4" in found[f"host {HOSTS[1]}"].found
    assert "has NVIDIA A10; cluster.gpu is NVIDIA L4" in found[f"host {HOSTS[2]}"].found
    assert not list((storage / "checks").glob("*"))

    ssh.program(HOSTS[1], "nproc", "echo 2")
    ssh.program(HOSTS[0], "pgrep", "echo 4711")
    (environment / "bin/python").unlink()
    found = findings(sweep)
    assert found[f"host {HOSTS[1]}"].fix == "--set cluster.cpus=2"
    assert "the head of another Ray cluster runs there" in found[f"host {HOSTS[0]}"].found
    assert "has no Ray, or does not exist" in found[f"environment {HOSTS[0]}"].found


def test_a_host_that_is_not_reached_is_named_with_the_command_to_try(ssh: FakeSsh) -> None:
    found = findings(on_hosts("s3://nowhere/x", hosts=["away", HOSTS[1]]))["host away"]
    assert found.state == "not ok" and "no route to away" in found.found
    assert found.fix.startswith("try: ssh -o BatchMode=yes") and found.fix.endswith("-l us away true")


def test_a_host_that_is_not_reached_is_named_and_nothing_is_started(ssh: FakeSsh) -> None:
    provider = OnPremProvider(on_hosts(hosts=[HOSTS[0], "away"]))
    with pytest.raises(UserError, match=r"nothing was started\n.*no route to away"):
        provider.provision(STATUS, Console(quiet=True), None)
    with pytest.raises(UserError, match=r"Ray may be left on hosts that were not reached\n.*no route to away"):
        provider.teardown(Console(quiet=True))


def test_the_supervisor_is_told_where_everything_is(ssh: FakeSsh) -> None:
    code = ssh.hosts / HOSTS[0] / ".anomaly-sweep" / cluster_name(on_hosts()) / "code"
    code.mkdir(parents=True)
    ssh.program(HOSTS[0], "python", f'echo "$@" > {code}/called')
    OnPremProvider(on_hosts()).submit(4)
    called = (code / "called").read_text()
    assert called.startswith("-m sweep.launch.head.supervisor /nfs/store table-1 4 --then bash ~/.anomaly-sweep/")
    assert called.rstrip().endswith("--detach")
