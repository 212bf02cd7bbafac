"""`check` and `plan` for this machine and for EC2, as a user runs them."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import boto3
import pytest
import yaml

from sweep.launch.check import check
from sweep.providers.aws.ray_config import CLUSTER_TAG
from sweep.providers.finding import Finding, table
from sweep.providers.local_files import cluster_name
from sweep.spec.load import load
from tests.support.s3_servers import S3Server
from tests.support.sweeps import ROOT, sweep, write_config

STUDY = {"detectors": ["constant"], "abnormal": [0]}
NOWHERE = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "NO_PROXY": "127.0.0.1",
}
SOON = ("--set", "budget.outage_seconds=0.5")  # seconds after which a call to the store is given up


@pytest.fixture
def on_aws(tmp_path: Path) -> Path:
    """Return a sweep on EC2 with a given network and image, so that AWS is not asked for them."""
    cluster = {"provider": "aws", "image": "ami-0123456789abcdef0", "ssh_from": "203.0.113.7", "worker": "g5.xlarge"}
    return write_config(tmp_path, [STUDY], cluster=cluster, budget={"max_hours": 2}, storage="s3://sweep-bucket/x")


def test_this_machine_is_checked_and_left_as_it_was(tmp_path: Path) -> None:
    config = write_config(tmp_path, [STUDY])
    run = sweep("check", config, "--json")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert {f["name"]: f["state"] for f in found["findings"]} == {"storage": "ok", "data digits": "ok", "slots": "ok"}
    assert (found["passed"], found["commands"]) == (True, {})
    assert list((tmp_path / "store").rglob("checks/*")) == []


def test_what_this_machine_has_not_is_not_ok_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file where the store's folder should be")
    config = write_config(tmp_path, [{**STUDY, "datasets": ["mnist"]}], cluster={"cpus": 9999})
    run = sweep("check", config)
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert "9999 requested" in run.stdout
    assert run.stdout.count("not ok") >= 2


def test_data_that_nobody_can_read_are_not_ok_and_data_in_the_store_are(tmp_path: Path) -> None:
    config = write_config(tmp_path, [{**STUDY, "datasets": ["digits", "mnist"]}])
    assert sweep("data", "put", "digits", config).returncode == 0
    findings = {f.name: f for f in check(load(config)).findings}
    assert (findings["data digits"].state, findings["data digits"].found) == ("ok", "in the store")
    assert findings["data mnist"].state == "not ok" and "data.root" in findings["data mnist"].fix
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/file").touch()
    findings = {f.name: f for f in check(load(config, [f"data.root={tmp_path / 'raw'}"])).findings}
    assert findings["data mnist"].state == "unknown" and "data put mnist" in findings["data mnist"].fix


def test_a_store_that_cannot_be_reached_leaves_what_is_done_unknown(on_aws: Path) -> None:
    run = sweep("plan", on_aws, *SOON, **NOWHERE)
    assert run.returncode == 0, run.stderr
    assert "1 trials, done: unknown" in run.stdout
    assert "to upload: unknown" in run.stdout
    plan = json.loads(sweep("plan", on_aws, *SOON, "--json", **NOWHERE).stdout)
    assert (plan["trials"], plan["done"], plan["to_run"]) == (1, None, 1)
    assert "127.0.0.1:9" in plan["store"]
    assert plan["aws"]["workers"] == 1


def test_a_plan_on_ec2_says_machines_dollars_and_uploads(on_aws: Path, moto: S3Server) -> None:
    cats = ["--set", "sweep.studies.0.datasets=[cifar10]", "--set", "sweep.studies.0.abnormal=[cat]"]
    environment = {**moto.environment(), "AWS_ENDPOINT_URL": moto.endpoint}
    run = sweep("plan", on_aws, *cats, **environment)
    assert run.returncode == 0, run.stderr
    text = " ".join(run.stdout.split())
    assert "1 trials = 0 done + 1 to run" in text
    assert "aws us-east-1: 1 worker g5.xlarge" in text
    assert "one GPU is enough" in text
    assert "dollars of instances: about $" in text
    assert "to upload: cifar10 (60,000 images, 46 MB before compression)" in text, "16 x 16 pixels, as in the YAML"
    assert "datasets=[cifar10]" in text, "the launch command has all assignments"
    page = " ".join((ROOT / "clusters/README.md").read_text().split())
    for phrase in (
        "(spot, or on demand without spot capacity; ",
        " of boot and set-up; budget.max_hours ",
        " as spot, about $",
    ):
        assert phrase in text and phrase in page, "the page shows what is printed"


def test_the_configuration_for_rays_launcher_is_printed_and_was_checked_by_ray(on_aws: Path, moto: S3Server) -> None:
    run = sweep("plan", on_aws, "--ray-yaml", **moto.environment())
    assert run.returncode == 0, run.stderr
    config = yaml.safe_load(run.stdout)
    assert config["provider"]["module"] == "sweep.providers.aws.node_provider.SpotFirst"
    assert config["provider"]["ssh_from"] == "203.0.113.7/32"
    bad = sweep("plan", on_aws, "--ray-yaml", "--set", "cluster.ray.max_wrkers=1", **moto.environment())
    assert bad.returncode == 1
    assert "max_wrkers" in bad.stderr and "Traceback" not in bad.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launch", "-y"], "cannot list s3://"),
        (["status"], "cannot list s3://"),
        (["down", "-y"], "EC2: cannot list the resources of the sweep"),
    ],
)
def test_a_cloud_that_cannot_be_reached_is_one_clear_problem(on_aws: Path, words: list[str], message: str) -> None:
    verb, *more = words
    run = sweep(verb, on_aws, *more, *SOON, **NOWHERE)
    assert run.returncode == 1
    assert message in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("provider", ["aws", "onprem", "slurm", "existing"])
def test_a_yaml_as_it_came_is_told_to_be_edited_before_all_else(provider: str) -> None:
    config = ROOT / f"clusters/{provider}.yaml"
    text = yaml.safe_load(config.read_text())["storage"]
    run = sweep("launch", config, "-y", **NOWHERE)
    assert run.returncode == 1
    assert run.stderr.startswith(f"error: storage: {text} is a placeholder; edit that line of the YAML"), run.stderr
    placeholders = 2 if provider == "onprem" else 1  # storage, and hosts
    assert run.stderr.count("error:") == placeholders, run.stderr


def test_hosts_that_are_placeholders_are_not_asked() -> None:
    found = {line.name: line for line in check(load(ROOT / "clusters/onprem.yaml")).findings}
    assert found["cluster.hosts"].state == "not ok"
    assert "--set cluster.hosts=" in found["cluster.hosts"].fix
    assert found["hosts"].found == "not tried before cluster.hosts is edited"
    assert not [name for name in found if name.startswith("host ")]


def test_credentials_and_a_placeholder_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NOWHERE.items():
        monkeypatch.setenv(name, value)
    found = {line.name: line for line in check(load(ROOT / "clusters/aws.yaml")).findings}
    assert next(iter(found)) == "storage"
    assert (found["storage"].state, found["credentials"].state) == ("not ok", "not ok")
    assert "s3://your-bucket/prefix" in found["storage"].fix


def test_a_placeholder_is_not_made_a_folder_of(tmp_path: Path) -> None:
    storage = tmp_path / "EDIT-THIS-FOLDER/anomaly"
    cluster = {"provider": "onprem", "hosts": ["192.0.2.1"], "cpus": 2, "ssh_user": "nobody"}
    config = write_config(tmp_path, [STUDY], cluster=cluster, storage=str(storage))
    found = check(load(config)).findings
    assert [(line.name, line.state) for line in found[:2]] == [("storage", "not ok"), ("data", "unknown")]
    assert any(line.name in ("here", "host 192.0.2.1") for line in found), "everything else is checked nevertheless"
    assert not storage.parent.exists()


def test_down_shows_what_is_there_asks_and_removes_it_without_the_store(on_aws: Path, moto: S3Server) -> None:
    environment = {**moto.environment(), "AWS_ENDPOINT_URL": moto.endpoint, "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}
    name = cluster_name(load(on_aws))
    tags = [{"ResourceType": "key-pair", "Tags": [{"Key": CLUSTER_TAG, "Value": name}]}]
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "y", "region_name": "us-east-1"}
    ec2 = boto3.client("ec2", endpoint_url=moto.endpoint, **keys)
    ec2.create_key_pair(KeyName=name, TagSpecifications=tags)
    unasked = sweep("down", on_aws, *SOON, **environment)
    assert unasked.returncode == 1
    assert f"key pair {name}" in unasked.stdout and "add -y" in unasked.stderr
    assert len(ec2.describe_key_pairs()["KeyPairs"]) == 1
    down = sweep("down", on_aws, "-y", *SOON, **environment)
    assert down.returncode == 0, down.stderr
    assert down.stdout.count(f"key pair {name}") == 2, "found, then removed"
    assert ec2.describe_key_pairs()["KeyPairs"] == []
    assert "nothing of this sweep was found" in sweep("down", on_aws, *SOON, **environment).stdout


def test_rays_launcher_has_no_part_in_a_sweep_on_this_machine(tmp_path: Path) -> None:
    run = sweep("plan", write_config(tmp_path, [STUDY]), "--ray-yaml")
    assert run.returncode == 1
    assert "use it with provider aws" in run.stderr


def test_every_finding_is_shown_with_its_fix() -> None:
    from rich.console import Console

    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table([Finding("disk", "ok", "fine"), Finding("quota", "not ok", "too small [x]", "ask: https://y")]))
    text = console.export_text()
    assert "too small [x]" in text and "-> ask: https://y" in text
