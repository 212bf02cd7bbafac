"""Terminal, Markdown, CSV and JSON of a report: complete numbers, safe names, every planned trial."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from sweep.leaderboard.board import Leaderboard, build, builder
from sweep.leaderboard.rows import COLUMNS
from sweep.report.files import CSV_COLUMNS, companion, csv_text, show_beside, write
from sweep.report.markdown import render_markdown
from sweep.report.sheets import sheets
from sweep.report.terminal import render_terminal
from tests.leaderboard.test_board import grid_rows, row, rows

SCENE = (
    rows({"3": (0.81, 0.82, 0.86), "5": (0.7, 0.75, None), "8": (0.9, 0.91, 0.93)})
    + rows({"3": (0.6, 0.7), "5": (0.5, 0.6), "8": (0.4, 0.6)}, "skip_ganomaly")
    + [
        row(None, "skip_ganomaly", abnormal=c, seed=2, status=s)
        for c, s in zip("358", ("failed", "diverged", "ok"), strict=True)
    ]
    + rows({"3": (0.8,), "5": (0.85,), "8": (0.7,)}, setting="searched", study="tuned", objective="labelled")
    + rows({"3": (0.7,), "5": (0.85,), "8": (0.9,)}, "knn")
)
HOSTILE = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12) | st.sampled_from(
    [
        "=1+1",
        "+cmd",
        "-2",
        "@SUM(A1)",
        "\t=1",
        "  =1",
        "a|b",
        "a\nb",
        "\r\n=x",
        "`x`",
        "<b>",
        "\x1b[31mred",
        "[bold]",
        "a,b",
        '"',
    ]
)


def print_boards(leaderboard: Leaderboard, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(render_terminal(leaderboard, width))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def parse_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def table_lines(text: str) -> list[str]:
    return [found for found in text.split("\n") if found.startswith("|")]


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_terminal_of_any_width_shows_every_number_whole(width: int) -> None:
    many = [row(0.5 + c / 100 + s / 1000, abnormal=str(c), seed=s) for c in range(10) for s in range(3)]
    for found in (SCENE, many):
        leaderboard = build(found)
        text = print_boards(leaderboard, width)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        for line in leaderboard.boards[0].lines:
            for cell in (line.mean, *line.cells.values()):
                if cell.low is not None:
                    ends = (cell.low, cell.high) if cell is line.mean else (cell.least, cell.most)
                    shown = "[{:.3f}, {:.3f}]" if cell is line.mean else "({:.3f}-{:.3f})"
                    assert f"{cell.mean:.3f} {shown.format(*ends)}" in text


def test_wide_boards_go_on_below_with_the_summary_apart() -> None:
    text = print_boards(build([row(abnormal=str(c), seed=s) for c in range(10) for s in range(3)]), 100)
    headers = [found.split() for found in text.splitlines() if found.startswith("detector")]
    assert headers[0] == ["detector", "class", "mean", "train", "s"]
    assert [name for header in headers[1:] for name in header[1:]] == [str(c) for c in range(10)]


def test_the_board_says_what_is_missing_failed_diverged_supervised_and_unranked() -> None:
    text = print_boards(build(SCENE), 140)
    assert "0.725 (0.700-0.750) (2/3)" in text
    assert "0.650 (0.600-0.700) (2/3)✗" in text
    assert "(2/3)†" in text
    assert "ganomaly repo_head searched‡" in text
    for caption in (
        "(2/3): seeds with a value",
        "✗ a trial failed",
        "† a trial diverged",
        "‡ supervised",
        "gap:",
        "incomplete: a planned trial has no result",
    ):
        assert caption in text
    assert "diverged =" in text


def test_holes_and_what_was_never_planned_are_told_apart() -> None:
    text = render_markdown(build(rows({"0": (0.8,), "1": (None,)}) + rows({"0": (0.7,)}, "knn")))
    assert "- no value" in text and "· not part of the line's study" in text
    assert re.search(r"\| knn \|.*\| · \|", text)


def test_marks_are_explained_only_where_they_occur() -> None:
    text = print_boards(build(rows({"0": (0.8, 0.9), "1": (0.8, 0.9)})), 100)
    assert not set("≈✗†‡~") & set(text)
    assert "seeds with a value" not in text


def test_detectors_without_training_and_incomplete_lines_stand_apart_whatever_their_numbers() -> None:
    lines = print_boards(build(SCENE), 140).splitlines()
    order = [found.split()[0] for found in lines if re.match(r"(ganomaly|skip_ganomaly|knn|no t|incomplete,)", found)]
    assert order[:6] == ["ganomaly", "no", "knn", "incomplete,", "ganomaly", "skip_ganomaly"]
    (sheet, *_) = sheets(build(SCENE))
    missing = sheet.columns.index("missing")
    ends = {label: cells[missing].text for _, found in sheet.sections for label, cells in found}
    assert ends["ganomaly repo_head"] == "1 of 9" and ends["knn"] == ""


def test_the_oracle_is_labelled_as_such() -> None:
    assert "too good" in render_markdown(build([row(selection="oracle")], selection="oracle"))
    assert "too good" not in render_markdown(build([row()]))


def test_equal_lines_of_two_studies_are_told_apart() -> None:
    text = render_markdown(build(rows({"0": (0.5,)}) + rows({"0": (0.6,)}, study="again")))
    assert "ganomaly repo_head (bars)" in text and "ganomaly repo_head (again)" in text


def skip(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the same rows for another detector with half the AUROC."""
    return [
        {**one, "detector": "skip_ganomaly", "key": f"skip {one['key']}", "auroc": one["auroc"] / 2} for one in found
    ]


