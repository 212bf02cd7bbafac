"""Boards: unequal things are never averaged, every planned trial is counted, and the best line is right."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweep.leaderboard.board import Board, build
from sweep.leaderboard.entry import FINEST, Entry
from sweep.leaderboard.papers import printed_value
from sweep.leaderboard.rows import COLUMNS, build_rows
from sweep.leaderboard.stats import interval, logit_interval, logit_range
from sweep.plan.expand import Planned
from sweep.spec.trial import TrialSpec

Row = dict[str, Any]


def row(value: float | None = 0.8, detector: str = "ganomaly", *, status: str = "ok", **fields: Any) -> Row:
    """Return a row like one of `build_rows`; without a value its trial has no result."""
    variant = {"ganomaly": "repo_head", "skip_ganomaly": "repo_head", "anogan": "repo_head"}.get(detector, "plain")
    status = "missing" if value is None and status == "ok" else status
    found: Row = dict.fromkeys(COLUMNS) | {
        "study": "bars", "kind": "error_bars", "detector": detector, "variant": variant, "setting": "",
        "dataset": "digits", "protocol": "D1", "abnormal": "0", "split_seed": 0, "seed": 0,
        "selection": "last", "evaluation": "clean", "status": status, "attempts": 0,
    }  # fmt: skip
    if status == "ok":
        found |= {"auroc": value, "ap": value, "fpr95": value, "base_rate": 0.4, "train_seconds": 2.0}
    found |= fields
    identity = ("detector", "variant", "setting", "dataset", "protocol", "abnormal", "split_seed", "seed")
    return found | {"key": fields.get("key", "/".join(str(found[name]) for name in identity))}


def rows(values: Mapping[str, Iterable[float | None]], detector: str = "ganomaly", **fields: Any) -> list[Row]:
    """Return rows by class and seed; None makes a trial without a result."""
    return [
        row(value, detector, abnormal=abnormal, seed=seed, **fields)
        for abnormal, of_seeds in values.items()
        for seed, value in enumerate(of_seeds)
    ]


def board(found: Iterable[Row], selection: str = "last", evaluation: str = "clean", metric: str = "auroc") -> Board:
    (only,) = build(found, selection, evaluation, metric).boards
    return only


def line(found: Board, detector: str) -> Entry:
    (only,) = [line for line in found.lines if line.detector == detector]
    return only


def test_a_cell_is_the_mean_over_seeds_with_its_interval() -> None:
    cell = line(board(rows({"0": (0.8, 0.9, 0.7)})), "ganomaly").cells["0"]
    assert (cell.mean, cell.sd) == interval([0.8, 0.9, 0.7])[:2]
    assert (cell.low, cell.high) == logit_interval([0.8, 0.9, 0.7], FINEST)
    assert (cell.least, cell.most, cell.values) == (0.7, 0.9, (0.8, 0.9, 0.7))
    assert (cell.n, cell.n_planned) == (3, 3)


def test_the_class_mean_is_taken_within_each_seed_and_its_interval_over_seeds() -> None:
    mean = line(board(rows({"0": (0.5, 0.75), "1": (1.0, 0.25)})), "ganomaly").mean
    assert (mean.mean, mean.sd) == interval([0.75, 0.5])[:2]
    assert (mean.low, mean.high) == logit_interval([0.75, 0.5], FINEST / 2)
    assert mean.n == 2


def test_a_run_that_needs_no_repetition_has_no_interval() -> None:
    cell = line(board(rows({"0": (0.75,), "1": (0.5,)}, "knn")), "knn").mean
    assert (cell.mean, cell.sd, cell.low, cell.n, cell.n_planned) == (0.625, None, None, 1, 1)


def test_a_deterministic_detector_has_delongs_interval() -> None:
    cell = line(board(rows({"0": (0.75,)}, "knn", auroc_se=0.02)), "knn").cells["0"]
    assert (cell.low, cell.high) == logit_range(0.75, 0.02)
    assert line(board(rows({"0": (0.75,)}, auroc_se=0.02)), "ganomaly").cells["0"].low is None, "one seed says nothing"


def test_a_missing_seed_shows_in_its_cell_and_leaves_the_class_mean_to_complete_seeds() -> None:
    found = line(board(rows({"0": (0.8, None, 0.6), "1": (0.9, 0.1, 0.7)})), "ganomaly")
    assert (found.cells["0"].n, found.cells["0"].n_planned) == (2, 3)
    assert found.mean.mean == interval([interval([0.8, 0.9]).mean, interval([0.6, 0.7]).mean]).mean
    assert (found.mean.n, found.mean.n_planned, found.ranked) == (2, 3, False)


def test_without_a_complete_seed_there_is_no_class_mean() -> None:
    found = board(rows({"0": (0.75, None), "1": (None, 0.5)}) + rows({"0": (0.1,), "1": (0.1,)}, "constant"))
    partial = line(found, "ganomaly")
    assert (partial.mean.mean, partial.mean.n, partial.mean.low) == (None, 0, None)
    assert [entry.detector for entry in found.lines] == ["constant", "ganomaly"]
    assert not partial.ranked and not partial.mean.best and not partial.contender


ENDS: dict[str, list[Row]] = {
    "a seed failed": [*rows({"0": (0.99, 0.99), "1": (0.99, 0.99)}), row(None, status="failed", abnormal="1", seed=2)],
    "a class diverged in every seed": [
        *rows({"0": (0.99, 0.99)}),
        *(row(None, status="diverged", abnormal="1", seed=seed) for seed in (0, 1)),
    ],
    "a trial is missing": rows({"0": (0.99, 0.99), "1": (0.99, None)}),
}


@pytest.mark.parametrize("found", ENDS.values(), ids=ENDS.keys())
def test_incomplete_never_outranks_complete(found: list[Row]) -> None:
    ranks = board(found + rows({"0": (0.6, 0.7), "1": (0.6, 0.7)}, "skip_ganomaly"))
    assert [(entry.detector, entry.ranked) for entry in ranks.lines] == [("skip_ganomaly", True), ("ganomaly", False)]
    last = line(ranks, "ganomaly")
    assert not last.mean.best and not any(cell.best for cell in last.cells.values())
    assert (last.behind, last.contender) == (None, False)


def test_a_divergence_in_one_seed_is_a_result_that_counts_as_chance() -> None:
    found = line(board([*rows({"0": (0.9, 0.7)}), row(None, status="diverged", seed=2)]), "ganomaly")
    assert found.ranked
    assert (found.mean.mean, found.mean.counted) == pytest.approx((0.8, 0.7))


def test_lines_are_ranked_among_those_with_the_same_classes() -> None:
    found = board(
        rows({"0": (0.9, 0.8)}) + rows({"0": (0.95, 0.9)}, "egbad")
        + rows({"0": (0.5,), "1": (0.5,)}, "knn") + rows({"0": (0.6,), "1": (0.6,)}, "pca")
    )  # fmt: skip
    assert [entry.detector for entry in found.lines] == ["pca", "knn", "egbad", "ganomaly"]
    assert [entry.mean.best for entry in found.lines] == [True, False, False, False]
    assert line(found, "ganomaly").behind is not None, "it is compared with the best of its own group"
    assert line(found, "ganomaly").gap == pytest.approx(0.25)


def test_failed_trials_are_counted_in_their_cell() -> None:
    found = [*rows({"0": (0.8, 0.7)}), row(None, status="failed", seed=2)]
    cell = line(board(found), "ganomaly").cells["0"]
    assert (cell.n, cell.n_planned, cell.failed, cell.diverged) == (2, 3, 1, 0)


def test_a_board_without_any_result_shows_what_is_planned() -> None:
    found = line(board(rows({"0": (None, None), "1": (None, None)})), "ganomaly")
    assert (found.mean.mean, found.mean.n, found.mean.n_planned, found.ranked) == (None, 0, 2, False)
    assert [(cell.mean, cell.n_planned) for cell in found.cells.values()] == [(None, 2)] * 2
    assert build([]).boards == ()


@pytest.mark.parametrize(("metric", "chance"), [("auroc", 0.5), ("ap", 0.4), ("fpr95", 0.95)])
def test_a_diverged_trial_is_left_out_of_the_mean_and_counts_as_chance_beside_it(metric: str, chance: float) -> None:
    found = rows({"0": (0.75, 0.8), "1": (0.5, 0.25)})
    found[1] = row(None, status="diverged", abnormal="0", seed=1)
    entry = line(board(found, metric=metric), "ganomaly")
    assert (entry.cells["0"].mean, entry.cells["0"].n, entry.cells["0"].diverged) == (0.75, 1, 1)
    assert (entry.mean.mean, entry.mean.n, entry.mean.diverged) == (0.625, 1, 1)
    assert entry.mean.counted == pytest.approx((0.625 + (chance + 0.25) / 2) / 2)


def test_survivors_of_a_divergence_do_not_win() -> None:
    found = rows({"0": (0.9,), "1": (0.9,)}, "skip_ganomaly") + rows({"0": (0.8, 0.8), "1": (0.8, 0.8)})
    found += [row(None, "skip_ganomaly", status="diverged", abnormal=c, seed=1) for c in "01"]
    first, second = board(found).lines
    assert (first.detector, second.detector) == ("ganomaly", "skip_ganomaly")
    assert first.mean.best and not second.mean.best and not second.cells["0"].best
    assert second.mean.mean == pytest.approx(0.9)
    assert second.mean.counted == pytest.approx(0.7)


def test_lines_are_sorted_best_first_and_the_best_of_each_column_is_marked() -> None:
    found = board(
        rows({"0": (0.6,), "1": (0.9,)})
        + rows({"0": (0.8,), "1": (0.5,)}, "knn")
        + rows({"0": (0.8,), "1": (0.4,)}, "pca")
    )
    assert [entry.detector for entry in found.lines] == ["ganomaly", "knn", "pca"]
    assert [entry.mean.best for entry in found.lines] == [True, False, False]
    assert [entry.cells["0"].best for entry in found.lines] == [False, True, True]
    assert [entry.cells["1"].best for entry in found.lines] == [True, False, False]
    assert [entry.reference for entry in found.lines] == [False, True, True]


def test_where_lower_is_better_the_lowest_wins_and_gaps_below_zero_are_gains() -> None:
    found = board(rows({"0": (0.2,)}) + rows({"0": (0.5,)}, "knn") + rows({"0": (0.9,)}, "pca"), metric="fpr95")
    assert [entry.detector for entry in found.lines] == ["ganomaly", "knn", "pca"]
    assert found.lines[0].cells["0"].best
    assert found.lines[0].gap == pytest.approx(-0.3)


def test_the_gap_is_to_the_best_trivial_detector() -> None:
    found = board(rows({"0": (0.9, 0.7)}) + rows({"0": (0.6,)}, "knn") + rows({"0": (0.5,)}, "constant"))
    assert line(found, "ganomaly").gap == pytest.approx(0.2)
    assert line(found, "knn").gap is None


def test_settings_and_studies_are_never_averaged_with_each_other() -> None:
    found = board(
        rows({"0": (0.5,)})
        + rows({"0": (0.9,)}, setting="searched", study="tuned", kind="search", objective="transfer")
        + rows({"0": (0.7,)}, study="other")
        + rows({"0": (0.3,)}, variant="untrained")
    )
    assert [(entry.study, entry.variant, entry.setting, entry.mean.mean) for entry in found.lines] == [
        ("tuned", "repo_head", "searched", 0.9),
        ("other", "repo_head", "", 0.7),
        ("bars", "repo_head", "", 0.5),
        ("bars", "untrained", "", 0.3),
    ]


def test_datasets_and_protocols_have_boards_of_their_own() -> None:
    found = build([row(), row(protocol="D1v"), row(dataset="mnist", protocol="M0")])
    assert [(b.dataset, b.protocol) for b in found.boards] == [
        ("digits", "D1"),
        ("digits", "D1v"),
        ("mnist", "M0"),
    ]


def test_only_the_asked_selection_and_evaluation_count() -> None:
    found = [row(0.5), row(0.9, selection="oracle"), row(0.7, evaluation="legacy_ordered")]
    assert line(board(found, selection="oracle"), "ganomaly").mean.mean == 0.9
    assert line(board(found, evaluation="legacy_ordered"), "ganomaly").mean.mean == 0.7
    assert line(board(found), "ganomaly").mean.mean == 0.5


def test_an_unknown_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="auroc, ap, fpr95"):
        build([], metric="accuracy")


def test_two_trials_that_claim_one_seed_of_one_cell_are_refused() -> None:
    with pytest.raises(ValueError, match="aa and bb; give their studies different names"):
        build([row(0.8, key="bb"), row(0.7, key="aa")])


def test_labels_of_the_reported_class_mark_a_line_as_supervised() -> None:
    found = board(rows({"0": (0.9,)}, setting="searched", objective="labelled") + rows({"0": (0.8,)}))
    assert [entry.supervised for entry in found.lines] == [True, False]


def test_classes_are_in_order_of_number_then_name() -> None:
    found = board([row(abnormal=name) for name in ("truck", "10", "2", "airplane")])
    assert found.classes == ("2", "10", "airplane", "truck")


def noisy(centre: float, classes: int, seeds: int, seed: int) -> dict[str, tuple[float, ...]]:
    """Return AUROCs by class around a centre."""
    random_ = random.Random(seed)
    return {str(c): tuple(centre + random_.gauss(0, 0.01) for _ in range(seeds)) for c in range(classes)}


def test_what_cannot_be_told_from_the_best_is_told_from_what_is_worse() -> None:
    best, close, far = (noisy(centre, 8, 4, number) for number, centre in enumerate((0.902, 0.896, 0.5)))
    found = board(rows(best) + rows(close, "skip_ganomaly") + rows(far, "egbad"))
    assert [entry.detector for entry in found.lines] == ["ganomaly", "skip_ganomaly", "egbad"]
    assert [entry.contender for entry in found.lines] == [True, True, False]
    worse = line(found, "egbad").behind
    assert worse is not None and worse.low <= 0.4 <= worse.high


def test_one_class_is_enough_to_compare_lines_on_it() -> None:
    found = board(rows(noisy(0.9, 1, 4, 0)) + rows(noisy(0.5, 1, 4, 1), "egbad"))
    assert line(found, "egbad").behind is not None and not line(found, "egbad").contender


@pytest.mark.parametrize(("classes", "tested"), [(5, False), (6, True)])
def test_other_classes_are_asked_for_from_6_classes_on(classes: int, tested: bool) -> None:
    found = board(rows(noisy(0.9, classes, 3, 0)) + rows(noisy(0.7, classes, 3, 1), "egbad"))
    pair = line(found, "egbad").over_classes
    assert (pair is not None) == tested
    assert pair is None or (pair.n == classes and pair.p < 0.05)


def test_epochs_that_the_test_set_chose_are_not_compared() -> None:
    lines = rows(noisy(0.9, 2, 3, 0), selection="oracle") + rows(noisy(0.5, 2, 3, 1), "egbad", selection="oracle")
    assert all(entry.behind is None for entry in board(lines, "oracle").lines)


def test_the_best_trained_line_stands_beside_the_best_without_training() -> None:
    found = board(
        rows(noisy(0.9, 2, 3, 0), variant="untrained") + rows(noisy(0.8, 2, 3, 1)) + rows(noisy(0.6, 2, 1, 2), "knn")
    )
    assert found.reference is not None and found.reference.lead is not None
    assert (found.reference.trained[2], found.reference.untrained[2]) == ("repo_head", "untrained")
    assert found.reference.lead.high < 0


def grid_rows(axis: str, values: Mapping[Any, float], centre: Any = None, **hyperparameters: Any) -> list[Row]:
    """Return rows of one axis of a grid.  The study's default is `centre`, or the last value."""
    default = [*values][-1] if centre is None else centre
    return [
        row(value, study="nz", kind="grid", axis=axis, setting=f"{axis}={at}", abnormal=abnormal, centre=at == default,
            **(hyperparameters | ({"lam": at} if axis == "lambda" else {f"hp_{axis}": at})))
        for at, value in values.items()
        for abnormal in "01"
    ]  # fmt: skip


