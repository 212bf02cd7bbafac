"""report.html as text: a correct verdict, every planned trial, and nothing loaded from outside."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

import sweep.report.html.page
from sweep.leaderboard.board import build
from sweep.report.figures import draw
from sweep.report.html.page import _value, embeddable, render_page
from sweep.report.html.verdict import account, verdicts
from tests.leaderboard.test_board import grid_rows, row, rows
from tests.report.test_report import SCENE


class Reader(HTMLParser):
    """Tags, attributes, text and scripts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.scripts += [""] if tag == "script" else []
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        else:
            self.text += data

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.scripts[0])
        return found


def read(found: list[dict[str, Any]], **keys: Any) -> Reader:
    return Reader(render_page(found, build(found), **keys))


# -- verdict ----------------------------------------------------------------------------------------


def sentences(found: list[dict[str, Any]], metric: str = "auroc") -> str:
    (verdict,) = verdicts(build(found, metric=metric))
    return " ".join((verdict.headline, *verdict.sentences))


def test_the_verdict_names_the_winner_its_lead_and_what_is_worse() -> None:
    values = {str(c): (0.9 + c / 100, 0.91 + c / 100) for c in range(5)}
    worse = {c: tuple(v - 0.2 - int(c) / 1000 for v in of_class) for c, of_class in values.items()}
    text = sentences(rows(values) + rows(worse, "skip_ganomaly"))
    assert text.startswith("ganomaly repo_head leads")
    assert "5 abnormal classes" in text and "over 2 seeds" in text
    assert re.search(r"It is 0.202 \[0.\d+, 0.\d+\] ahead of skip_ganomaly repo_head", text)
    assert re.search(r"Every other line is worse, by at least 0.1\d+ .*: skip_ganomaly repo_head\.", text)


def test_what_cannot_be_told_from_the_winner_is_named_with_the_reason() -> None:
    text = sentences(rows({"0": (0.9, 0.7), "1": (0.9, 0.6)}) + rows({"0": (0.7, 0.8), "1": (0.7, 0.8)}, "egbad"))
    assert "Cannot be told from it" in text and "egbad plain (seeds)" in text


def test_a_line_far_below_the_winner_with_a_tight_interval_is_never_called_noise() -> None:
    text = sentences(rows({"0": (0.98,), "1": (0.99,)}, "knn") + rows({"0": (0.5, 0.52, 0.51), "1": (0.5, 0.5, 0.52)}))
    assert "worse, by at least 0.4" in text and "Cannot be told" not in text


def test_single_seeds_are_said_to_show_no_variation() -> None:
    text = sentences(rows({"0": (0.9,)}) + rows({"0": (0.8,)}, "egbad"))
    assert "Not compared, because a single seed shows no variation: egbad plain" in text


def test_the_verdict_holds_training_against_none() -> None:
    found = rows({"0": (0.7, 0.71), "1": (0.7, 0.69)}) + rows({"0": (0.9,), "1": (0.8,)}, "knn")
    text = sentences(found)
    assert "The best trained detector, ganomaly repo_head, is 0.150 [" in text
    assert "worse than the best one without training, knn" in text
    assert "is 0.150 [" in sentences(found, metric="fpr95") and "better than the best one" in sentences(found, "fpr95")


def test_an_interval_that_holds_0_stands_around_the_difference_that_is_said() -> None:
    """The best trained one is 0.017 worse, so the interval of `worse` reaches further above 0 than below."""
    text = sentences(rows({"0": (0.5, 0.7, 0.6)}) + rows({"0": (0.65, 0.7, 0.5)}, variant="untrained"))
    found = re.search(r"is 0\.017 \[(-?[\d.]+), (-?[\d.]+)\] worse than the best one without training", text)
    assert found is not None and float(found[1]) + float(found[2]) == pytest.approx(2 * 0.0167, abs=2e-3)
    assert "not more than noise (seeds)" in text


def test_incomplete_lines_are_named_with_what_is_missing() -> None:
    found = rows({"0": (0.99, None), "1": (0.99, 0.99)}) + rows({"0": (0.9,), "1": (0.8,)}, "knn")
    text = sentences(found)
    assert text.startswith("knn leads")
    assert "Incomplete, and so not ranked: ganomaly repo_head (1 of 4 trials missing)." in text


def test_nothing_ranked_has_no_winner() -> None:
    assert sentences(rows({"0": (None,), "1": (0.5,)})).startswith("No winner yet")


def test_the_account_counts_every_trial_once_and_names_the_holes() -> None:
    found = account(SCENE, build(SCENE))
    counted = [entry for entry in SCENE if entry["selection"] == "last"]
    assert found.trials == len(counted) == sum(found.by_status.values())
    assert {name: found.by_status[name] for name in ("diverged", "failed")} == {"diverged": 1, "failed": 1}
    assert any("skip_ganomaly" in hole for hole, _ in found.holes)
    shared = [row(0.5, study=study, key="one") for study in ("a", "b")]
    assert account(shared, build(shared)).train_seconds == shared[0]["train_seconds"]


