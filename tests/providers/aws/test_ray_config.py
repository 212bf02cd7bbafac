"""The input of Ray's launcher for EC2: what must be in it, that Ray accepts it, and the merge with the user's keys."""

from __future__ import annotations

import ast
import math
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweep.errors import UserError
from sweep.providers import ray_config as ray_yaml
from sweep.providers.aws import ray_config
from sweep.providers.aws.instances import worker
from sweep.providers.aws.machine.guard import HEAD_FILE, head_in
from sweep.providers.local_files import cluster_name
from sweep.spec.load import load
from tests.support.aws_sweeps import RESOLVED, generated, node_configs, sweep_on_aws

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "cluster",
    [
        {},
        {"spot": False, "zones": ["us-east-1a", "us-east-1b"]},
        {"environment": "/opt/ready", "worker": "m6i.xlarge"},
        {"tags": {"team": "vision"}, "max_workers": 1, "idle_minutes": 0.5},
    ],
)
def test_ray_accepts_what_is_generated(cluster: dict[str, Any]) -> None:
    ray_yaml.validate(generated(cluster))


def test_ray_accepts_what_is_generated_for_the_shipped_file() -> None:
    sweep = load(ROOT / "clusters/aws.yaml")
    ray_yaml.validate(ray_config.configuration(sweep, worker(sweep), RESOLVED))


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"max_wrkers": 3}, "max_wrkers"),
        ({"max_workers": "three"}, "cluster.ray.max_workers"),
        ({"head_node_type": "nobody"}, "head_node_type"),
        ({"available_node_types": {"worker": {"min_workers": 99}}}, "min_workers"),
        ({"provider": {"type": "awz"}}, "awz"),
        ({"setup_commands": "pip install x"}, "cluster.ray"),
    ],
)
def test_what_ray_refuses_is_a_problem_of_cluster_ray(keys: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as caught:
        ray_yaml.validate(generated({"ray": keys}))
    assert "cluster.ray" in str(caught.value)
    assert named in str(caught.value)


def test_every_machine_has_a_profile_a_sized_disk_tags_and_ends_when_it_powers_off() -> None:
    config = generated({"disk_gb": 77, "tags": {"team": "vision"}})
    head, of_worker = node_configs(config)
    assert re.fullmatch(r"sweep-head-[0-9a-f]{8}", head["IamInstanceProfile"]["Name"])
    assert re.fullmatch(r"sweep-worker-[0-9a-f]{8}", of_worker["IamInstanceProfile"]["Name"])
    for node in (head, of_worker):
        disk = node["BlockDeviceMappings"][0]["Ebs"]
        assert (disk["VolumeSize"], disk["DeleteOnTermination"]) == (77, True)
        assert node["InstanceInitiatedShutdownBehavior"] == "terminate"
        assert node["MaintenanceOptions"] == {"AutoRecovery": "disabled"}
        assert node["MetadataOptions"]["HttpTokens"] == "required"
        assert [spec["ResourceType"] for spec in node["TagSpecifications"]] == ["instance", "volume"]
        for spec in node["TagSpecifications"]:
            tags = {tag["Key"]: tag["Value"] for tag in spec["Tags"]}
            assert tags == {
                "team": "vision",
                "anomaly-sweep": "table-1",
                "anomaly-sweep-cluster": config["cluster_name"],
            }
    assert config["provider"]["cache_stopped_nodes"] is False


def test_workers_alone_are_spot_and_the_head_has_no_slots() -> None:
    head, of_worker = node_configs(generated())
    assert "InstanceMarketOptions" not in head
    assert of_worker["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in node_configs(generated({"spot": False}))[1]
    assert generated()["available_node_types"]["head"]["resources"] == {"CPU": 0, "GPU": 0}


def test_nothing_of_ray_is_open_to_the_world_and_its_secret_is_asked_for() -> None:
    config = generated()
    starts = [c for kind in ("head", "worker") for c in config[f"{kind}_start_ray_commands"] if "ray start" in c]
    assert all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "0.0.0.0" not in yaml.safe_dump(config)
    assert config["file_mounts"]["~/.ray/auth_token"] == "/somewhere/token"


def test_the_folder_of_code_is_shipped_whole() -> None:
    config = generated()
    assert config["file_mounts"][ray_config.CODE] == "/somewhere/code"
    assert config["rsync_exclude"] == config["rsync_filter"] == [], "they apply at any depth, also to models/results"


def test_a_ready_image_downloads_nothing_and_any_other_only_what_is_pinned() -> None:
    assert generated({"environment": "/opt/ready"})["setup_commands"] == []
    (step,) = generated()["setup_commands"]
    assert "uv==" in step and "uv sync" in step and 'test -e "$done"' in step
    assert generated()["head_setup_commands"] == generated()["worker_setup_commands"] == []


def test_the_commands_are_shell() -> None:
    for commands in ray_config.commands(generated()).values():
        for command in commands:
            subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize(("seen", "code"), [(1, 0), (5, 0), (math.inf, 1)])
def test_a_machine_is_set_up_only_when_its_guard_runs_which_is_waited_for(
    tmp_path: Path, seen: float, code: int
) -> None:
    """Run the first command with a pgrep that finds the guard at its call number `seen`."""
    asked = tmp_path / "asked"
    finds = "exit 1" if seen == math.inf else f'[ "$(wc -l < {asked})" -ge {seen} ]'
    for name, script in (("pgrep", f'echo "$2" >> {asked}\n{finds}'), ("sleep", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    for kind in ("head", "worker"):
        asked.unlink(missing_ok=True)
        command = f"({ray_config.commands(generated())[kind][0]}) && echo set up"  # in parentheses, as Ray runs it
        path = f"{tmp_path}:/usr/bin:/bin"
        done = subprocess.run(["bash", "-c", command], env={"PATH": path}, capture_output=True, text=True)
        assert done.returncode == code
        assert ("set up" in done.stdout, "cluster.image" in done.stdout) == (code == 0, code == 1)
        patterns = asked.read_text().splitlines()
        assert len(patterns) == min(seen, ray_config.GUARD_SECONDS)
        assert re.search(patterns[0], ray_config.first_boot(kind, 1_900_000_000).splitlines()[-2])
        assert not re.search(patterns[0], command), "pgrep would find the command itself"


def test_a_workers_guard_is_told_of_the_head_before_anything_is_installed(tmp_path: Path) -> None:
    (tmp_path / "run/sweep").mkdir(parents=True)
    (tmp_path / "sudo").write_text("#!/bin/sh\n")
    (tmp_path / "sudo").chmod(0o755)
    file = tmp_path / HEAD_FILE.removeprefix("/")
    command = ray_config.commands(generated())["worker"][1].replace("/run/", f"{tmp_path}/run/")
    for before, left in (("", None), ("export RAY_HEAD_IP=10.0.0.5; ", "10.0.0.5:6379")):
        path = f"{tmp_path}:/usr/bin:/bin"
        subprocess.run(["bash", "-c", before + command], env={"PATH": path}, check=True)
        assert head_in(file) == left


def test_the_first_boot_powers_off_by_itself_and_fits_into_what_ec2_takes() -> None:
    for role in ("head", "worker"):
        script = ray_config.first_boot(role, 1_900_000_000)
        subprocess.run(["sh", "-n", "-c", script], check=True)
        assert "shutdown -h" in script and f"guard.py {role} --deadline 1900000000" in script
        assert "{{" not in script
        embedded = script.partition("<<'GUARD'\n")[2].partition("\nGUARD\n")[0]
        ast.parse(embedded)


def test_a_machine_that_is_booted_again_powers_off_and_an_image_made_of_it_does_not(tmp_path: Path) -> None:
    script = ray_config.first_boot("head", 1_900_000_000)
    for folder in ("/var", "/opt", "/run"):
        script = script.replace(f" {folder}/", f" {tmp_path}{folder}/").replace(f"={folder}/", f"={tmp_path}{folder}/")
    for folder in ("bin", "opt", "run", "var/log", "var/lib/cloud/data"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("shutdown", "setsid"):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/done\n')
        (tmp_path / "bin" / name).chmod(0o755)
    done, instance = tmp_path / "done", tmp_path / "var/lib/cloud/data/instance-id"

    def run(*command: str) -> list[str]:
        done.write_text("")
        subprocess.run(command, env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}, check=True)
        return [line for line in done.read_text().splitlines() if line.startswith("shutdown")]

    instance.write_text("i-1\n")
    (limit,) = run("sh", "-c", script)
    assert limit.startswith("shutdown -h +")
    again = tmp_path / "var/lib/cloud/scripts/per-boot/sweep-booted-again"
    assert run(str(again)) == ["shutdown -h now"]
    instance.write_text("i-2\n")
    assert run(str(again)) == []
    instance.unlink()
    (limit,) = run("sh", "-c", script)
    assert run(str(again)) == ["shutdown -h now"], "it also works if cloud-init gives no instance id"


def test_a_sweep_has_one_name_at_every_launch_and_no_other_sweep_has_it() -> None:
    name = cluster_name(sweep_on_aws())
    assert name == cluster_name(sweep_on_aws({"max_workers": 2}))
    assert name != cluster_name(sweep_on_aws(storage="s3://another/prefix"))
    config = generated()
    assert config["provider"]["security_group"]["GroupName"] == name
    assert {node["KeyName"] for node in node_configs(config)} == {name}


def test_cluster_ray_is_merged_last() -> None:
    over = {"idle_timeout_minutes": 1, "available_node_types": {"worker": {"node_config": {"EbsOptimized": True}}}}
    config = generated({"ray": over})
    assert config["idle_timeout_minutes"] == 1
    assert config["available_node_types"]["worker"]["node_config"]["EbsOptimized"] is True
    assert config["available_node_types"]["worker"]["node_config"]["ImageId"] == RESOLVED.image
    ray_yaml.validate(config)


def test_the_text_is_the_configuration() -> None:
    config = generated()
    assert yaml.safe_load(ray_yaml.text(config)) == config