def test_a_grid_is_a_table_of_its_own_in_order_of_its_values() -> None:
    found = board(rows({"0": (0.9,), "1": (0.9,)}) + grid_rows("nz", {100: 0.7, 8: 0.5, 32: 0.6}, centre=32))
    assert [(entry.study, entry.setting) for entry in found.lines] == [("bars", "")]
    (grid,) = found.grids
    assert (grid.study, grid.detector, grid.axis, grid.default) == ("nz", "ganomaly", "nz", 32)
    assert [(entry.value, entry.mean.mean) for entry in grid.lines] == [(8, 0.5), (32, 0.6), (100, 0.7)]


def test_each_axis_of_a_grid_has_a_default_of_its_own() -> None:
    found = board(grid_rows("nz", {16: 0.5, 100: 0.6}, centre=16) + grid_rows("w_con", {1.0: 0.5, 50.0: 0.6}))
    assert {grid.axis: grid.default for grid in found.grids} == {"nz": 16, "w_con": 50.0}


def test_lambda_is_an_axis() -> None:
    (grid,) = board(grid_rows("lambda", {0.9: 0.5, 0.0: 0.7})).grids
    assert (grid.default, [entry.value for entry in grid.lines]) == (0.0, [0.0, 0.9])


def test_papers_stand_beside_every_variant_that_claims_to_be_theirs() -> None:
    mnist = {"dataset": "mnist", "protocol": "M0"}
    found = board(
        rows({str(c): (0.5,) for c in range(10)}, **mnist)
        + rows({"2": (0.6,)}, variant="paper", **mnist)
        + rows({"2": (0.6,)}, variant="repo_2018", **mnist)
        + rows({"2": (0.6,)}, variant="untrained", **mnist)
        + rows({"2": (0.6,)}, setting="searched", **mnist)
        + rows({"2": (0.6,)}, "knn", **mnist)
    )
    default = next(entry for entry in found.lines if len(entry.cells) == 10)
    assert default.cells["2"].difference == pytest.approx(-0.42)
    assert default.mean.paper == pytest.approx(0.757, abs=5e-4)
    printed = {(entry.detector, entry.variant, entry.setting): entry.cells["2"].paper for entry in found.lines}
    assert {name for name, paper in printed.items() if paper == 0.92} == {
        ("ganomaly", variant, "") for variant in ("repo_head", "paper", "repo_2018")
    }
    assert {paper for paper in printed.values() if paper != 0.92} == {None}


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (("ganomaly", "cifar10", "C1", "frog", "auroc"), 0.653),
        (("ganomaly", "cifar10", "C0", "frog", "auroc"), 0.683),
        (("ganomaly", "cifar10", "C0v", "frog", "auroc"), 0.683),
        (("skip_ganomaly", "cifar10", "C1", "frog", "auroc"), 0.931),
        (("skip_ganomaly", "cifar10", "C1", "frog", "ap"), None),
        (("anogan", "mnist", "M0", "1", "auroc"), 0.3),
        (("anogan", "mnist", "M0", "1", "ap"), 0.3),
        (("ganomaly", "digits", "D1", "1", "auroc"), None),
    ],
)
def test_the_papers_value_is_of_the_boards_protocol_where_it_was_printed(
    cell: tuple[str, str, str, str, str], value: float | None
) -> None:
    found = printed_value(*cell)
    assert (None if found is None else found.value) == value