def test_other_classes_are_not_tested_with_few_of_them() -> None:
    def text(classes: str) -> str:
        return sentences(rows(dict.fromkeys(classes, (0.8, 0.81))) + rows(dict.fromkeys(classes, (0.6, 0.61)), "egbad"))

    assert "for other classes?  Not tested: 3 classes, a test needs 6" in text("012")
    assert "Over other classes the lead would hold against 1 of 1" in text("0123456")


def test_a_grid_has_a_verdict_of_its_own() -> None:
    def seeds(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {
                **one,
                "seed": seed,
                "auroc": one["auroc"] + 0.001 * seed * int(one["abnormal"]),
                "key": f"{one['key']} {seed}",
            }
            for one in found
            for seed in range(3)
        ]

    found = seeds(grid_rows("nz", {8: 0.5, 32: 0.61, 100: 0.6101}))
    (only,) = verdicts(build(found))
    assert only.title == "digits D1, nz"
    assert only.headline == "nz: 1 of 2 values tested differs from the default"
    assert only.sentences[0].startswith("ganomaly repo_head, nz: best at 100 (0.611")
    assert "chosen on the test set" in only.sentences[-1]
    (same,) = verdicts(build(seeds(grid_rows("nz", {8: 0.6, 32: 0.6}, centre=8))))
    assert same.headline == "nz: the one value tested does not differ from the default"
    holes = [{**one, "auroc": None, "status": "missing"} for one in found]
    (waiting,) = verdicts(build(holes))
    assert (
        waiting.headline == "nz: nothing to test yet" and "3 of 3 values cannot be ranked yet" in waiting.sentences[0]
    )


def test_a_cell_says_its_interval_and_the_sizes_of_its_test_set_on_hover() -> None:
    found = rows({"0": (0.8, 0.9)}, n_normal=324, n_abnormal=1_178)
    hints = [value for name, value in read(found).attributes if name == "title" and value]
    assert any("324 normal and 1,178 abnormal test images, 2 of 2 seeds" in hint for hint in hints)


def test_the_hardware_is_named() -> None:
    found = [row(0.8, fingerprint="f00", split_hash="h", device="cpu", hardware="A Processor", numerics="float32")]
    assert "A Processor, float32" in read(found).text
    assert "cpu, float32" in read([{**found[0], "hardware": None}]).text


def test_what_the_machines_cost_stands_with_the_cost() -> None:
    text = "$1.23 for the machines of launch 2"
    assert text in read([row(0.8)], provenance={"dollars": "1.23 for the machines of launch 2"}).text
    assert "$" not in read([row(0.8)]).text


def test_numbers_of_boards_and_grids_lead_to_their_trials() -> None:
    found = SCENE + grid_rows("nz", {8: 0.5, 32: 0.6})
    reader = read(found)
    lines = [int(value) for name, value in reader.attributes if name == "data-line" and value]
    assert set(lines) == set(reader.data["line"])


# -- page -------------------------------------------------------------------------------------------


def test_the_page_begins_with_the_verdict_and_holds_everything() -> None:
    found = SCENE + grid_rows("nz", {8: 0.5, 32: 0.6})
    reader = read(found, provenance={"sweep": "mine", "commit": "abc123"}, spec={"time": 1})
    sections = [value for name, value in reader.attributes if name == "aria-labelledby" and value]
    order = [f"{name}-title" for name in ("verdict", "tables", "trials", "provenance")]
    assert [section for section in sections if section in order][:1] == order[:1]
    assert list(dict.fromkeys(section for section in sections if section in order)) == order
    for word in ("leads", "gap", "no training", "incomplete", "nz", "abc123", '"time": 1', "a trial failed"):
        assert word in reader.text


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.873 ± 0.021 (2/3)†", 0.873), ("~0.5", 0.5), ("-0.183", -0.183), ("+.5", None), ("-", None), ("·", None),
     ("±0.037", 0.037), ("1,131,697", 1131697.0), ("24 CPU s", 24.0), ("0.04 CPU h", 144.0), ("$1.50", 1.5)],
)  # fmt: skip
def test_cells_sort_by_the_number_that_they_begin_with(text: str, value: float | None) -> None:
    assert _value(text) == (None if value is None else pytest.approx(value))


