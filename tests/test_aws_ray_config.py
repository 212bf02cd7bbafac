"""What Ray's launcher is given for EC2: right by construction, accepted by Ray, merged with the user's keys."""

from __future__ import annotations

import ast
import copy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aws_sweeps import account, sweep_on_aws

from sweep import ray_yaml
from sweep.aws import access, ray_config, refusal
from sweep.aws.instances import worker
from sweep.faults import UserError
from sweep.naming import cluster_name
from sweep.providers import Aws
from sweep.spec import load

ROOT = Path(__file__).parent.parent
RESOLVED = ray_config.Resolved(
    image="ami-0123456789abcdef0",
    ssh_from="203.0.113.7/32",
    deadline=1_900_000_000,
    workers=4,
    code=Path("/somewhere/code"),
    token=Path("/somewhere/token"),
    key=Path("/somewhere/key"),
)


def generated(cluster: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    sweep = sweep_on_aws(cluster, **sections)
    return ray_config.configuration(sweep, worker(sweep), RESOLVED)


def node_configs(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [node["node_config"] for node in config["available_node_types"].values()]


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
    ray_yaml.validated(generated(cluster))


def test_ray_accepts_what_is_generated_for_the_shipped_file() -> None:
    sweep = load(ROOT / "clusters/aws.yaml")
    ray_yaml.validated(ray_config.configuration(sweep, worker(sweep), RESOLVED))


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ({"max_wrkers": 3}, "max_wrkers"),
        ({"max_workers": "three"}, "cluster.ray.max_workers"),
        ({"head_node_type": "nobody"}, "head_node_type"),
        ({"available_node_types": {"worker": {"min_workers": 99}}}, "min_workers"),
        ({"provider": {"type": "awz"}}, "awz"),
        ({"setup_commands": "pip install x"}, "cluster.ray"),
    ],
)
def test_what_ray_refuses_is_a_fault_of_cluster_ray(keys: dict[str, Any], place: str) -> None:
    with pytest.raises(UserError) as caught:
        ray_yaml.validated(generated({"ray": keys}))
    assert "cluster.ray" in str(caught.value)
    assert place in str(caught.value)


def test_every_machine_has_a_profile_a_sized_disk_tags_and_ends_when_it_powers_off() -> None:
    config = generated({"disk_gb": 77, "tags": {"team": "vision"}})
    head, of_worker = node_configs(config)
    assert head["IamInstanceProfile"] == {"Name": "sweep-head"}
    assert of_worker["IamInstanceProfile"] == {"Name": "sweep-worker"}
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
    assert config["rsync_exclude"] == config["rsync_filter"] == [], "they would hold at any depth: models/results, too"


def test_a_ready_image_downloads_nothing_and_any_other_only_what_is_pinned() -> None:
    assert generated({"environment": "/opt/ready"})["setup_commands"] == []
    (step,) = generated()["setup_commands"]
    assert "uv==" in step and "uv sync" in step and 'test -e "$done"' in step
    assert generated()["head_setup_commands"] == generated()["worker_setup_commands"] == []


def test_the_commands_are_shell() -> None:
    for commands in ray_config.commands(generated()).values():
        for command in commands:
            subprocess.run(["bash", "-n", "-c", command], check=True)


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
    assert run(str(again)) == ["shutdown -h now"], "where cloud-init does not name the instance"


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
    ray_yaml.validated(config)


