"""The cloud as a fixture, or the reason why it cannot be made here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.conftest import unavailable
from tests.lab.cloud import Cloud, cloud
from tests.lab.sweeps import TRAINED_LOG, impatient
from tests.support.s3_servers import ServerStartError

PROGRAMS = {  # programs, and their packages in Debian
    "ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux", "setpriv": "util-linux",
    "/usr/sbin/sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync", "sudo": "sudo", "git": "git",
}  # fmt: skip


@pytest.fixture(scope="session")
def lab_is_possible() -> None:
    """Skip a test if machines cannot be made here; if SWEEP_CI is 1, it fails."""
    if os.geteuid() != 0:
        unavailable("machines are made of namespaces, which needs root")
    lacking = {package for program, package in PROGRAMS.items() if shutil.which(program) is None}
    if lacking:
        unavailable(f"Debian packages are missing: {' '.join(sorted(lacking))}")


@pytest.fixture(scope="module", name="cloud")
def a_cloud(lab_is_possible: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Yield a cloud that the tests of one file share."""
    try:
        with cloud(tmp_path_factory.mktemp("cloud"), impatient, {"TRAINED_LOG": TRAINED_LOG}) as made:
            yield made
    except ServerStartError as reason:
        unavailable(str(reason))
