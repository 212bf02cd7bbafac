"""Stories of whole launches that are killed, again and again, until the same command ends the sweep."""

from __future__ import annotations

import random

from tests.chaos.story import Launch, story, wait_for_moment
from tests.chaos.tally import Tally
from tests.support.sweeps import kill_everything


def killed(seed: int, storage: str | None = None, kills: int = 5, alone: bool = False) -> Tally:
    """Kill launches of one sweep at seeded moments, then let the same command finish it.

    Args:
        seed: decides the moments.
        storage: address of an empty store; None for a folder.
        kills: number of kills, fewer if the sweep is finished before.
        alone: kill the launch alone, so that what it has started must end by itself; else with all of Ray, as in a
            power cut.
    """
    rng = random.Random(f"{seed} {storage is None} {alone}")
    with story(storage) as told:
        for number in range(kills):
            launch = Launch(told)
            if number:
                told.recover(launch)
            running = wait_for_moment(told, launch, rng)
            told.remember_death()
            if alone:
                launch.kill()
                told.count_left()
            else:
                kill_everything(launch.process)
                launch.kill()
            told.take(launch)
            told.tally.tries += running
            if not running:
                break
        told.finish()
        return told.tally