def test_a_grid_is_one_table_an_axis_with_its_detectors_side_by_side_and_its_default_marked() -> None:
    found = grid_rows("nz", {32: 0.6, 100: 0.7}) + grid_rows("w_con", {1.0: 0.4, 50.0: 0.6})
    text = render_markdown(build(found + skip(found)))
    titles = [line for line in text.splitlines() if line.startswith("## ")]
    assert titles == [f"## digits D1: AUROC, last epoch, clean, nz: against {axis}" for axis in ("nz", "w_con")]
    assert "| nz | ganomaly repo_head | skip_ganomaly repo_head |" in text
    assert "| 32 | 0.600 | 0.300 |\n| 100 (default) | 0.700 | 0.350 |" in text
    assert "| 1 | 0.400 | 0.200 |\n| 50 (default) | 0.600 | 0.300 |" in text
    assert "Class mean over 0, 1." in text and "chosen on the test set" in text
    assert text.count("For Skip-GANomaly nz is") == 1


def test_each_detector_of_a_grid_has_its_default_marked_where_they_differ() -> None:
    found = grid_rows("w_con", {40.0: 0.5, 50.0: 0.6})
    found += skip(grid_rows("w_con", {40.0: 0.5, 50.0: 0.6}, centre=40.0))
    text = render_markdown(build(found))
    assert "| 40 | 0.500 | 0.250 (default) |\n| 50 | 0.600 (default) | 0.300 |" in text


def test_holes_of_a_grid_are_explained_beside_it() -> None:
    found = grid_rows("nz", {32: 0.6, 100: 0.7})
    text = render_markdown(
        build([{**one, "auroc": None, "status": "missing"} if one["hp_nz"] == 32 else one for one in found])
    )
    assert "| 32 | - (0/1) |" in text and "- no value" in text and "seeds planned" in text


def test_papers_are_printed_beside_ours_with_why_they_differ() -> None:
    text = render_markdown(build([row(0.9, dataset="mnist", protocol="M0", abnormal="2")]))
    assert "| *ganomaly repo_head: GANomaly 2018, Table 1* |  |  |" in text
    assert "| paper | 0.920 | 0.920 |\n| ours, AUROC | 0.900 | 0.900 |\n| difference | -0.020 | -0.020 |" in text
    assert "not the same experiment" in text
    for reason in ("best epoch on the test set, ours the last", "BatchNorm by test batch, shuffled, ours", "theirs M1"):
        assert reason in text


def test_hyperparameters_that_are_not_the_published_ones_are_among_the_reasons() -> None:
    cell: dict[str, Any] = {"dataset": "mnist", "protocol": "M1", "abnormal": "2"}
    found = build([row(0.9, hp_nz=32, hp_width=64, hp_w_con=50.0, lam=0.9, **cell)])
    reason = "hyperparameters: ours nz=32 instead of 100, lambda=0.9 instead of 0"
    assert reason in render_markdown(found)
    assert all(reason in entry["paper_why_different"] for entry in parse_csv(csv_text([found])))
    assert "hyperparameters" not in render_markdown(build([row(0.9, hp_nz=100.0, lam=0.0, **cell)]))


