"""Figures: drawn from the data that exist, reproducible, safe, with captions that state what is left out."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.scoring import combine
from sweep.leaderboard.board import build
from sweep.plan.search import Search
from sweep.report.figures import draw
from sweep.report.figures.samples import load
from sweep.report.figures.searches import importances
from sweep.report.figures.style import COLOURS, LINES, Drawing, assign_looks
from sweep.report.sheets import WIDE_NZ
from sweep.trial.metrics import auroc
from tests.leaderboard.test_board import board, grid_rows, row, rows
from tests.plan.test_expand import work_of

HOSTILE = ("<script>alert(1)</script>", "a $\\frac{x$ & b", 'x" onload="alert(1)')
SVG = "{http://www.w3.org/2000/svg}"


def figures(found: Sequence[dict[str, Any]], store: dict[str, bytes] | None = None) -> dict[str, Drawing]:
    return {d.name: d for d in draw(build(found), found, (), (store or {}).get)}


def nothing(path: str) -> None:
    """Read from an empty store."""


def texts(drawing: Drawing) -> list[str]:
    """Return every text of a drawing, in order."""
    root = ElementTree.fromstring(drawing.svg)
    return ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]


def make_store(found: Sequence[dict[str, Any]], *, two: bool = True, features: int = 120) -> dict[str, bytes]:
    """Return a store with made-up scores.parquet and figures.npz for the trials of these rows."""
    store = {}
    for number, one in enumerate(found):
        random = np.random.RandomState(number)
        labels = np.repeat([0, 1], 60)
        parts = {"reconstruction": random.randn(120) + labels, "latent": random.randn(120)}
        if not two:
            parts = {"score": random.randn(120) + labels}
        epochs = [one["epoch"], one["epoch"] + 1]  # the figures must not use the other epoch
        tables = [
            pa.table(
                {
                    "label": labels if epoch == one["epoch"] else 1 - labels,
                    "part": ["test"] * 120,
                    "evaluation": ["clean"] * 120,
                    "epoch": [epoch] * 120,
                    "score": parts.get("score", parts.get("reconstruction")),
                    **{n: v.astype(np.float32) for n, v in parts.items() if n != "score"},
                }
            )
            for epoch in epochs
        ]
        buffer = io.BytesIO()
        pq.write_table(pa.concat_tables(tables), buffer)
        store[f"trials/{one['key']}/scores.parquet"] = buffer.getvalue()
        archive = io.BytesIO()
        images = random.randint(0, 256, (8, 1, 8, 8)).astype(np.uint8)
        np.savez(
            archive,
            features=random.randn(features, 5).astype(np.float16),
            feature_labels=np.arange(features) % 2,
            originals=images,
            reconstructions=255 - images,
            image_labels=np.tile([0, 0, 1, 1], 2),
            image_hard=np.arange(8) >= 4,
            epoch=1,
        )
        store[f"trials/{one['key']}/figures.npz"] = archive.getvalue()
    return store


def scene() -> list[dict[str, Any]]:
    return [
        *rows({"0": (0.8, 0.9), "1": (0.7, 0.6)}, epoch=3, lam=0.2),
        *rows({"0": (0.85, 0.75), "1": (0.65, 0.6)}, "skip_ganomaly", epoch=3, lam=0.9),
    ]


@pytest.fixture(scope="module")
def whole() -> dict[str, Drawing]:
    """Draw every figure of the scene."""
    found = scene()
    return figures(found, make_store(found))


def test_everything_that_was_stored_is_drawn(whole: dict[str, Drawing]) -> None:
    kinds = ["error-bars", "features", "lambda", "reconstructions-ganomaly-repo_head",
             "reconstructions-skip_ganomaly-repo_head", "roc", "scores"]  # fmt: skip
    assert sorted(whole) == [f"digits-D1-{kind}" for kind in kinds]
    for drawing in whole.values():
        assert drawing.caption and drawing.title
        assert drawing.pdf.startswith(b"%PDF")
        assert ElementTree.fromstring(drawing.svg).tag == f"{SVG}svg"


def test_equal_rows_give_equal_bytes(whole: dict[str, Drawing]) -> None:
    found = scene()
    again = figures(found, make_store(found))
    assert [name for name in whole if again[name] != whole[name]] == []


def test_without_anything_stored_the_board_is_drawn_and_without_rows_nothing() -> None:
    assert sorted(figures(scene())) == ["digits-D1-error-bars"]
    assert figures([]) == {}


def test_holes_failures_and_divergences_can_be_drawn() -> None:
    found = [*rows({"0": (None, None), "1": (0.7, None)}), row(None, status="diverged", abnormal="2", detector="pca")]
    (drawing,) = figures(found).values()
    assert "ganomaly repo_head" in texts(drawing)


def test_names_stay_text() -> None:
    found = [
        {**one, "study": name, "detector": name, "abnormal": name, "key": str(number)}
        for number, name in enumerate(HOSTILE)
        for one in rows({"0": (0.8,)}, epoch=3, lam=0.2)
    ]
    store = {path: data for path, data in make_store(found, features=20).items() if "/2/" in path}
    drawn = figures(found, store)
    assert len(drawn) == 5
    for drawing in drawn.values():
        root = ElementTree.fromstring(drawing.svg)
        tags = {element.tag.removeprefix(SVG) for element in root.iter()}
        assert not tags & {"script", "foreignObject", "a"}
        assert not any(attribute.startswith("on") for element in root.iter() for attribute in element.attrib)
        assert re.fullmatch(r"[A-Za-z0-9._-]+", drawing.name)
    for name in HOSTILE:
        assert any(name in text for text in texts(drawn["digits-D1-error-bars"]))


def test_a_figure_refers_to_nothing_outside_itself(whole: dict[str, Drawing]) -> None:
    for drawing in whole.values():
        for target in re.findall(rb'(?:href|src)="([^"]*)"', drawing.svg):
            assert target.startswith((b"#", b"data:image/png;base64,"))


def test_lines_differ_in_more_than_colour() -> None:
    found = assign_looks(str(n) for n in range(2 * LINES))
    assert len({(look.colour, look.marker) for look in found.values()}) == 2 * LINES
    first = list(found.values())[:LINES]
    assert len({look.marker for look in first}) == len({str(look.dash) for look in first}) == len(COLOURS)


def test_a_board_of_many_lines_says_what_it_leaves_out() -> None:
    found = [row(0.5 + n / 100, setting=f"s{n:02d}", abnormal=c) for n in range(12) for c in "01"]
    (drawing,) = figures(found).values()
    assert f"best {LINES} of 12" in drawing.caption
    assert sum("s11" in text for text in texts(drawing)) == 1
    assert not any("s03" in text for text in texts(drawing))


def test_each_axis_of_a_grid_has_a_panel_with_its_values_and_says_what_nz_is() -> None:
    found = grid_rows("nz", {8: 0.5, 64: 0.6, 100: 0.7})
    found += [{**one, "detector": "skip_ganomaly", "key": f"skip {one['key']}"} for one in found]
    found += rows({"9": (0.5,)}, "knn")
    (drawing,) = (d for name, d in figures(found).items() if "error" not in name)
    assert drawing.caption.startswith("Class mean over 0, 1."), "only the classes of the grid, not all of the board"
    assert {"8", "64", "100", "nz", "ganomaly repo_head", "skip_ganomaly repo_head"} <= set(texts(drawing))
    assert WIDE_NZ in drawing.caption


def test_values_without_a_result_keep_their_place_and_labels_do_not_touch() -> None:
    weights = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 50.0, 80.0, 100.0)
    found = grid_rows("w_con", dict.fromkeys(weights, 0.6), centre=50.0)
    found += grid_rows("w_adv", dict.fromkeys(weights, 0.6), centre=1.0)
    holes = [{**one, "auroc": None, "status": "missing"} if one.get("hp_w_con") != 50.0 else one for one in found[:20]]
    (drawing,) = (d for name, d in figures(holes + found[20:]).items() if "error" not in name)
    labels = [text for text in texts(drawing) if text.replace(".", "").isdigit() and "." not in text]
    assert sorted(labels, key=float) == sorted(2 * ["0", "1", "2", "5", "10", "20", "50", "100"], key=float)


def test_the_right_scores_are_read() -> None:
    found = scene()
    store = make_store(found)
    leaderboard, only = build(found), board(found)
    trials = load(leaderboard, only, found, only.lines, store.get)
    (first, second) = trials["ganomaly repo_head"]["0"]
    assert (first.row["seed"], second.row["seed"]) == (0, 1)
    random = np.random.RandomState(found.index(first.row))
    labels = np.repeat([0, 1], 60)
    parts = {"reconstruction": random.randn(120) + labels, "latent": random.randn(120)}
    expected = auroc(labels, combine({n: v.astype(np.float32) for n, v in parts.items()}, 0.2))
    assert auroc(first.labels, first.scores) == pytest.approx(expected)


def test_a_score_of_one_component_has_no_curve_over_lambda() -> None:
    found = [{**one, "lam": None} for one in scene()]
    drawn = figures(found, {k: v for k, v in make_store(found, two=False).items() if k.endswith("parquet")})
    assert "digits-D1-roc" in drawn and "digits-D1-lambda" not in drawn


def make_search(values: Sequence[float]) -> tuple[Any, Search]:
    """Return a planned search of 40 candidates and its state; the value of a candidate depends only on nz."""
    work = work_of(kind="search", candidates=40, space=["nz", "w_adv"], tuning_seeds=1, abnormal=[0, 1],
                   objective="labelled", detectors=["ganomaly"])  # fmt: skip
    (planned,) = work.searches
    random = np.random.RandomState(0)
    asks = {
        number: {"params": {"nz": int(4 + 100 * value), "w_adv": float(10 ** random.uniform(-1, 2))}}
        for number, value in enumerate(values)
    }
    search = Search(planned.spec, asks, {})
    for number, value in enumerate(values):
        for instance in range(planned.spec.instances):
            search.observe(number, instance, dict.fromkeys(planned.spec.lambdas, value))
    return planned, search


def test_a_search_is_drawn_with_what_mattered() -> None:
    planned, search = make_search([0.5 + 0.4 * n / 40 for n in range(40)])
    (drawing,) = draw(build([]), [], [(planned, search)], nothing)
    assert {"history", "importance", "nz", "w_adv", "candidate"} <= set(texts(drawing))
    assert "40 of 40 candidates asked, 40 completed" in drawing.caption
    measured = importances(search, list(enumerate(search.candidates)))
    assert sum(measured.values()) == pytest.approx(1)
    assert measured["nz"] > measured["w_adv"]


def test_a_search_that_has_hardly_begun_claims_no_importance() -> None:
    planned, search = make_search([0.5, 0.6])
    (drawing,) = draw(build([]), [], [(planned, search)], nothing)
    assert "Importance needs" in drawing.caption
    planned, search = make_search([])
    assert list(draw(build([]), [], [(planned, search)], nothing)) == []
