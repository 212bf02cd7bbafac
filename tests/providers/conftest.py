"""Fixtures of the provider contract: every provider, with stand-ins for its machines (`premises`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweep.providers import shipping
from sweep.providers.base import Provider
from sweep.providers.registry import PROVIDERS, provider_of
from sweep.spec.load import resolve
from tests.providers.premises import Ec2Premises, Premises, RayPremises, SlurmPremises, SshPremises
from tests.support.aws_sweeps import STUDY, account
from tests.support.providers import Dashboard, serving


@pytest.fixture(scope="module")
def ec2_account() -> Iterator[None]:
    """Use one AWS account of moto for a whole module, which saves two seconds a test; each test has another sweep."""
    with pytest.MonkeyPatch.context() as patch, account(patch):
        yield


@pytest.fixture
def aws_premises(ec2_account: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Premises:
    return Ec2Premises(tmp_path, monkeypatch)


@pytest.fixture
def onprem_premises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Premises]:
    premises = SshPremises(tmp_path, monkeypatch)
    try:
        yield premises
    finally:
        premises.close()


@pytest.fixture
def slurm_premises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Premises:
    return SlurmPremises(tmp_path, monkeypatch)


@pytest.fixture
def existing_premises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Premises]:
    monkeypatch.setenv("HOME", str(tmp_path))
    with serving(Dashboard()) as dashboard:
        yield RayPremises(dashboard)


@pytest.fixture
def small_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ship a tree that is smaller than this project's, and use a separate cache."""
    folder = tmp_path / "tree"
    (folder / "sweep").mkdir(parents=True)
    (folder / "sweep/driver.py").write_text("print('it drives')")
    monkeypatch.setattr(shipping, "ROOT", folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(params=["aws", "onprem", "slurm", "existing"])
def premises(request: pytest.FixtureRequest, small_tree: None) -> Premises:
    """Return the stand-ins of each provider with machines other than this one."""
    made: Premises = request.getfixturevalue(f"{request.param}_premises")
    return made


@pytest.fixture(params=list(PROVIDERS))
def provider(request: pytest.FixtureRequest, small_tree: None, tmp_path: Path) -> Provider[Any]:
    """Return each provider of the registry."""
    if request.param == "local":
        return provider_of(resolve({"storage": str(tmp_path / "store"), "sweep": {"name": "n", "studies": [STUDY]}}))
    premises: Premises = request.getfixturevalue(f"{request.param}_premises")
    return premises.provider