def test_values_that_are_probably_average_precision_stand_beside_our_auroc_and_our_ap() -> None:
    found = [row(0.7, "anogan", variant="dcgan", dataset="mnist", protocol="M1", abnormal="2", ap=0.45)]
    shown = build(found)
    text = render_markdown(shown, other=companion(builder(found), shown))
    assert "| paper | 0.535 | 0.535 |\n| ours, AUROC | 0.700 | 0.700 |\n| difference | +0.165 | +0.165 |" in text
    assert "| ours, average precision | 0.450 | 0.450 |\n| difference | -0.085 | -0.085 |" in text
    assert "probably average precision" in text and "theirs M1" not in text


def test_every_table_that_printed_a_cell_is_beside_it() -> None:
    text = render_markdown(build([row(0.6, dataset="cifar10", protocol="C0", abnormal="frog")]))
    assert "GANomaly 2018, Table 2" in text and "Skip-GANomaly 2019, Table 1" in text
    assert "| paper | 0.653 | 0.653 |" in text and "| paper | 0.683 | 0.683 |" in text
    assert text.count("theirs C1, ours C0") == 1


def test_what_is_alike_is_not_called_different() -> None:
    same = ("oracle", "legacy_ordered")
    found = [row(0.6, dataset="cifar10", protocol="C1", abnormal="frog", selection=same[0], evaluation=same[1])]
    entry = parse_csv(csv_text([build(found, *same)]))[0]
    assert entry["paper_source"] == "GANomaly 2018, Table 2"
    assert entry["paper_why_different"].startswith("seeds:")


def test_the_test_sets_own_error_is_printed_apart_from_the_seeds() -> None:
    found = [
        row(0.8 + s / 100, abnormal=c, seed=s, auroc_se=se) for c, se in (("0", 0.01), ("1", 0.02)) for s in range(3)
    ]
    text = render_markdown(build(found))
    assert "finite test set" in text
    assert "| ganomaly repo_head | ±0.029 | ±0.020 | ±0.039 |" in text
    assert "finite test set" not in render_markdown(build(found, metric="ap"))


def test_differences_from_the_best_come_with_interval_and_reason() -> None:
    worse = rows({"0": (0.7, 0.72), "1": (0.7, 0.69)}, "egbad")
    text = render_markdown(build(rows({"0": (0.9, 0.91), "1": (0.8, 0.8)}) + worse))
    assert "ganomaly repo\\_head against" not in text, "a name is readable as it is"
    assert "ganomaly repo_head against the others" in text
    assert "| egbad plain | +0.150 | \\[+0.135, +0.165\\] | \\<0.001 | 0.0035 | 0.0000 | worse |" in text
    close = rows({"0": (0.9, 0.7), "1": (0.9, 0.75)}, "egbad")
    assert "not told apart: seeds |" in render_markdown(build(rows({"0": (0.9, 0.91), "1": (0.8, 0.8)}) + close))


def test_other_classes_are_a_table_of_their_own_with_effect_and_caution() -> None:
    found = [*rows(dict.fromkeys("012345", (0.9, 0.91))), *rows({c: (0.7 + int(c) / 100,) for c in "012345"}, "knn")]
    text = render_markdown(build(found))
    assert "clean, other classes" in text and "classes of one dataset are dependent" in text
    assert "| knn | +0.180 ± 0.020 | +9.62 | 6/6 |" in text
    assert "other classes" not in render_markdown(build(rows({"0": (0.9,)}) + rows({"0": (0.7,)}, "knn")))


def test_further_metrics_stand_beside() -> None:
    found = rows({"0": (0.9, 0.8), "1": (0.8, 0.8)})
    shown = show_beside(builder(found), build(found), ("ap",))
    (sheet, *_) = sheets(shown)
    assert sheet.columns[:2] == ("class mean", "average precision")
    cells = sheet.sections[0][1][0][1]
    assert cells[0].text == cells[1].text != "", "these invented numbers are equal"


