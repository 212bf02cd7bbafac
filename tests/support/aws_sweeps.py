"""Sweeps on EC2, and an AWS account of moto, for tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from moto import mock_aws

from sweep.providers.aws import ray_config
from sweep.providers.aws.instances import worker
from sweep.spec.load import resolve
from sweep.spec.sweep import Sweep

BUCKET = "a-bucket-of-mine"
STUDY = {"name": "s", "kind": "error_bars", "detectors": ["ganomaly"], "datasets": ["digits"], "abnormal": [0, 1]}
RESOLVED = ray_config.Resolved(
    image="ami-0123456789abcdef0",
    ssh_from="203.0.113.7/32",
    deadline=1_900_000_000,
    workers=4,
    code=Path("/somewhere/code"),
    token=Path("/somewhere/token"),
    key=Path("/somewhere/key"),
)


def sweep_on_aws(cluster: dict[str, Any] | None = None, **sections: Any) -> Sweep:
    """Return a valid sweep, with some keys of `cluster`, or whole sections, replaced."""
    raw = {
        "storage": f"s3://{BUCKET}/some/prefix",
        "budget": {"max_hours": 12},
        "sweep": {"name": "table-1", "studies": [STUDY]},
        **sections,
    }
    return resolve({**raw, "cluster": {"provider": "aws", **(cluster or {})}})


def generated(cluster: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """Return the configuration for Ray's launcher of such a sweep."""
    sweep = sweep_on_aws(cluster, **sections)
    return ray_config.configuration(sweep, worker(sweep), RESOLVED)


def node_configs(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the requests to EC2 in a configuration: for the head, and for a worker."""
    return [node["node_config"] for node in config["available_node_types"].values()]


@contextmanager
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use an empty AWS account of moto in this process, and none of the user's own settings."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with mock_aws():
        yield
