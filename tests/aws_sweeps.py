"""Sweeps on EC2, and an AWS account answered by moto, for tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from moto import mock_aws

from sweep.spec import Sweep, resolve

BUCKET = "a-bucket-of-mine"
STUDY = {"name": "s", "kind": "error_bars", "detectors": ["ganomaly"], "datasets": ["digits"], "abnormal": [0, 1]}


def sweep_on_aws(cluster: dict[str, Any] | None = None, **sections: Any) -> Sweep:
    """A valid sweep with some keys of `cluster`, or whole sections, replaced."""
    raw = {
        "storage": f"s3://{BUCKET}/some/prefix",
        "budget": {"max_hours": 12},
        "sweep": {"name": "table-1", "studies": [STUDY]},
        **sections,
    }
    return resolve({**raw, "cluster": {"provider": "aws", **(cluster or {})}})


@contextmanager
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty AWS account in this process, and nothing of the user's own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with mock_aws():
        yield