def test_parameters_and_cost_are_columns() -> None:
    cost: dict[str, Any] = {"parameters": 3_861_632, "cpu_hours": 0.5, "usd": 0.1}
    text = render_markdown(
        build(rows({"0": (0.9, 0.8), "1": (0.8, 0.8)}, **cost) + rows({"0": (0.5,), "1": (0.5,)}, "knn"))
    )
    assert "3,861,632" in text and "2 CPU h, \\$0.40" in text
    assert "cost: hours" in text


def test_stale_trials_are_marked_and_counted() -> None:
    found = [*rows({"0": (0.9, 0.8)}), row(None, status="stale", seed=2)]
    assert "(2/3)§" in render_markdown(build(found)) and "older code" in render_markdown(build(found))
    assert {e["abnormal"]: e["stale"] for e in parse_csv(csv_text([build(found)]))} == {"0": "1", "mean": "1"}


def test_a_number_without_an_interval_is_explained() -> None:
    seeds = rows({"0": (0.9, 0.8), "1": (0.8, 0.8)})
    single = rows({"0": (0.5,), "1": (0.5,)}, "egbad")
    assert "A single seed has no interval" in render_markdown(build(seeds + single))
    assert "A single seed" not in render_markdown(build(seeds + rows({"0": (0.5,), "1": (0.5,)}, "knn")))


def test_the_best_is_bold_in_markdown() -> None:
    text = render_markdown(build(rows({"0": (0.9,)}) + rows({"0": (0.8,)}, "knn")))
    assert "| ganomaly repo_head | **0.900** | +0.100 | 2 | **0.900** |" in text
    assert "| knn | 0.800 |  | 2 | 0.800 |" in text


def test_a_board_without_results_is_all_holes() -> None:
    holes = build(rows({"0": (None, None, None), "1": (None, None, None)}) + rows({"0": (None,)}, "knn"))
    assert print_boards(holes, 100).count("- (0/3)") == 3
    assert "- (0/3)" in render_markdown(holes)
    assert {entry["mean"] for entry in parse_csv(csv_text([holes]))} == {""}


def test_a_plan_of_nothing_is_said_to_be_one() -> None:
    assert "Nothing is planned" in print_boards(build([]), 100)
    assert "Nothing is planned" in render_markdown(build([]))
    assert parse_csv(csv_text([build([])])) == []


def test_provenance_heads_the_markdown() -> None:
    assert "- command: sweep report x.yaml\n- commit: abc\n" in render_markdown(
        build(SCENE), {"command": "sweep report x.yaml", "commit": "abc"}
    )


def test_the_csv_has_its_columns_and_a_line_for_each_cell_and_class_mean() -> None:
    text = csv_text([build(SCENE)])
    assert text.split("\n")[0] == (
        "detector,variant,dataset,protocol,abnormal,selection,evaluation,metric,mean,sd,n,n_planned,low,high,least,"
        "most,n_normal,n_abnormal,paper,difference,study,setting,test_half_width,diverged,failed,stale,counted,gap,"
        "ranked,leader_ahead,leader_ahead_low,leader_ahead_high,leader_ahead_p_holm,se_seeds,se_test_set,classes_ahead,"
        "classes_half_width,classes_effect,classes_p,classes_p_holm,classes_p_signed_rank,parameters,train_seconds,cpu_hours,"
        "gpu_hours,usd,reduced_budget,paper_source,paper_why_different"
    )
    found = {(e["detector"], e["setting"], e["abnormal"]): e for e in parse_csv(text)}
    assert len(found) == 4 * 4
    cell = found[("ganomaly", "", "5")]
    assert float(cell["mean"]) == pytest.approx(0.725)
    assert (cell["n"], cell["n_planned"]) == ("2", "3")
    assert 0.0 < float(cell["low"]) < float(cell["least"]) == 0.7
    assert 0.75 == float(cell["most"]) < float(cell["high"]) < 1.0
    assert found[("knn", "", "mean")]["low"] == ""


def test_a_class_mean_without_a_complete_seed_is_not_quoted() -> None:
    found = parse_csv(csv_text([build(rows({"0": (0.8, None), "1": (None, 0.6)}))]))
    assert [(e["abnormal"], e["mean"] != "", e["n"]) for e in found] == [
        ("0", True, "1"), ("1", True, "1"), ("mean", False, "0"),
    ]  # fmt: skip


