"""A store with damaged objects: reading one raises an error that names the object and the fix."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from sweep.results import open_results
from sweep.store.ledger import Damaged
from tests.support.made_up import MadeUp

TRUNCATED, EMPTY, NO_RECORD, NO_TEXT = b'{"status": "ok', b"", b"{}", b"\xff\xfe"
NO_STATUS = b'{"key": "3f2a"}'


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    return MadeUp(tmp_path, abnormal=[0, 1], seeds=2)


@pytest.mark.parametrize("data", [TRUNCATED, EMPTY, NO_RECORD, NO_TEXT, NO_STATUS])
def test_a_damaged_result_is_named_with_the_fix(made: MadeUp, data: bytes) -> None:
    key = made.planned[0].key
    made.store.put(f"trials/{key}/result.json", data)
    with pytest.raises(Damaged, match=rf"trials/{key}/result\.json .* delete trials/{key} there and launch again"):
        made.reporting()


def test_a_damaged_spec_is_not_a_trials(made: MadeUp) -> None:
    path = f"sweeps/{made.sweep.name}/specs/0001.json"
    made.store.put(path, TRUNCATED)
    with pytest.raises(Damaged, match=rf"{path} .* restore it from a copy"):
        made.ledger.specs()


def test_damaged_scores_are_named_wherever_they_are_read(made: MadeUp, tmp_path: Path) -> None:
    path = f"trials/{made.planned[0].key}/scores.parquet"
    made.store.put(path, made.store.get(path)[:300])
    found = made.reporting()
    with pytest.raises(Damaged, match=path):
        found.compare("ganomaly", "knn", Console(quiet=True), None, "")
    with pytest.raises(Damaged, match=path):
        found.write(tmp_path / "out", "", "")
    made.ledger.put_spec({"sweep": made.sweep.model_dump(mode="json"), "platform": asdict(made.platform), "time": 1.0})
    with pytest.raises(Damaged, match=path):
        open_results(made.sweep.storage).scores(made.planned[0].key)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 and no more", b"text"])
def test_damaged_figure_data_are_named(made: MadeUp, tmp_path: Path, data: bytes) -> None:
    path = f"trials/{made.planned[0].key}/figures.npz"
    made.store.put(path, data)
    with pytest.raises(Damaged, match=path):
        made.reporting().write(tmp_path / "out", "", "")