STATUS = st.sampled_from(["ok", "ok", "ok", "missing", "failed", "diverged"])


@st.composite
def sweeps(draw: st.DrawFn) -> list[Row]:
    """Draw a few detectors x classes x seeds, with any status of each trial."""
    found = []
    for detector in draw(st.sets(st.sampled_from(["ganomaly", "skip_ganomaly", "knn", "constant"]), min_size=1)):
        for abnormal in draw(st.sets(st.sampled_from("0123"), min_size=1)):
            for seed in range(draw(st.integers(1, 3))):
                value = draw(st.floats(0, 1))
                found.append(row(value, detector, abnormal=abnormal, seed=seed, status=draw(STATUS)))
    return found


@settings(max_examples=40, deadline=None)
@given(sweeps(), st.integers(0, 2**32))
def test_the_order_of_rows_changes_nothing(found: list[Row], seed: int) -> None:
    shuffled = random.Random(seed)
    for metric in ("auroc", "ap", "fpr95"):
        first = build(found, metric=metric)
        mixed = [dict(sorted(entry.items(), key=lambda _: shuffled.random())) for entry in found]
        shuffled.shuffle(mixed)
        assert build(mixed, metric=metric) == first


@settings(deadline=None)
@given(sweeps())
def test_every_planned_trial_is_counted_in_its_cell(found: list[Row]) -> None:
    for entry in board(found).lines:
        for abnormal, cell in entry.cells.items():
            mine = [r["status"] for r in found if (r["detector"], r["abnormal"]) == (entry.detector, abnormal)]
            assert cell.n_planned == len(mine)
            assert (cell.n, cell.diverged, cell.failed) == tuple(map(mine.count, ("ok", "diverged", "failed")))
        assert (entry.mean.n < entry.mean.n_planned) == any(
            seed_missing
            for cell in entry.cells.values()
            if (seed_missing := cell.n < max(other.n_planned for other in entry.cells.values()))
        )


def test_ten_thousand_rows_are_gathered_and_built_within_three_seconds() -> None:
    trials, results = [], {}
    for study in range(5):
        for abnormal in range(10):
            for seed in range(100):
                spec = TrialSpec(
                    "ganomaly", 1, "repo_head", {"nz": 100, "epochs": 15}, "digits", "s32", "D1", 1, 1,
                    str(abnormal), seed=seed,
                )  # fmt: skip
                trials.append(
                    Planned(f"s{study}", "error_bars", "ganomaly", "repo_head", "", "digits", "D1",
                            str(abnormal), 0, seed, 0.0, spec)
                )  # fmt: skip
                metrics = [{"selection": s, "evaluation": "clean", "auroc": 0.7} for s in ("last", "oracle")]
                results[spec.key] = {"status": "ok", "lam": 0.0, "metrics": metrics, "train_seconds": 1.0}
    began = time.process_time()
    found = build_rows(trials, results, sweep="local", scores=lambda _: None)
    boards = build(found).boards
    assert time.process_time() - began < 3
    assert len(found) == 10_000
    assert [entry.mean.n for entry in boards[0].lines] == [100] * 5