def test_every_trial_is_in_the_page() -> None:
    data = read(SCENE).data
    shown = [entry for entry in SCENE if entry["selection"] == "last"]
    keys, statuses = data["columns"]["key"], data["columns"]["status"]
    assert [keys["values"][code] for code in keys["codes"]] == [entry["key"] for entry in shown]
    assert [statuses["values"][code] for code in statuses["codes"]] == [entry["status"] for entry in shown]


def test_a_number_of_a_board_knows_its_trials() -> None:
    text = render_page(SCENE, build(SCENE))
    data = Reader(text).data
    cells = re.findall(r'data-line="(\d+)" data-class="([^"]*)">([^<]*)<', text)
    assert len(cells) == sum(len(line.cells) for line in build(SCENE).boards[0].lines)
    detectors, classes, aurocs = (data["columns"][name] for name in ("detector", "abnormal", "auroc"))
    (number,) = {int(line) for line, abnormal, shown in cells if shown.startswith("0.850") and abnormal == "5"} & {
        code for code, of in zip(data["line"], detectors["codes"], strict=True) if detectors["values"][of] == "knn"
    }
    values = [
        aurocs["values"][aurocs["codes"][at]]
        for at, line in enumerate(data["line"])
        if line == number and classes["values"][classes["codes"][at]] == "5"
    ]
    assert values == [0.85]


def test_names_stay_text() -> None:
    names = [
        "<script>alert(1)</script>",
        "</script><b>",
        '" onclick="alert(1)',
        "{{ 7*7 }}",
        "a&b",
        "=1+1",
        "\u2028\x1b[31m",
    ]
    plain = [f"name {number}" for number in range(len(names))]

    def shown(of: list[str]) -> Reader:
        found = [row(0.5, detector=name, study=name, abnormal=name, setting=name) for name in of]
        return read(found, provenance=dict.fromkeys(of, of[0]), spec={name: name for name in of})

    hostile = shown(names)
    assert hostile.tags == shown(plain).tags
    assert not [name for name, _ in hostile.attributes if name.startswith("on")]
    assert hostile.data["columns"]["abnormal"]["values"] == sorted(names, key=names.index)
    assert "{{ 7*7 }}" in hostile.text and "<script>alert(1)</script>" in hostile.text


def test_the_policy_of_the_page_allows_its_own_script_alone_and_no_request() -> None:
    found = rows({"0": (0.8, 0.9), "1": (0.7, 0.6)})
    drawings = list(draw(build(found), found, (), lambda _: None))
    reader = read(found, drawings=drawings)
    (policy,) = [value for name, value in reader.attributes if value and value.startswith("default-src")]
    digest = base64.b64encode(hashlib.sha256(reader.scripts[1].encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}';")
    referring = [value for name, value in reader.attributes if name in ("src", "href", "xlink:href", "action", "data")]
    assert referring and all(value and value.startswith(("#", "data:image/png;base64,")) for value in referring)
    assert not {"link", "iframe", "object", "embed", "base"} & set(reader.tags)


def test_figures_take_the_colour_of_the_page_and_share_no_ids() -> None:
    found = rows({"0": (0.8, 0.9), "1": (0.7, 0.6)}) + grid_rows("nz", {8: 0.5, 32: 0.6})
    drawings = list(draw(build(found), found, (), lambda _: None))
    assert len(drawings) == 2
    bodies = [embeddable(drawing.svg.decode()) for drawing in drawings]
    ids = [name for body in bodies for name in re.findall(r' id="([^"]*)"', body)]
    assert len(ids) == len(set(ids))
    for body in bodies:
        assert body.startswith("<svg") and "currentColor" in body and "#010203" not in body
        assert {*re.findall(r"url\(#([^)]+)\)", body), *re.findall(r'href="#([^"]+)"', body)} <= set(ids)


def test_figures_beyond_what_a_page_can_hold_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep.report.html.page, "FIGURE_BYTES", 10)
    found = rows({"0": (0.8, 0.9), "1": (0.7, 0.6)})
    reader = read(found, drawings=list(draw(build(found), found, (), lambda _: None)))
    assert "svg" not in reader.tags
    assert "figures/digits-D1-error-bars.svg" in reader.text


def test_ten_thousand_trials_make_a_page_of_a_few_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        row(0.5 + s / 1000, setting=f"s{n}", abnormal=str(c), seed=s, key=f"{n:04x}{c}{s}" * 3)
        for n in range(200)
        for c in range(10)
        for s in range(5)
    ]
    text = render_page(found, build(found))
    assert len(text) < 4 * 2**20
    assert len(Reader(text).data["line"]) == 10_000
    monkeypatch.setattr(sweep.report.html.page, "TRIALS", 100)
    capped = read(found)
    assert len(capped.data["line"]) == 100
    assert "10,000" in capped.text and "results.parquet has all" in capped.text


def test_an_empty_report_is_a_page_too() -> None:
    assert "nothing is planned" in read([]).text
