"""Waiting until something is over, on a clock that tests may move."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

LOOK_SECONDS = 1.0
Left = TypeVar("Left")


@dataclass(frozen=True)
class Waiting:
    """For what takes seconds.

    Attributes:
        clock, sleep: monotonic seconds, and letting some pass.
    """

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def until_none(self, look: Callable[[], Left], seconds: float) -> Left:
        """Look every second until nothing is there any more, or for so long; what was there at last."""
        until = self.clock() + seconds
        while (left := look()) and self.clock() < until:
            self.sleep(LOOK_SECONDS)
        return left


BY_THE_CLOCK = Waiting()
