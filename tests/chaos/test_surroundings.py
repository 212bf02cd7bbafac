"""Odd surroundings of a launch: it works, or says in one line why not; nothing foreign is joined, ended or removed."""

from __future__ import annotations

import os

import pytest

from tests.chaos.surroundings import NEED_ROOT, SURROUNDINGS, surrounded

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(1200),
    pytest.mark.faults,
]


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_launch_works_or_says_why_not(name: str) -> None:
    if name in NEED_ROOT and os.geteuid() != 0:
        pytest.skip("becomes another user, which needs root")
    tally = surrounded(name)
    assert tally.is_good, tally
