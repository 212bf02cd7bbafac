"""Seeds where they are needed: a pure function of the first seeds' results, with Stein's rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweep.errors import UserError
from sweep.leaderboard.board import build
from sweep.leaderboard.stats import stein_interval
from sweep.plan.expand import Planned, Work, expand
from sweep.plan.more_seeds import grow, may_come, seeds_needed
from sweep.plan.status import read_status
from sweep.spec.load import load
from sweep.spec.study_sections import MoreSeeds
from sweep.store import open_store
from sweep.store.ledger import Ledger
from tests.leaderboard.test_board import Row, rows
from tests.support.records import result_record
from tests.support.sweeps import platform, write_config

RULE = MoreSeeds(width=0.02, most=20)


class Sweep:
    """A sweep of two trained detectors and knn over classes 0 and 1, whose results are invented.

    Args:
        folder: folder of the YAML and the store.
        until: see `MoreSeeds`.
    """

    def __init__(self, folder: Path, until: str = "width") -> None:
        seeds = {"first": 3, "width": 0.02, "most": 20, "until": until}
        study = {"detectors": ["ganomaly", "egbad", "knn"], "datasets": ["digits"], "abnormal": [0, 1], "seeds": seeds}
        spec = load(write_config(folder, [study]))
        self.work: Work = expand(spec, platform(spec))
        self.ledger = Ledger(open_store(spec.storage), spec.name)

    def finish(self, trials: list[Planned], values: dict[str, list[float]]) -> None:
        """Put a result for each trial, with the AUROC that its detector has at its seed."""
        for planned in trials:
            value = values[planned.detector][planned.seed]
            numbers = {"auroc": value, "ap": value, "fpr95": value, "base_rate": 0.5, "n_normal": 9, "n_abnormal": 9}
            metrics = [
                {"selection": "last", "evaluation": "clean", "epoch": 1, **numbers, "ties": 0.0, "auroc_se": 0.1}
            ]
            self.ledger.put_result(
                planned.key, {**result_record(key=planned.key, spec=planned.spec.to_dict()), "metrics": metrics}
            )

    @property
    def grown(self) -> dict[str, int]:
        """Return the number of seeds of each detector now."""
        work = grow(self.work, self.ledger, self.ledger.index().finished)
        return {name: len({p.seed for p in work.fixed if p.detector == name}) for name in ("ganomaly", "egbad", "knn")}


VALUES = {"ganomaly": [0.80, 0.84, 0.82], "egbad": [0.60, 0.601, 0.602], "knn": [0.7] * 3}


def test_the_first_seeds_decide_how_many_follow(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    assert sweep.grown == {"ganomaly": 3, "egbad": 3, "knn": 1}
    assert may_come(sweep.work, ()) == 2 * 2 * 17
    sweep.finish(list(sweep.work.fixed), VALUES)
    assert seeds_needed([0.80, 0.84, 0.82], RULE) == 19, "(4.303 * 0.02 / 0.02)^2 = 18.5"
    assert sweep.grown == {"ganomaly": 19, "egbad": 3, "knn": 1}
    assert may_come(sweep.work, sweep.ledger.index().finished) == 0


def test_later_results_change_nothing(tmp_path: Path) -> None:
    """Else a launch that goes on would come to another plan."""
    sweep = Sweep(tmp_path)
    sweep.finish(list(sweep.work.fixed), VALUES)
    before = grow(sweep.work, sweep.ledger, sweep.ledger.index().finished)
    further = [planned for planned in before.fixed if planned.seed >= 3]
    sweep.finish(further, {"ganomaly": [0.1 + 0.04 * n for n in range(20)]})
    assert grow(sweep.work, sweep.ledger, sweep.ledger.index().finished) == before
    status = read_status(sweep.work, sweep.ledger)
    assert (status.count("trials"), status.count("to_run"), status.may_come) == (2 * (19 + 3 + 1), 0, 0)


def test_one_missing_trial_of_the_first_seeds_keeps_the_decision_open(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.finish([p for p in sweep.work.fixed if (p.detector, p.seed, p.abnormal) != ("ganomaly", 2, "1")], VALUES)
    assert sweep.grown["ganomaly"] == 3
    assert may_come(sweep.work, sweep.ledger.index().finished) == 2 * 17


def test_lines_that_are_decided_get_no_more_seeds(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "decided")
    close = {"ganomaly": [0.72, 0.76, 0.74], "egbad": [0.600, 0.601, 0.602], "knn": [0.7] * 3}
    sweep.finish(list(sweep.work.fixed), close)
    assert sweep.grown == {"ganomaly": 19, "egbad": 3, "knn": 1}, "knn is not told from ganomaly by three seeds"


def test_a_leader_that_is_told_from_all_others_gets_no_more_seeds(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "decided")
    clear = {"ganomaly": [0.7, 0.8, 0.6], "egbad": [0.900, 0.9001, 0.9002], "knn": [0.1] * 3}
    sweep.finish(list(sweep.work.fixed), clear)
    assert sweep.grown == {"ganomaly": 20, "egbad": 3, "knn": 1}, "ganomaly's spread leaves it open"
    (tmp_path / "other").mkdir()
    other = Sweep(tmp_path / "other", "decided")
    clear["ganomaly"] = [0.5, 0.5001, 0.5002]
    other.finish(list(other.work.fixed), clear)
    assert other.grown == {"ganomaly": 3, "egbad": 3, "knn": 1}


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ({"first": 1, "width": 0.02}, "first must be at least 2"),
        ({"first": 3}, "width"),
        ({"first": 3, "width": 0.7}, "width"),
        ({"first": 5, "width": 0.02, "most": 4}, "most must be at least first, which is 5"),
        ({"first": [1, 2], "width": 0.02}, "first must be a count"),
        ({"width": 0.02, "until": "never"}, "until"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(tmp_path: Path, seeds: dict[str, Any], message: str) -> None:
    study = {"detectors": ["ganomaly"], "datasets": ["digits"], "seeds": seeds}
    with pytest.raises(UserError) as caught:
        load(write_config(tmp_path, [study]))
    assert message in str(caught.value)


@pytest.mark.parametrize("spread", [0.005, 0.02, 0.1])
def test_its_interval_covers_the_mean_whatever_the_spread(spread: float) -> None:
    random, held = np.random.default_rng(0), 0
    for _ in range(2_000):
        values = np.clip(random.normal(0.7, spread, 20), 0, 1).tolist()
        values = values[: seeds_needed(values[:3], RULE)]
        low, high = stein_interval(values, 3)
        held += low <= 0.7 <= high
        assert high - low <= 0.04 + 1e-9 or len(values) == 20
    assert held / 2_000 >= 0.94, "95 % but for the error of 2,000 draws"


def test_a_board_shows_its_interval() -> None:
    found: list[Row] = rows({"0": (0.7, 0.72, 0.71, 0.9)}, first_seeds=3)
    (board,) = build(found).boards
    mean = board.lines[0].mean
    assert (mean.low, mean.high) == pytest.approx(stein_interval([0.7, 0.72, 0.71, 0.9], 3))
    half_width = 4.302653 * 0.01 / 2
    assert (mean.high or 0) - (mean.low or 0) == pytest.approx(2 * half_width, rel=1e-5)
