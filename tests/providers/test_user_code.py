"""The code of the user's own detectors: each provider checks that trials will find it."""

from __future__ import annotations

import importlib
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweep.errors import UserError
from sweep.launch.check import check
from sweep.providers import user_code
from sweep.providers.registry import provider_of
from sweep.spec.load import load
from sweep.spec.sweep import Sweep
from tests.support.sweeps import ROOT, environment, sweep

OWN = (ROOT / "tests/own_detector.py").read_text()
ONPREM = {"provider": "onprem", "hosts": ["gpu-1.example.org"], "cpus": 4}
SLURM = {"provider": "slurm", "cpus": 4}
EXISTING = {"provider": "existing", "address": "http://127.0.0.1:9", "cpus": 4, "gpus": 0}
AWS = {"provider": "aws", "worker": "g5.xlarge", "image": "ami-0123456789abcdef0", "ssh_from": "203.0.113.7"}
MADE: list[dict[str, Any]] = [ONPREM, AWS]  # machines make the environment themselves
READY: list[dict[str, Any]] = [
    {**ONPREM, "environment": "/opt/venv"}, {**AWS, "environment": "/opt/venv"}, {**SLURM, "environment": "/opt/venv"},
    EXISTING,
]  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a tree that would be shipped, from which modules are imported."""
    root = tmp_path / "tree"
    (root / "extras").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    (root / ".gitignore").write_text("ignored_*\n")
    (root / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    before = set(sys.modules)
    for folder in (tmp_path, root, root / "extras"):
        monkeypatch.syspath_prepend(str(folder))
    yield root
    for name in set(sys.modules) - before:
        if name.startswith(("mine_", "ignored_")):
            del sys.modules[name]


def sweep_with(cluster: dict[str, Any], module: str, folder: Path) -> Sweep:
    """Return a sweep with one detector of `module`."""
    importlib.invalidate_caches()
    raw = {
        "storage": "s3://a-bucket/x", "cluster": cluster, "budget": {"max_hours": 1},
        "sweep": {"name": "own", "studies": [{
            "name": "own", "kind": "error_bars", "datasets": ["digits"], "abnormal": [0],
            "detectors": [f"{module}:DenoisingAutoencoder", "knn"],
        }]},
    }  # fmt: skip
    path = folder / "own.yaml"
    path.write_text(yaml.safe_dump(raw))
    return load(path)


def states(sweep: Sweep, root: Path) -> tuple[list[str], bool]:
    """Return the states of the findings, and whether a plan shows any of them."""
    return [line.state for line in user_code.findings(provider_of(sweep), root)], bool(
        user_code.cautions(provider_of(sweep), root)
    )


@pytest.mark.parametrize("cluster", [*MADE, *READY, SLURM])
def test_a_module_of_the_tree_goes_with_the_code(cluster: dict[str, Any], tree: Path, tmp_path: Path) -> None:
    (tree / "mine_inside.py").write_text(OWN)
    assert states(sweep_with(cluster, "mine_inside", tmp_path), tree) == (["ok"], False)


@pytest.mark.parametrize("cluster", [*MADE, *READY, SLURM])
def test_a_module_that_lies_elsewhere_is_told_with_the_fix(cluster: dict[str, Any], tree: Path, tmp_path: Path) -> None:
    (tmp_path / "mine_outside.py").write_text(OWN)
    found = sweep_with(cluster, "mine_outside", tmp_path)
    (line,) = user_code.findings(provider_of(found), tree)
    assert line in user_code.cautions(provider_of(found), tree)
    assert f"{tmp_path}/mine_outside.py is outside of the code that is shipped" in line.found
    assert f"move it into {tree}" in line.fix
    if cluster in MADE:
        assert line.state == "not ok"
        with pytest.raises(UserError, match="detector mine_outside: "):
            user_code.refuse(provider_of(found), tree)
    else:
        assert line.state == "unknown", "it may be installed there"
        assert "install it there" in line.fix
        user_code.refuse(provider_of(found), tree)


def test_a_module_that_git_ignores_or_that_machines_import_by_another_name_is_told(tree: Path, tmp_path: Path) -> None:
    (tree / "ignored_one.py").write_text(OWN)
    (line,) = user_code.findings(provider_of(sweep_with(ONPREM, "ignored_one", tmp_path)), tree)
    assert (line.state, line.fix) == ("not ok", "remove it from .gitignore")
    (tree / "extras/mine_extra.py").write_text(OWN)
    (line,) = user_code.findings(provider_of(sweep_with(ONPREM, "mine_extra", tmp_path)), tree)
    assert line.state == "not ok"
    assert "extras/mine_extra.py is shipped with the code, but trials import modules only from" in line.found


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that counts as the folder of installed packages."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "mine_installed.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sysconfig, "get_path", lambda kind: str(folder))
    return folder


def distribution(folder: Path, name: str) -> None:
    """Add metadata which name the package of the module."""
    (folder / f"{name}-1.dist-info").mkdir()
    (folder / f"{name}-1.dist-info/METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (folder / f"{name}-1.dist-info/RECORD").write_text("mine_installed.py,,\n")


def test_a_package_is_no_problem_where_the_environment_may_have_it(tree: Path, installed: Path, tmp_path: Path) -> None:
    distribution(installed, "mine")
    for cluster in READY:
        assert states(sweep_with(cluster, "mine_installed", tmp_path), tree) == (["unknown"], False)
    assert states(sweep_with(SLURM, "mine_installed", tmp_path), tree) == (["ok"], False), (
        "nodes share this environment"
    )


@pytest.mark.parametrize("cluster", MADE)
def test_a_package_has_to_be_named_where_machines_make_their_environment(
    cluster: dict[str, Any], tree: Path, installed: Path, tmp_path: Path
) -> None:
    distribution(installed, "mine")
    found = sweep_with(cluster, "mine_installed", tmp_path)
    (line,) = user_code.findings(provider_of(found), tree)
    assert (line.state, user_code.cautions(provider_of(found), tree)) == ("not ok", [line])
    assert "package mine is installed here" in line.found
    project = tree / "pyproject.toml"
    project.write_text(project.read_text().replace('  "defusedxml",', '  "defusedxml",\n  "mine",'))
    assert states(found, tree) == (["ok"], False)


def test_what_a_named_package_needs_comes_with_it() -> None:
    found = user_code._required_packages(ROOT / "pyproject.toml")
    assert {"torch", "scikit-learn", "joblib"} <= found
    assert "pytest" not in found, "it is needed for development only"


def test_here_nothing_is_shipped_and_catalogued_detectors_are_no_own_code(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "mine_local.py").write_text(OWN)
    assert user_code.findings(provider_of(sweep_with({"provider": "local"}, "mine_local", tmp_path)), tree) == []


def test_check_plan_and_launch_say_so(tmp_path: Path) -> None:
    (tmp_path / "mine_verbs.py").write_text(OWN)
    store = tmp_path / "store"
    raw = {
        "storage": str(store), "cluster": {**ONPREM, "ssh_user": "nobody"}, "sweep": {"name": "own", "studies": [{
            "name": "own", "kind": "error_bars", "datasets": ["digits"], "abnormal": [0],
            "detectors": ["mine_verbs:DenoisingAutoencoder"],
        }]},
    }  # fmt: skip
    config = tmp_path / "own.yaml"
    config.write_text(yaml.safe_dump(raw))
    entry = {"PYTHONPATH": f"{environment()['PYTHONPATH']}:{tmp_path}"}
    message = "mine_verbs.py is outside of the code that is shipped"
    run = sweep("plan", config, **entry)
    assert run.returncode == 0, run.stderr
    assert message in " ".join(run.stdout.split())
    run = sweep("launch", config, "-y", **entry)
    assert run.returncode == 1
    assert message in run.stderr
    assert not (store / "sweeps").exists(), "nothing was started"


def test_check_has_a_line_for_each_module(tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_checked.py").write_text(OWN)
    monkeypatch.setattr("sweep.providers.existing.provider.ExistingProvider.findings", lambda self, fix: iter(()))
    found = sweep_with(EXISTING, "mine_checked", tmp_path)
    lines = check(found.model_copy(update={"storage": str(tmp_path / "store")})).findings
    assert [line.state for line in lines if line.name == "detector mine_checked"] == ["unknown"]
