"""Trials that look at pretrained features: computed once for a dataset and node, and never of another value."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.storage.loader import load
from models import pretrained
from models.pretrained import MissingWeights
from models.references.features import PretrainedFeatures
from sweep.errors import UserError
from sweep.spec.trial import TrialSpec
from sweep.store import open_store
from sweep.store.attempts import Interrupted
from sweep.store.base import Store
from sweep.trial import build, trained
from sweep.trial.options import Options
from sweep.trial.run import run_trial
from tests.support.random_weights import random_weights
from tests.trial.test_run import finish, numbers, spec_of, stored

SMALL = {"resolution": 32}


def spec(detector: str = "feature_knn", **changes: Any) -> TrialSpec:
    made = spec_of(detector, **changes)
    values = {**made.hyperparameters, **SMALL, "weights": random_weights()}
    variant = "plain" if detector == "feature_knn" else "pretrained"
    from dataclasses import replace

    return replace(made, hyperparameters=values, variant=variant)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of images of each call that computes features."""
    counts: list[int] = []
    plain = PretrainedFeatures.__call__

    def counted(self: PretrainedFeatures, images: torch.Tensor) -> torch.Tensor:
        counts.append(len(images))
        return plain(self, images)

    monkeypatch.setattr(PretrainedFeatures, "__call__", counted)
    return counts


def test_trials_of_one_dataset_compute_its_features_once(store: Store, tmp_path: Path, computed: list[int]) -> None:
    finish(spec(), store, tmp_path, lam=None)
    assert sum(computed) == 1797
    finish(spec(abnormal="1"), store, tmp_path, lam=None)
    finish(spec("mahalanobis"), store, tmp_path, lam=None)
    assert sum(computed) == 1797


@pytest.mark.parametrize("detector", ["feature_knn", "isolation_forest"])
def test_a_cold_and_a_warm_cache_give_the_same_bits(detector: str, prepared: Path, tmp_path: Path) -> None:
    results, scores = [], []
    for number, cache in enumerate(("one", "two", "two")):
        shutil.copytree(prepared / "datasets", tmp_path / str(number) / "datasets")
        made = open_store(str(tmp_path / str(number)))
        results.append(numbers(finish(spec(detector), made, tmp_path / cache, lam=None)))
        scores.append(stored(made, spec(detector), "scores.parquet"))
    assert results[0] == results[1] == results[2]
    assert scores[0] == scores[1] == scores[2]


def test_a_stop_between_chunks_is_an_interruption_and_what_was_computed_stays(
    store: Store, tmp_path: Path, computed: list[int]
) -> None:
    running = run_trial(spec(), store, Options(cache=tmp_path, lambda_default=None))
    next(running)
    with pytest.raises(Interrupted):
        running.send(True)
    before = sum(computed)
    assert 0 < before < 1797
    assert finish(spec(), store, tmp_path, lam=None)["status"] == "ok"
    assert sum(computed) == 1797


def test_new_images_are_scored_as_those_of_the_dataset(store: Store, tmp_path: Path) -> None:
    record = finish(spec(), store, tmp_path, lam=None, keep_weights=True)
    made = trained.load(store, record, None)
    dataset = load(store, "digits", "s16-bilinear-1", tmp_path)
    import io

    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(stored(store, spec(), "scores.parquet"))).to_pandas()
    rows = table[table.evaluation == "clean"].drop_duplicates("sample_id").head(50)
    places = [int(np.flatnonzero(dataset.sample_ids == name)[0]) for name in rows.sample_id]
    np.testing.assert_allclose(made.score(np.array(dataset.images[places])), rows.score, rtol=1e-3, atol=1e-5)


def test_a_trained_detector_whose_weights_are_gone_says_how_to_get_them(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = finish(spec(), store, tmp_path, lam=None, keep_weights=True)

    def gone(_: str) -> None:
        raise MissingWeights("the weights are not installed: install them")

    monkeypatch.setattr(pretrained, "find", gone)
    with pytest.raises(UserError, match=rf"trial {spec().key}, feature_knn: the weights are not installed"):
        trained.load(store, record, None)


def test_detectors_without_pretrained_features_are_left_alone(store: Store, tmp_path: Path) -> None:
    from sweep.trial.features import prepare_features

    dataset = load(store, "digits", "s16-bilinear-1", tmp_path)
    for detector in ("pca", "mahalanobis"):
        made = build.build_detector(spec_of(detector), 1, 16)
        assert list(prepare_features(made, dataset, torch.device("cpu"), 1e9)) == []
