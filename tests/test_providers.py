"""Keys of `cluster:` by provider: every fault at once, each with its place and what is legal."""

from __future__ import annotations

from typing import Any

import pytest
from aws_sweeps import STUDY, sweep_on_aws

from sweep.faults import UserError
from sweep.providers import Aws, Local
from sweep.spec import Sweep, resolve


def faults_of(**sections: Any) -> list[str]:
    raw = {"storage": "s3://b/p", "budget": {"max_hours": 1}, "sweep": {"name": "n", "studies": [STUDY]}, **sections}
    with pytest.raises(UserError) as caught:
        resolve(raw)
    return caught.value.faults


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"provider": "awz"}, "cluster.provider: unknown provider 'awz', did you mean 'aws'? (legal: aws, local)"),
        (3, "cluster: must be keys and values, e.g. {provider: local}, is 3"),
        ({"provider": "aws", "cpus": 3}, "cluster: unknown key 'cpus'"),
        ({"provider": "local", "region": "us-east-1"}, "cluster: unknown key 'region'"),
        ({"provider": "aws", "region": "mars"}, "cluster.region: "),
        ({"provider": "aws", "zones": ["us-west-2a"]}, "zones must be auto or zones of us-east-1"),
        ({"provider": "aws", "zones": []}, "zones must be auto or zones of us-east-1"),
        ({"provider": "aws", "worker": ["g5"]}, "must be an instance type of EC2, e.g. g5.xlarge, is 'g5'"),
        ({"provider": "aws", "worker": []}, "cluster.worker: "),
        ({"provider": "aws", "image": "ubuntu"}, "must be auto or the id of an image"),
        ({"provider": "aws", "ssh_from": "0.0.0.0/0"}, "opens SSH to everybody"),
        ({"provider": "aws", "ssh_from": "::/0"}, "opens SSH to everybody"),
        ({"provider": "aws", "ssh_from": "here"}, "must be auto, an address or a network"),
        ({"provider": "aws", "head_profile": "a b"}, "cluster.head_profile: "),
        ({"provider": "aws", "max_workers": 0}, "cluster.max_workers: "),
        ({"provider": "aws", "prices": {"g5.xlarge": {"spo": 1}}}, "'spo', did you mean 'spot'?"),
        ({"provider": "aws", "environment": "venv; rm -rf /"}, "cluster.environment: "),
    ],
)
def test_a_fault_of_the_cluster_says_what_is_legal(cluster: Any, message: str) -> None:
    faults = faults_of(cluster=cluster)
    assert any(message in fault for fault in faults), faults


def test_what_a_cloud_needs_is_asked_for_beside_all_other_faults() -> None:
    faults = faults_of(cluster={"provider": "aws", "max_worker": 1}, storage="./here", budget={})
    places = sorted(fault.partition(":")[0] for fault in faults)
    assert places == ["budget.max_hours", "cluster", "storage"]


def test_one_worker_may_be_given_without_a_list_and_an_address_without_a_mask() -> None:
    cluster = sweep_on_aws({"worker": "g5.xlarge", "ssh_from": "203.0.113.7"}).cluster
    assert isinstance(cluster, Aws)
    assert (cluster.worker, cluster.ssh_from) == (("g5.xlarge",), "203.0.113.7/32")


def test_a_sweep_on_ec2_survives_json_and_no_cluster_is_this_machine() -> None:
    sweep = sweep_on_aws({"ray": {"max_workers": 3}, "prices": {"g5.xlarge": {"spot": 0.4}}})
    assert Sweep.model_validate_json(sweep.model_dump_json()) == sweep
    assert resolve({"storage": "./r", "sweep": {"studies": [STUDY]}}).cluster == Local.model_validate({})
