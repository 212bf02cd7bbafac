"""Comparison of two detectors, checked by the matrix of all pairs, scipy, and a bootstrap of the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as oracle
from sklearn.metrics import roc_auc_score

from sweep.errors import UserError
from sweep.leaderboard.board import build
from sweep.leaderboard.comparison import Comparison, compare
from sweep.leaderboard.rows import scores
from sweep.plan.expand import Planned
from sweep.report.sheets import comparison_sheet
from tests.support.made_up import SAMPLES, MadeUp, made_up_scores
from tests.trial.test_metrics import pairwise_delong


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    return MadeUp(tmp_path_factory.mktemp("made"))


def compared(made: MadeUp, first: str = "knn", second: str = "ganomaly") -> Comparison:
    (found,) = compare(made.reporting().rows, first, second, lambda key: scores(made.ledger, key))
    return found


def of(made: MadeUp, detector: str, abnormal: str) -> list[Planned]:
    return [p for p in made.planned if (p.detector, p.abnormal) == (detector, abnormal)]


def values(planned: Planned) -> tuple[Any, Any]:
    table = made_up_scores(planned)
    return table["label"].to_numpy(), table["score"].to_numpy()


def test_a_cell_is_tested_by_delong_with_the_seeds_averaged(made: MadeUp) -> None:
    cell = compared(made).cells["1"]
    trials = [*of(made, "knn", "1"), *of(made, "ganomaly", "1")]
    labels = values(trials[0])[0]
    areas, covariance = pairwise_delong(labels, np.array([values(p)[1] for p in trials]))
    weights = np.array([1.0, *[-1 / 3] * 3])
    se = np.sqrt(weights @ covariance @ weights)
    assert cell.difference.mean == pytest.approx(weights @ areas)
    assert cell.difference.half_width == pytest.approx(oracle.norm.ppf(0.975) * se)
    assert cell.difference.p == pytest.approx(2 * oracle.norm.sf(abs(weights @ areas) / se))
    assert (cell.n_first, cell.n_second) == (1, 3)
    assert cell.first == pytest.approx(roc_auc_score(labels, values(trials[0])[1]))


def test_seeds_are_tested_apart_from_it(made: MadeUp) -> None:
    cell = compared(made).cells["1"]
    seeds = [roc_auc_score(*values(p)) for p in of(made, "ganomaly", "1")]
    assert cell.seeds is not None
    assert cell.seeds.p == pytest.approx(oracle.ttest_1samp(seeds, cell.first).pvalue), "knn is deterministic"


def test_the_class_means_test_set_error_is_that_of_drawing_the_images_anew(made: MadeUp) -> None:
    found = compared(made).mean
    assert found is not None
    pairs = []  # by class: labels, and first minus second over (abnormal, normal) pairs
    for c in "012":
        wins = []
        for planned in (*of(made, "knn", c), *of(made, "ganomaly", c)):
            labels, found_scores = values(planned)
            wins.append(np.subtract.outer(found_scores[labels == 1], found_scores[labels == 0]) > 0)
        pairs.append((labels, wins[0] - np.mean(wins[1:], axis=0)))
    random, drawn = np.random.default_rng(0), []
    for _ in range(2_000):  # a drawn image counts in all classes, for both detectors
        count = random.multinomial(SAMPLES, [1 / SAMPLES] * SAMPLES)
        weights = [
            (count[labels == 1] / count[labels == 1].sum(), count[labels == 0] / count[labels == 0].sum())
            for labels, _ in pairs
        ]
        drawn.append(np.mean([a @ gaps @ n for (a, n), (_, gaps) in zip(weights, pairs, strict=True)]))
    assert found.difference.half_width == pytest.approx(1.96 * np.std(drawn), rel=0.15)


def test_the_answer_of_the_board_is_that_of_the_comparison(made: MadeUp) -> None:
    found = compared(made)
    (board,) = build(made.reporting().rows, scores=lambda keys: ((k, scores(made.ledger, k)) for k in keys)).boards
    first, second = board.lines
    assert (first.detector, found.lead) == ("knn", second.behind)
    assert found.lead is not None and found.lead.test > 0
    assert "On these classes knn plain" in comparison_sheet(found, "last epoch, clean").captions[0]


def test_holm_counts_the_classes_and_the_classes_are_compared_as_pairs(made: MadeUp) -> None:
    found = compared(made)
    assert found.classes is not None and found.classes.n == 3
    p = sorted(cell.difference.p for cell in found.cells.values())
    assert min(cell.p_holm or 0 for cell in found.cells.values()) == pytest.approx(min(1.0, 3 * p[0]))
    means = [[getattr(cell, side) for cell in found.cells.values()] for side in ("first", "second")]
    assert found.classes.p == pytest.approx(oracle.ttest_rel(*means).pvalue)


def test_the_other_way_round_is_the_same_with_its_sign_turned(made: MadeUp) -> None:
    one, other = compared(made).mean, compared(made, "ganomaly", "knn").mean
    assert one is not None and other is not None
    assert one.difference.mean == pytest.approx(-other.difference.mean)
    assert one.difference[1:] == pytest.approx(other.difference[1:])


def test_the_table_says_both_and_warns_of_dependent_classes(made: MadeUp) -> None:
    table = comparison_sheet(compared(made), "last epoch, clean")
    assert [label for label, _ in table.sections[0][1]] == ["0", "1", "2", "class mean"]
    assert "knn plain against ganomaly repo_head" in table.title
    assert "dependent" in " ".join(table.captions)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("ganomally", "knn"), "'ganomally' is on no board .there are: ganomaly repo_head, knn plain"),
        (("knn", "knn plain"), "two different detectors"),
        (("", "knn"), "is on no board"),
    ],
)
def test_a_name_that_means_nothing_is_refused_with_those_there_are(
    made: MadeUp, names: tuple[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        compared(made, *names)


def test_the_default_variant_is_meant_unless_another_is_said(tmp_path: Path) -> None:
    made = MadeUp(tmp_path, variants=["default", "untrained"], seeds=1, abnormal=[0, 1])
    assert compared(made, "ganomaly", "ganomaly untrained").second[2] == "untrained"
    assert compared(made, "knn", "ganomaly").second[2] == "repo_head"
    cell = compared(made, "ganomaly", "ganomaly untrained").cells["0"]
    assert cell.difference.p == 1.0, "their invented scores are the same"
    assert cell.seeds is None, "one seed of a detector that is not deterministic does not show its variation"
