"""Keys of `cluster:` by provider: all problems are reported at once, each with its key and the legal values."""

from __future__ import annotations

from typing import Any

import pytest

from sweep.errors import UserError
from sweep.spec.cluster import Aws, Local, Slurm
from sweep.spec.load import resolve
from sweep.spec.sweep import Sweep
from tests.support.aws_sweeps import STUDY, sweep_on_aws


def problems_of(**sections: Any) -> list[str]:
    raw = {"storage": "s3://b/p", "budget": {"max_hours": 1}, "sweep": {"name": "n", "studies": [STUDY]}, **sections}
    with pytest.raises(UserError) as caught:
        resolve(raw)
    return caught.value.problems


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        (
            {"provider": "awz"},
            "unknown provider 'awz', did you mean 'aws'? (legal: aws, existing, local, onprem, slurm)",
        ),
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
        ({"provider": "onprem", "cpus": 4}, "cluster.hosts: must be given"),
        ({"provider": "onprem", "hosts": [], "cpus": 4}, "cluster.hosts: "),
        ({"provider": "onprem", "hosts": ["a"]}, "cluster.cpus: must be given"),
        ({"provider": "onprem", "hosts": ["a", "b", "a"], "cpus": 4}, "hosts: each once; more than once: a"),
        ({"provider": "onprem", "hosts": ["-oProxyCommand=x"], "cpus": 4}, "must be an address or the name of a host"),
        ({"provider": "onprem", "hosts": ["a"], "cpus": 4, "gpus": 2}, "gpus needs gpu"),
        ({"provider": "onprem", "hosts": ["a"], "cpus": 4, "environment": "venv"}, "cluster.environment: "),
        ({"provider": "slurm"}, "cluster.cpus: must be given"),
        ({"provider": "slurm", "cpus": 4, "partion": "x"}, "unknown key 'partion', did you mean 'partition'?"),
        ({"provider": "slurm", "cpus": 4, "partition": "a b"}, "cluster.partition: must be one word"),
        (
            {"provider": "slurm", "cpus": 4, "walltime": "2 hours"},
            "cluster.walltime: must be [DAYS-]HOURS:MINUTES:SECONDS",
        ),
        ({"provider": "slurm", "cpus": 4, "walltime": 43200}, 'in quotes, e.g. "12:00:00", is 43200'),
        ({"provider": "slurm", "cpus": 4, "walltime": "00:05:00"}, "must be more than twice signal_seconds, 180"),
        ({"provider": "slurm", "cpus": 4, "options": ["--time=1"]}, "--time is set by this project (walltime)"),
        ({"provider": "slurm", "cpus": 4, "options": ["-A x"]}, "must be a long option of sbatch"),
        ({"provider": "slurm", "cpus": 4, "options": ["--mem=1\nrm -rf /"]}, "must be a long option of sbatch"),
        ({"provider": "slurm", "cpus": 4, "scratch": "/a/folder/with/a/name/that/is/too/long"}, "cluster.scratch: "),
        ({"provider": "existing"}, "cluster.address: must be given"),
        ({"provider": "existing", "address": "ray://head:10001"}, "must be the address of a Ray dashboard"),
        ({"provider": "existing", "address": "http://me:secret@head"}, "must be the address of a Ray dashboard"),
        ({"provider": "existing", "address": "http://h", "gpus": 2}, "gpus needs gpu"),
        ({"provider": "existing", "address": "http://h", "python": "python -c x"}, "cluster.python: "),
    ],
)
def test_a_problem_of_the_cluster_says_what_is_legal(cluster: Any, message: str) -> None:
    problems = problems_of(cluster=cluster)
    assert any(message in problem for problem in problems), problems


def test_what_a_cloud_needs_is_asked_for_beside_all_other_problems() -> None:
    problems = problems_of(cluster={"provider": "aws", "max_worker": 1}, storage="./here", budget={})
    places = sorted(problem.partition(":")[0] for problem in problems)
    assert places == ["budget.max_hours", "cluster", "storage"]


@pytest.mark.parametrize("storage", ["./results", "results", "~/results"])
@pytest.mark.parametrize(
    "cluster",
    [
        {"provider": "onprem", "hosts": ["a"], "cpus": 1},
        {"provider": "slurm", "cpus": 1},
        {"provider": "existing", "address": "http://h:8265"},
    ],
)
def test_a_storage_that_other_machines_cannot_see_is_a_problem(cluster: dict[str, Any], storage: str) -> None:
    (problem,) = problems_of(cluster=cluster, storage=storage)
    assert problem.startswith(f"storage: must be s3://bucket/prefix on {cluster['provider']}, or an absolute folder")
    for legal in ("s3://b/p", "/nfs/results"):
        raw = {"cluster": cluster, "storage": legal, "sweep": {"name": "n", "studies": [STUDY]}}
        sweep = resolve(raw)
        assert Sweep.model_validate_json(sweep.model_dump_json()) == sweep


def test_a_walltime_is_read_as_slurm_reads_it() -> None:
    for walltime, seconds in (("00:10:00", 600), ("1-00:00:00", 86400), ("100:00:30", 360030)):
        raw = {"provider": "slurm", "cpus": 1, "walltime": walltime}
        cluster = resolve({"cluster": raw, "storage": "/x", "sweep": {"name": "n", "studies": [STUDY]}}).cluster
        assert isinstance(cluster, Slurm) and cluster.seconds == seconds


def test_one_worker_may_be_given_without_a_list_and_an_address_without_a_mask() -> None:
    cluster = sweep_on_aws({"worker": "g5.xlarge", "ssh_from": "203.0.113.7"}).cluster
    assert isinstance(cluster, Aws)
    assert (cluster.worker, cluster.ssh_from) == (("g5.xlarge",), "203.0.113.7/32")


def test_a_sweep_on_ec2_survives_json_and_no_cluster_is_this_machine() -> None:
    sweep = sweep_on_aws({"ray": {"max_workers": 3}, "prices": {"g5.xlarge": {"spot": 0.4}}})
    assert Sweep.model_validate_json(sweep.model_dump_json()) == sweep
    assert resolve({"storage": "./r", "sweep": {"studies": [STUDY]}}).cluster == Local.model_validate({})
