"""Disks that are full, read-only or emptied in mid-launch: a clear stop or a good end, and the same command goes on."""

from __future__ import annotations

import os

import pytest

from tests.chaos import shortages

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(1200),
    pytest.mark.faults,
]


@pytest.mark.parametrize("name", shortages.SHORTAGES)
def test_a_spoiled_disk_is_a_clear_stop_and_the_same_command_goes_on(name: str) -> None:
    if name in shortages.NEED_ROOT and os.geteuid() != 0:
        pytest.skip("mounts a small disk, which needs root")
    tally = shortages.short(name, 1)
    assert tally.is_good, tally


def test_trials_whose_resume_states_are_spoiled_start_again() -> None:
    tally = shortages.spoiled_states(1)
    assert tally.is_good, tally
