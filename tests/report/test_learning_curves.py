"""Learning curves are those of history.parquet: in the figure, and behind each trial of the page."""

from __future__ import annotations

import io
import json
import math
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweep.leaderboard.board import build
from sweep.report.figures import draw
from sweep.report.figures.learning import MOST_POINTS, read_history
from sweep.report.figures.style import Drawing
from sweep.report.html.page import render_page
from sweep.store.ledger import Damaged
from tests.leaderboard.test_board import rows
from tests.report.test_figures import texts

Rows = list[dict[str, Any]]


def history(epochs: int = 3, **columns: Any) -> bytes:
    """Return history.parquet with two loss terms, a counter, and an AUROC that was not measured in epoch 1."""
    every = range(1, epochs + 1)
    table = {
        "epoch": list(every),
        "g": [8.0 / epoch for epoch in every],
        "d": [0.5] * epochs,
        "redrawn": [0] * epochs,
        "test_auroc": [math.nan, *(0.5 + 0.01 * epoch for epoch in every[1:])],
        **columns,
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(table), sink)
    return sink.getvalue()


def scene() -> tuple[Rows, dict[str, bytes]]:
    found = [*rows({"0": (0.8, 0.9)}, hp_epochs=3, epoch=3), *rows({"0": (0.7,)}, "knn", epoch=0)]
    return found, {f"trials/{row['key']}/history.parquet": history() for row in found if row["detector"] == "ganomaly"}


def curves_of(found: Rows, store: dict[str, bytes]) -> list[Drawing]:
    return [d for d in draw(build(found), found, (), store.get) if "learning-curves" in d.name]


def test_loss_terms_and_auroc_of_every_trained_line_are_drawn() -> None:
    (drawing,) = curves_of(*scene())
    assert drawing.name == "digits-D1-learning-curves"
    shown = texts(drawing)
    assert {"ganomaly repo_head: loss terms", "AUROC", "g", "d", "test", "epoch"} <= set(shown)
    assert not any("$" in text for text in shown), "no markup of numbers"
    assert "redrawn" not in shown and not any("knn" in text for text in shown)


def test_the_numbers_behind_the_figure_are_those_of_the_file() -> None:
    found, store = scene()
    (drawing,) = curves_of(found, store)
    assert set(drawing.curves) == {row["key"] for row in found if row["detector"] == "ganomaly"}
    for curves in drawing.curves.values():
        assert dict(curves) == {
            "epoch": [1.0, 2.0, 3.0], "g": [8.0, 4.0, 2.6667], "d": [0.5] * 3, "test_auroc": [None, 0.52, 0.53],
        }  # fmt: skip


def test_validation_has_curves_of_its_own() -> None:
    found, store = scene()
    path = next(iter(store))
    store[path] = history(validation_auroc=[0.6, 0.7, 0.8], validation_loss=[3.0, 2.0, 1.0])
    (drawing,) = curves_of(found, store)
    assert {"validation", "validation loss"} <= set(texts(drawing))


def test_without_a_history_there_is_no_figure() -> None:
    assert not curves_of(scene()[0], {})


def test_a_long_training_is_thinned_out_to_its_first_last_and_some_epochs() -> None:
    found = read_history("k", {"trials/k/history.parquet": history(1000)}.get)
    assert found is not None
    assert (len(found["epoch"]), found["epoch"][0], found["epoch"][-1]) == (MOST_POINTS, 1.0, 1000.0)


@pytest.mark.parametrize("data", [b"no parquet", history(2)[:-9]])
def test_a_damaged_history_is_reported_as_damaged(data: bytes) -> None:
    with pytest.raises(Damaged):
        read_history("k", {"trials/k/history.parquet": data}.get)


def page_data(found: Rows, drawings: list[Drawing]) -> dict[str, Any]:
    page = render_page(found, build(found), drawings)
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def test_the_page_holds_the_curves_of_each_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    found, store = scene()
    drawings = curves_of(found, store)
    assert page_data(found, drawings)["curves"] == {key: dict(c) for key, c in drawings[0].curves.items()}
    monkeypatch.setattr("sweep.report.html.page.CURVE_VALUES", 15)
    assert len(page_data(found, drawings)["curves"]) == 1, "what does not fit is left out"
    assert page_data(found, [])["curves"] == {}
