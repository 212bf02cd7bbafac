"""The comparison of README's board with the quickstart finds every difference."""

from __future__ import annotations

from typing import Any

import pytest

from sweep.leaderboard.board import Board, build
from sweep.leaderboard.rows import COLUMNS
from tests.benchmarks.readme_board import BEGIN, ROOT, SENTENCE, differences

PAGE = f"""```
{BEGIN}
detector                       class mean     gap
ganomaly repo_head             0.750±0.077≈  -0.250
skip_ganomaly repo_head        0.700 [0.500, 0.800]  -0.300
trivial detectors
knn                                   1.000

detector                          0            1
ganomaly repo_head      0.700±0.248  0.800 (0.700-0.900)
```
Here {SENTENCE}.
"""
VALUES = {"ganomaly": (0.7, 0.8), "skip_ganomaly": (0.7, 0.7), "knn": (1.0, 1.0)}


def board(**changed: tuple[float, float]) -> Board:
    rows: list[dict[str, Any]] = [
        dict.fromkeys(COLUMNS)
        | {"study": "s", "kind": "error_bars", "detector": detector, "setting": "", "dataset": "digits", "seed": 0,
           "variant": "plain" if detector == "knn" else "repo_head", "protocol": "D1", "abnormal": str(abnormal),
           "split_seed": 0, "selection": "last", "evaluation": "clean", "status": "ok", "attempts": 0, "auroc": value,
           "base_rate": 0.5, "train_seconds": 1.0, "key": f"{detector}{abnormal}"}
        for detector, values in {**VALUES, **changed}.items()
        for abnormal, value in enumerate(values)
    ]  # fmt: skip
    (found,) = build(rows).boards
    return found


def test_a_page_with_the_numbers_of_the_board_has_no_difference() -> None:
    assert list(differences(PAGE, board())) == []
    assert list(differences(PAGE, board(skip_ganomaly=(0.72, 0.72)))) == [], "other CPUs give it other numbers"


@pytest.mark.parametrize(
    ("page", "changed", "problem"),
    [
        (PAGE, {"ganomaly": (0.7, 0.82)}, "ganomaly repo_head, class mean: the page has 0.750"),
        (PAGE, {"ganomaly": (0.8, 0.7)}, "ganomaly repo_head, 0: the page has 0.700"),
        (PAGE, {"skip_ganomaly": (0.5, 0.5)}, "skip_ganomaly repo_head, class mean: the page has 0.700"),
        (PAGE, {"knn": (0.6, 0.6)}, "is wrong"),
        (PAGE.replace(SENTENCE, "all is well"), {}, "the page does not say"),
        (PAGE.replace(BEGIN, "a board"), {}, "the page has no board"),
        (PAGE.replace("-0.250", "").replace("-0.300", ""), {}, "1 numbers, expected 2"),
    ],
)
def test_each_difference_is_found(page: str, changed: dict[str, Any], problem: str) -> None:
    found = list(differences(page, board(**changed)))
    assert any(problem in line for line in found), found


def test_the_page_has_the_board_and_the_sentence_that_are_compared() -> None:
    page = (ROOT / "README.md").read_text()
    assert BEGIN in page and SENTENCE in page
