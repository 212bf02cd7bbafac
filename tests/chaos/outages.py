"""Stories of launches on S3 whose answers are spoiled, or stay away for a while."""

from __future__ import annotations

import random
import time

from tests.chaos.story import Launch, story, wait_for_moment
from tests.chaos.tally import Tally
from tests.support.s3_proxy import PASSING, Faults

LONGEST_OUTAGE = 60.0  # seconds
WHOLE = ("503", "500", "reset", "html", "redirect", "lose", "silent")


def spoiled(seed: int, storage: str, plan: Faults, rate: float) -> Tally:
    """Launch a sweep through a proxy that spoils a share of all answers; each spoiled one is a try.

    Args:
        seed: decides which ones.
        storage: address of an empty store, behind the proxy of the environment.
        plan: of the proxy.
        rate: share of spoiled answers.
    """
    with story(storage) as told:
        plan.kinds, plan.rng, before = PASSING, random.Random(f"{seed} {rate}"), plan.injected.total()
        plan.rate = rate
        launch = Launch(told)
        code = launch.wait()
        plan.rate = 0.0
        told.take(launch)
        told.tally.tries = plan.injected.total() - before
        told.tally.add("lost", code != 0, f"ended with {code}:\n{launch.output}")
        told.finish()
        return told.tally


def outage(seed: int, storage: str, plan: Faults) -> Tally:
    """Let S3 stay away for up to a minute in mid-launch: that costs waiting alone."""
    rng = random.Random(f"outage {seed}")
    with story(storage, kind="fixed") as told:
        launch = Launch(told)
        told.tally.tries = int(wait_for_moment(told, launch, rng, steps=60))
        plan.outage = rng.choice(WHOLE)
        time.sleep(rng.uniform(5, LONGEST_OUTAGE))
        plan.outage = ""
        told.recover(launch, since=time.monotonic())
        code = launch.wait()
        told.take(launch)
        told.tally.add("lost", code != 0, f"ended with {code}:\n{launch.output}")
        told.finish()
        return told.tally
