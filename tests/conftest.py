"""Fixtures for all test files: S3 servers, and a way to report that a test cannot run here."""

from __future__ import annotations

import os
import shutil
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.s3_servers import S3Server, ServerStartError, moto_server, seaweed_server

collect_ignore = (
    [] if shutil.which("nvidia-smi") else ["trial/test_gpu.py"]
)  # without a GPU this file is not even reported as skipped


# A process that a shell starts in the background ignores Ctrl-C, and its children inherit that.  Tests interrupt their
# children, so the default is restored here.
signal.signal(signal.SIGINT, signal.default_int_handler)


def unavailable(reason: str) -> NoReturn:
    """Skip a test that cannot run on this machine; if SWEEP_CI is 1 it must run, so it fails."""
    if os.environ.get("SWEEP_CI") == "1":
        pytest.fail(f"cannot run here, and SWEEP_CI=1 allows no skip: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A moto server for the whole test run, started when it is first requested."""
    try:
        with moto_server(tmp_path_factory.mktemp("moto")) as server:
            yield server
    except ServerStartError as reason:
        unavailable(str(reason))


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A SeaweedFS server for the whole test run, started when it is first requested."""
    try:
        with seaweed_server(tmp_path_factory.mktemp("seaweed")) as server:
            yield server
    except ServerStartError as reason:
        unavailable(str(reason))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute with one thread, so that sums have a fixed order and small networks are fast."""
    import torch  # it takes 2 s, and most test files do not need it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder_url(tmp_path: Path) -> str:
    """Address of an empty store in a folder."""
    return str(tmp_path / "store")


@pytest.fixture
def moto_url(moto: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of an empty store on moto that this test and its child processes can open."""
    return _fresh_url(moto, monkeypatch)


@pytest.fixture
def seaweed_url(seaweed: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of an empty store on SeaweedFS that this test and its child processes can open."""
    return _fresh_url(seaweed, monkeypatch)


def _fresh_url(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    return f"s3://{server.bucket}/{uuid.uuid4().hex}/a b'ü"