def test_the_text_is_the_configuration() -> None:
    config = generated()
    assert yaml.safe_load(ray_yaml.text(config)) == config


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The configuration after Ray's bootstrap, in an account with one default network and the two profiles."""
    import boto3
    from ray.autoscaler._private.aws.utils import client_cache, resource_cache

    from sweep.aws.spot_first import SpotFirst

    with pytest.MonkeyPatch.context() as monkeypatch, account(monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # where Ray puts the key
        resource_cache.cache_clear()  # Ray keeps clients, and with them moto's account of another test
        client_cache.cache_clear()
        sweep = sweep_on_aws()
        assert isinstance(sweep.cluster, Aws)
        iam = boto3.client("iam", "us-east-1")
        for role in access.roles(sweep.cluster, sweep.storage, "123456789012"):
            access.make(iam, role)
        image = boto3.client("ec2", "us-east-1").describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        config = generated()
        for node in node_configs(config):
            node["ImageId"] = image
        yield SpotFirst.bootstrap_config(ray_yaml.validated(config))
        resource_cache.cache_clear()
        client_cache.cache_clear()


def test_ssh_is_let_in_from_one_network_and_follows_it_at_the_next_launch(launcher: dict[str, Any]) -> None:
    import boto3

    from sweep.aws.spot_first import SpotFirst

    def rules() -> list[dict[str, Any]]:
        (group,) = {node["SecurityGroupIds"][0] for node in node_configs(launcher)}
        found: list[dict[str, Any]] = boto3.resource("ec2", "us-east-1").SecurityGroup(group).ip_permissions
        return found

    def ssh() -> list[str]:
        return [r["CidrIp"] for rule in rules() for r in rule.get("IpRanges", [])]

    assert ssh() == ["203.0.113.7/32"]
    assert [rule["IpProtocol"] for rule in rules() if not rule.get("IpRanges")] == ["-1"]
    assert all(pair["GroupId"] for rule in rules() for pair in rule.get("UserIdGroupPairs", []))
    again = copy.deepcopy(launcher)
    for node in node_configs(again):
        del node["SecurityGroupIds"]
    again["provider"]["ssh_from"] = "198.51.100.0/24"
    SpotFirst.bootstrap_config(again)
    assert ssh() == ["198.51.100.0/24"]


class Capacity:
    """EC2's RunInstances with refusals: (instance type, market) without capacity."""

    def __init__(
        self, provider: Any, refused: set[tuple[str, str]], code: str = "InsufficientInstanceCapacity"
    ) -> None:
        self.asked: list[tuple[str, str, str]] = []
        make = provider.ec2_fail_fast.create_instances

        def create_instances(**request: Any) -> Any:
            from botocore.exceptions import ClientError

            market = "spot" if "InstanceMarketOptions" in request else "on demand"
            self.asked.append((request["InstanceType"], market, request["SubnetId"]))
            if (request["InstanceType"], market) in refused:
                raise ClientError({"Error": {"Code": code, "Message": "no"}}, "RunInstances")
            return make(**request)

        provider.ec2_fail_fast = type("Ec2", (), {"create_instances": staticmethod(create_instances)})


SPOT = {("g5.xlarge", "spot"), ("g6.xlarge", "spot")}


@pytest.mark.parametrize(
    ("refused", "made"),
    [
        (set(), ("g5.xlarge", "spot")),
        ({("g5.xlarge", "spot")}, ("g6.xlarge", "spot")),
        (SPOT, ("g5.xlarge", "on demand")),
        (SPOT | {("g5.xlarge", "on demand")}, ("g6.xlarge", "on demand")),
    ],
)
def test_a_worker_is_any_type_as_spot_in_any_zone_and_then_on_demand(
    launcher: dict[str, Any], refused: set[tuple[str, str]], made: tuple[str, str]
) -> None:
    import boto3

    provider, node = provider_and_node(launcher, "worker")
    capacity = Capacity(provider, refused)
    (name,) = provider.create_node(node, {"ray-node-type": "worker"}, 1)
    assert capacity.asked[-1][:2] == made
    for wanted in refused:
        assert {zone for *asked, zone in capacity.asked if tuple(asked) == wanted} == set(node["SubnetIds"])
    (reservation,) = boto3.client("ec2", "us-east-1").describe_instances(InstanceIds=[name])["Reservations"]
    (machine,) = reservation["Instances"]
    assert (machine["InstanceType"], machine.get("InstanceLifecycle", "on demand")) == made
    assert {"Key": "anomaly-sweep", "Value": "table-1"} in machine["Tags"]


def test_no_capacity_anywhere_and_a_missing_right_are_said_as_they_are(launcher: dict[str, Any]) -> None:
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    everything = {(name, market) for name in ("g5.xlarge", "g6.xlarge") for market in ("spot", "on demand")}
    for code, tried in (("InsufficientInstanceCapacity", 4), ("UnauthorizedOperation", 1)):
        provider, node = provider_and_node(launcher, "worker")
        capacity = Capacity(provider, everything, code)
        with pytest.raises(NodeLaunchException) as caught:
            provider.create_node(node, {"ray-node-type": "worker"}, 1)
        assert caught.value.category == code
        assert len({asked[:2] for asked in capacity.asked}) == tried


def test_the_last_refusal_of_a_worker_is_left_for_the_driver_until_one_is_given(
    launcher: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    monkeypatch.setattr(refusal, "FILE", tmp_path / "refused")

    def ask(kind: str, code: str | None) -> str | None:
        provider, node = provider_and_node(launcher, kind)
        names = {node["InstanceType"], "g5.xlarge", "g6.xlarge"}
        everything = {(name, market) for name in names for market in ("spot", "on demand")}
        Capacity(provider, everything if code else set(), code or "")
        try:
            provider.create_node(node, {"ray-node-type": kind}, 1)
        except NodeLaunchException as refused:
            assert refused.category == code
        return refusal.last()

    assert ask("head", "InsufficientInstanceCapacity") is None, "a laptop asks for it, and says so itself"
    assert ask("worker", "VcpuLimitExceeded") == "VcpuLimitExceeded: no"
    assert ask("worker", "UnauthorizedOperation") == "UnauthorizedOperation: no"
    assert ask("worker", None) is None
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(refusal, "FILE", tmp_path / "nowhere/refused")
    assert ask("worker", "VcpuLimitExceeded") is None, "where nothing can be written, Ray hears of it all the same"


def test_what_is_left_of_a_refusal_can_be_read_by_a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusal, "FILE", tmp_path / "refused")
    refusal.leave("UnauthorizedOperation: You may not.\nEncoded authorization failure message: " + "x" * 1000)
    assert refusal.last() == "UnauthorizedOperation: You may not."
    refusal.leave("Code: " + "long " * 1000)
    assert len(refusal.last() or "") <= refusal.LONGEST


def test_the_head_is_on_demand_and_of_its_own_type_alone(launcher: dict[str, Any]) -> None:
    provider, node = provider_and_node(launcher, "head")
    capacity = Capacity(provider, set())
    provider.create_node(node, {"ray-node-type": "head"}, 1)
    assert {asked[:2] for asked in capacity.asked} == {("m6i.large", "on demand")}


def test_the_head_is_of_its_own_type_also_where_workers_may_be_of_it(launcher: dict[str, Any]) -> None:
    provider, node = provider_and_node(launcher, "head")
    provider.provider_config["worker_types"] = ["m6i.4xlarge", "m6i.large"]
    capacity = Capacity(provider, set())
    provider.create_node(node, {"ray-node-type": "head"}, 1)
    assert {asked[:2] for asked in capacity.asked} == {("m6i.large", "on demand")}


def provider_and_node(launcher: dict[str, Any], kind: str) -> tuple[Any, dict[str, Any]]:
    from sweep.aws.spot_first import SpotFirst

    provider = SpotFirst(launcher["provider"], launcher["cluster_name"])  # type: ignore[no-untyped-call]
    return provider, launcher["available_node_types"][kind]["node_config"]
