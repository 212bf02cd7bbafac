"""Batches from shared pages and from a copy on the device are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.storage.shards import put
from sweep.plan.expand import expand
from sweep.spec.load import resolve
from sweep.spec.trial import TrialSpec
from sweep.store import open_store
from sweep.trial import images
from sweep.trial.images import Images
from sweep.trial.options import Options
from sweep.trial.run import run_trial
from tests.support.sweeps import platform

CPU = torch.device("cpu")
PAGES = np.random.RandomState(0).randint(0, 256, (40, 1, 4, 4)).astype(np.uint8)


@given(st.permutations(range(40)), st.integers(1, 40), st.integers(0, 40), st.integers(0, 40), st.randoms())
def test_held_or_not_a_slice_holds_the_images_at_these_places(
    positions: list[int], count: int, start: int, stop: int, random: Any
) -> None:
    chosen = np.array(positions[:count])
    order = np.array(random.sample(range(count), count))
    again = np.array(random.sample(range(count), count))
    for fits in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(images, "_fits", Mock(return_value=fits))
            made = Images(PAGES, chosen, CPU)
        assert len(made) == len(made.reorder(order)) == count
        for found, places in ((made, chosen), (made.reorder(order), chosen[order]),
                              (made.reorder(order).reorder(again), chosen[order][again])):  # fmt: skip
            assert np.array_equal(found[start:stop].numpy(), PAGES[places[start:stop]])
        assert np.array_equal(made.whole().numpy(), PAGES[chosen])


def test_a_batch_is_the_trials_own(tmp_path: Path) -> None:
    np.save(tmp_path / "pages.npy", PAGES)
    pages = np.load(tmp_path / "pages.npy", mmap_mode="r")
    batch = Images(pages, np.arange(8), CPU)[0:8]
    batch += 1
    assert np.array_equal(pages, PAGES)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("detector", "lam"), [("ganomaly", 0.9), ("knn", None)])
def test_a_trial_comes_out_alike_either_way(
    detector: str, lam: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell: dict[str, Any] = {"detectors": [detector], "datasets": ["digits"], "abnormal": [3], "seeds": 1,
                            "evaluations": ["clean", "legacy_shuffled"]}  # fmt: skip
    if detector == "ganomaly":
        cell["hyperparameters"] = {"ganomaly": {"epochs": 1, "width": 4, "nz": 4}}
    study = {"name": "table", "kind": "error_bars", **cell}
    sweep = resolve({"storage": "unused", "data": {"size": 16}, "sweep": {"studies": [study]}})
    spec: TrialSpec = expand(sweep, platform(sweep)).fixed[0].spec
    scores = []
    for fits in (False, True):
        monkeypatch.setattr(images, "_fits", Mock(return_value=fits))
        store = open_store(str(tmp_path / f"store {fits}"))
        put(store, "digits", size=16, root=None)
        list(run_trial(spec, store, Options(cache=tmp_path / "cache", lambda_default=lam)))
        scores.append({path: store.get(path) for path in store.list("trials") if not path.endswith("result.json")})
    assert scores[0] == scores[1] and any(path.endswith("scores.parquet") for path in scores[0])
