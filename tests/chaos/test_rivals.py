"""Launches that meet: one runs the sweep, the others change nothing, and one that was paused gives way."""

from __future__ import annotations

import os

import pytest

from tests.chaos import rivals
from tests.chaos.tally import Tally

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(1200),
    pytest.mark.faults,
]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes a namespace of processes, which needs root")


def assert_good(tally: Tally) -> None:
    assert tally.is_good, tally


def test_of_three_launches_at_once_one_runs_the_sweep() -> None:
    assert_good(rivals.at_once(0, launches=3))


def test_on_s3_as_well(seaweed_url: str) -> None:
    assert_good(rivals.at_once(1, launches=2, storage=seaweed_url))


@needs_root
@pytest.mark.parametrize("everything", [True, False], ids=["with its trials", "alone"])
def test_a_launch_that_is_paused_beyond_its_lease_gives_way_to_the_next(everything: bool) -> None:
    assert_good(rivals.paused(0, everything))


def test_two_sweeps_with_the_same_trials_share_their_results() -> None:
    assert_good(rivals.overlapping(0))


def test_other_commands_beside_a_launch_work_and_change_nothing() -> None:
    assert_good(rivals.beside(0))
