"""Each selection names the epoch that it says, and `val_normal` does not look at the abnormal class."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data.storage.loader import load
from sweep.spec.trial import Validation
from sweep.store.base import Store
from sweep.trial.selection import Selections
from tests.trial.test_run import finish, spec_of, stored


def test_selections_name_their_epochs(store: Store, cache: Path) -> None:
    spec = spec_of(validated=True, hyperparameters={"epochs": 5, "lr": 5e-2})
    result = finish(spec, store, cache)
    by = {entry["selection"]: entry for entry in result["metrics"]}
    assert set(by) == {"last", "val", "val_normal", "oracle"}
    assert by["last"]["epoch"] == 5
    assert by["oracle"]["auroc"] == max(entry["auroc"] for entry in result["metrics"])
    table = pq.read_table(io.BytesIO(stored(store, spec, "history.parquet")))
    history = {row["epoch"]: row for row in table.to_pylist()}
    assert history[by["val"]["epoch"]]["validation_auroc"] == max(r["validation_auroc"] for r in history.values())
    assert history[by["oracle"]["epoch"]]["test_auroc"] == by["oracle"]["auroc"]
    lowest = min(history.values(), key=lambda row: row["validation_loss"])
    assert by["val_normal"]["epoch"] == lowest["epoch"] != by["val"]["epoch"], "the criteria disagree on this spec"


def test_what_is_chosen_from_normals_alone_does_not_depend_on_the_abnormal_class(
    store: Store, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the end of the training nor the epoch of `val_normal` changes with other abnormal validation images."""
    wild = {"epochs": 12, "lr": 5e-2, "early_stopping": True}
    spec = spec_of(validated=True, eval_every=0, hyperparameters=wild)
    spec = dataclasses.replace(spec, validation=Validation(stop_on="loss"))
    honest = finish(spec, store, cache)
    history = pq.read_table(io.BytesIO(stored(store, spec, "history.parquet"))).to_pylist()
    losses = [row["validation_loss"] for row in history]
    assert len(losses) == honest["epochs_trained"] < 12
    assert losses[-1] > losses[-2] and sorted(losses[:-1], reverse=True) == losses[:-1]
    store.delete_tree(f"trials/{spec.key}")

    def other_abnormals(*arguments: Any) -> Any:
        found = load(*arguments)
        images = found.images.copy()
        images[found.labels == found.classes.index(spec.abnormal)] ^= 255
        return dataclasses.replace(found, images=images)

    monkeypatch.setattr("sweep.trial.run.load", other_abnormals)
    other = finish(spec, store, cache)
    chosen = [{m["selection"]: m["epoch"] for m in r["metrics"]}["val_normal"] for r in (honest, other)]
    assert chosen[0] == chosen[1] and other["epochs_trained"] == honest["epochs_trained"]
    assert honest["validation"]["auroc"] != other["validation"]["auroc"]


def test_a_resume_state_without_validation_losses_is_not_continued() -> None:
    state = Selections()
    scored = {"validation": {"score": np.zeros(2, np.float32)}, "clean": {"score": np.zeros(2, np.float32)}}
    state.take(1, scored, {"validation": 0.5, "clean": 0.5}, 0.25)
    restored = Selections()
    restored.load_state(state.state())
    assert restored.chosen["val_normal"]["validation"]["loss"] == 0.25
    old = state.state()
    del old["last"]["validation"]["loss"]
    with pytest.raises(ValueError, match="losses"):
        Selections().load_state(old)