def hostile_rows(names: tuple[str, str, str]) -> list[dict[str, Any]]:
    abnormal, study, detector = names
    fields = {"abnormal": abnormal, "study": study, "variant": detector}
    return [row(0.5, f"{detector}:Own", **fields), row(0.6, **fields)]


@settings(max_examples=50, deadline=None)
@given(st.tuples(HOSTILE, HOSTILE, HOSTILE))
def test_names_cannot_break_the_csv_or_become_formulas(names: tuple[str, str, str]) -> None:
    text = csv_text([build(hostile_rows(names))])
    found = parse_csv(text)
    assert len(found) == 4 == len(text.splitlines()) - 1
    for entry in found:
        assert None not in entry
        for column in ("detector", "variant", "dataset", "protocol", "abnormal", "study", "setting"):
            assert not entry[column].lstrip().startswith(("=", "+", "-", "@"))
        if entry["abnormal"] != "mean":
            plain = "".join(c if c.isprintable() else " " for c in names[0])
            assert entry["abnormal"] in (plain, f"'{plain}")


@settings(max_examples=50, deadline=None)
@given(st.tuples(HOSTILE, HOSTILE, HOSTILE))
def test_names_cannot_break_a_markdown_table(names: tuple[str, str, str]) -> None:
    text = render_markdown(build(hostile_rows(names)), {names[0]: names[1]})
    lines = table_lines(text)
    assert len(lines) == 4
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", found)) for found in lines} == {len(lines[1].split("|")) - 1}
    assert not re.search(r"(?<!\\)(?:\\\\)*[<`]", text)


@settings(max_examples=50, deadline=None)
@given(st.tuples(HOSTILE, HOSTILE, HOSTILE))
def test_names_cannot_command_the_terminal(names: tuple[str, str, str]) -> None:
    text = print_boards(build(hostile_rows(names)), 100)
    assert all(character.isprintable() or character == "\n" for character in text)


def test_files_are_written_with_everything_in_them(tmp_path: Path) -> None:
    both = [dict(entry, selection=s, hp_nz=n) for entry in SCENE for s, n in (("last", 8), ("oracle", 0.5))]
    paths = write(both, tmp_path / "out", provenance={"commit": "abc"})
    names = ["leaderboard.csv", "leaderboard.json", "leaderboard.md", "leaderboard.tex", "results.parquet"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)
    shown = parse_csv(paths[0].read_text())
    assert {(e["selection"], e["metric"]) for e in shown} == {
        (s, m) for s in ("last", "oracle") for m in ("auroc", "ap", "fpr95")
    }
    nested = json.loads(paths[1].read_text())
    assert nested["provenance"] == {"commit": "abc"}
    assert [(b["selection"], b["metric"]) for b in nested["leaderboards"]][:2] == [("last", "auroc"), ("last", "ap")]
    lines = nested["leaderboards"][0]["boards"][0]["lines"]
    assert {line["detector"]: line["mean"]["n"] for line in lines if not line["setting"]}["knn"] == 1
    assert "commit: abc" in paths[2].read_text()
    assert "% commit: abc" in paths[3].read_text()
    table = pq.read_table(paths[4])
    assert table.column_names == [*COLUMNS, "hp_nz"]
    assert table.num_rows == len(both)
    assert build(table.to_pylist()) == build(both)


def test_a_parquet_of_no_rows_still_has_its_columns(tmp_path: Path) -> None:
    table = pq.read_table(write([], tmp_path)[-1])
    assert (table.column_names, table.num_rows) == (list(COLUMNS), 0)


def test_hyperparameters_whose_types_differ_between_detectors_become_text(tmp_path: Path) -> None:
    found = [row(hp_depth=3), row(abnormal="1", hp_depth="deep"), row(abnormal="2")]
    assert pq.read_table(write(found, tmp_path)[-1])["hp_depth"].to_pylist() == ["3", "deep", None]


def test_a_report_that_cannot_be_made_leaves_the_last_one_alone(tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in write(SCENE, tmp_path)}
    with pytest.raises(ValueError, match="two different trials"):
        write([row(0.1, key="aa"), row(0.2, key="bb")], tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_columns_of_the_csv_are_the_ones_announced() -> None:
    assert csv_text([]).strip() == ",".join(CSV_COLUMNS)
