"""kill -9 of a launch at any moment, then the same command: no trial is lost or trained twice, nothing is left."""

from __future__ import annotations

import pytest

from tests.chaos.launches import killed

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(1200),
    pytest.mark.faults,
]


@pytest.mark.parametrize("seed", range(2))
def test_killed_with_all_of_ray_it_goes_on_to_the_same_end(seed: int) -> None:
    tally = killed(seed, kills=3)
    assert tally.is_good, tally


def test_killed_alone_it_leaves_nothing_and_goes_on_to_the_same_end() -> None:
    tally = killed(0, kills=3, alone=True)
    assert tally.is_good, tally


def test_killed_on_s3_it_goes_on_to_the_same_end(seaweed_url: str) -> None:
    tally = killed(0, seaweed_url, kills=3)
    assert tally.is_good, tally
