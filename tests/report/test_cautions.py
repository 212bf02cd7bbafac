"""Captions say what a board's numbers cannot be compared with; without a reason there is no caption."""

from __future__ import annotations

from typing import Any

import pytest

from sweep.leaderboard.board import Board, build
from sweep.report.cautions import cautions, copies, splits, supervision, test_sizes
from sweep.report.sheet import line_label
from sweep.report.sheets import sheets
from sweep.spec import yamlfile
from tests.leaderboard.test_board import board, rows

TESTED: dict[str, Any] = {"n_normal": 300, "n_abnormal": 100}
fewer_tested = test_sizes  # a name that pytest does not collect
del test_sizes


def of(*found: Any, **fields: Any) -> Board:
    return board([row for of_line in found for row in of_line], **fields)


def line_rows(detector: str = "ganomaly", **fields: Any) -> list[Any]:
    return rows({"0": (0.8, 0.7), "1": (0.6, 0.5)}, detector, **{**TESTED, **fields})


def test_a_board_without_a_reason_has_the_split_alone() -> None:
    (only,) = cautions(of(line_rows()))
    assert only.startswith("All seeds share one split (split seed 0), so no interval contains")


@pytest.mark.parametrize(
    ("fields", "selection", "text"),
    [
        ({"objective": "labelled"}, "last", "chose the hyperparameters; objective: transfer"),
        ({"selection": "val", "protocol": "D1v"}, "val", "chose the epoch; the selection val_normal"),
        ({"protocol": "D1v", "hp_early_stopping": True, "stop_on": "auroc"}, "last", "chose the end of the training"),
    ],
)
def test_every_use_of_labels_is_marked_and_explained(fields: dict[str, Any], selection: str, text: str) -> None:
    found = of(line_rows(**fields), selection=selection)
    (only,) = supervision(found)
    assert only.startswith("‡ supervised: validation labels of the reported class ") and text in only
    assert line_label(found.lines[0], found.lines) == "ganomaly repo_head‡"
    (sheet, *_) = sheets(build(line_rows(**fields), selection=selection))
    assert only in sheet.captions and sheet.sections[0][1][0][0] == "ganomaly repo_head‡"


@pytest.mark.parametrize(
    ("fields", "selection"),
    [
        ({"objective": "transfer"}, "last"),
        ({"selection": "val_normal", "protocol": "D1v"}, "val_normal"),
        ({"protocol": "D1v", "hp_early_stopping": True, "stop_on": "loss"}, "last"),
        ({"hp_early_stopping": True}, "last"),
        ({"protocol": "D1v", "hp_early_stopping": True, "hp_epochs": 0}, "last"),
        ({"protocol": "D1v", "hp_early_stopping": False}, "last"),
    ],
)
def test_what_uses_no_label_of_the_reported_class_is_not_marked(fields: dict[str, Any], selection: str) -> None:
    found = of(line_rows(**fields), selection=selection)
    assert not found.lines[0].supervised and not list(supervision(found))


def test_only_the_lines_that_use_labels_are_named() -> None:
    searched = line_rows("skip_ganomaly", objective="labelled")
    stopped = line_rows(hp_early_stopping=True, stop_on="auroc")
    found = of([{**row, "protocol": "D1v"} for row in (*searched, *stopped)])
    assert [text.split(": ")[0] for text in supervision(found)] == [
        "‡ supervised (skip_ganomaly repo_head)", "‡ supervised (ganomaly repo_head)",
    ]  # fmt: skip


def test_a_detector_that_is_judged_on_fewer_images_is_named_with_both_numbers_and_the_remedy() -> None:
    few = line_rows("anogan", n_normal=30, n_abnormal=10, hp_max_test=40, variant="dcgan")
    assert list(fewer_tested(of(line_rows(), few))) == [
        "anogan dcgan: judged on 40 of the 400 test images (class 0) on which others are judged; "
        "--set sweep.hyperparameters.anogan.max_test=0 judges it on all."
    ]
    assert yamlfile.override({}, ["sweep.hyperparameters.anogan.max_test=0"]) == {
        "sweep": {"hyperparameters": {"anogan": {"max_test": 0}}}
    }
    assert not list(fewer_tested(of(line_rows(), line_rows("anogan", hp_max_test=2000))))
    assert not list(fewer_tested(of(few))), "nothing else is on the board"


def test_test_images_that_were_trained_on_are_counted() -> None:
    (text,) = copies(of(line_rows(copies=0), line_rows("skip_ganomaly", copies=4)))
    assert text == (
        "Up to 4 of 400 test images (1.00 %) are also training images, pixel for pixel: D1 is the published split of "
        "digits."
    )
    assert not list(copies(of(line_rows(copies=0)))) and not list(copies(of(line_rows())))


def test_captions_say_whether_the_split_was_fixed_over_the_seeds() -> None:
    moving = [{**row, "split_seed": row["seed"]} for row in line_rows("skip_ganomaly")]
    assert list(splits(of(moving))) == ["Each seed has a split of its own (split_seed: follow)."]
    both = list(splits(of(line_rows(), moving)))
    assert both[0].startswith("All seeds of ganomaly repo_head share one split (split seed 0)")
    assert both[1] == "Each seed of skip_ganomaly repo_head has a split of its own (split_seed: follow)."
    assert list(splits(of(line_rows(protocol="C0")))) == ["C0 is the source's own split, the same for all seeds."]
    assert not list(splits(of(rows({"0": (0.8,)}, "knn", **TESTED)))), "one seed has no interval over seeds"
