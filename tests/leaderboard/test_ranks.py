"""Average ranks and critical differences, checked by scikit-posthocs."""

from __future__ import annotations

import io

import numpy as np
import pytest
import scikit_posthocs
from rich.console import Console
from scipy import stats as oracle

from sweep.leaderboard.board import build
from sweep.leaderboard.ranks import average_ranks, rank_lines
from sweep.report.figures import draw
from sweep.report.terminal import render_terminal
from tests.leaderboard.test_board import Row, rows

NAMES = [("s", f"detector{n}", "v", "") for n in range(5)]


def noisy(cells: int, seed: int) -> list[list[float]]:
    means = np.array([0.9, 0.88, 0.7, 0.69, 0.5])
    values: list[list[float]] = (means + np.random.default_rng(seed).normal(0, 0.08, (cells, 5))).tolist()
    return values


@pytest.mark.parametrize("seed", range(5))
def test_what_is_told_apart_is_what_nemenyis_test_tells_apart(seed: int) -> None:
    values = noisy(12, seed)
    found = rank_lines(NAMES, values, 1.0)
    theirs = scikit_posthocs.posthoc_nemenyi_friedman(np.array(values)).to_numpy()
    order = [NAMES.index(name) for name in found.names]
    for i, a in enumerate(order):
        for j, b in enumerate(order):
            apart = abs(found.ranks[i] - found.ranks[j]) >= found.critical
            assert i == j or apart == (theirs[a, b] <= 0.05)
    assert found.p == pytest.approx(oracle.friedmanchisquare(*np.array(values).T).pvalue)


def test_ties_share_a_rank_and_lower_can_be_better() -> None:
    found = rank_lines(NAMES[:3], [[0.5, 0.5, 0.9]] * 10, -1.0)
    assert found.ranks == (1.5, 1.5, 3.0) and found.names[-1] == NAMES[2]
    assert found.groups == ((0, 1),)


def test_groups_are_the_largest_runs_that_cannot_be_told_apart() -> None:
    found = rank_lines(NAMES, noisy(40, 0), 1.0)
    for first, last in found.groups:
        assert found.ranks[last] - found.ranks[first] < found.critical
        assert last + 1 == 5 or found.ranks[last + 1] - found.ranks[first] >= found.critical
    assert len({*found.groups}) == len(found.groups)


def many(classes: int) -> list[Row]:
    names = ("ganomaly", "skip_ganomaly", "egbad", "knn")
    return [
        one
        for number, name in enumerate(names)
        for one in rows({str(c): (0.9 - 0.1 * number + 0.001 * c,) for c in range(classes)}, name)
    ]


def test_ranks_are_shown_from_10_cells_on_over_all_datasets() -> None:
    other = [{**row, "dataset": "mnist", "key": f"mnist {row['key']}"} for row in many(5)]
    found = average_ranks(build(many(5) + other))
    assert found is not None and (found.cells, found.ranks) == (10, (1.0, 2.0, 3.0, 4.0))
    assert average_ranks(build(many(9))) is None
    console = Console(width=120, file=io.StringIO())
    console.print(render_terminal(build(many(10)), 120))
    assert "Average ranks by AUROC over 10 cells" in console.file.getvalue()  # type: ignore[attr-defined]
    drawings = {drawing.name for drawing in draw(build(many(10)), many(10), (), lambda _: None)}
    assert "average-ranks" in drawings


def test_incomplete_lines_have_no_rank() -> None:
    holes = [
        {**r, "auroc": None, "status": "failed"} if (r["detector"], r["abnormal"]) == ("egbad", "3") else r
        for r in many(10)
    ]
    found = average_ranks(build(holes))
    assert found is not None and (len(found.names), found.left_out) == (3, 1)
