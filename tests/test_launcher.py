"""Ray's launcher in a process of its own: its failure is one clear fault, and an interruption ends it."""

from __future__ import annotations

import os
import signal
import stat
import threading
from pathlib import Path

import pytest
from sweeps import descendants, wait_until

from sweep import launcher
from sweep.faults import UserError
from sweep.launcher import Launcher


def test_a_failure_is_one_fault_with_the_last_that_was_printed_and_where_the_rest_is(tmp_path: Path) -> None:
    words: list[str] = []
    with pytest.raises(UserError) as caught:
        Launcher(tmp_path).up({"cluster_name": "x", "provider": {"type": "nonsense"}}, words.append)
    (fault,) = caught.value.faults
    assert fault.startswith("Ray's launcher could not bring the head up")
    assert str(tmp_path / "launcher.log") in fault
    assert "nonsense" in fault
    assert "Traceback" not in fault
    assert words == []
    assert not (tmp_path / "made.json").exists()
    for name in ("given.json", "launcher.log"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_the_events_of_ray_are_ones_that_it_knows() -> None:
    from ray.autoscaler._private.event_system import CreateClusterEvent

    assert set(launcher.SAID) <= {event.name for event in CreateClusterEvent}


def test_an_interruption_ends_the_launcher(tmp_path: Path) -> None:
    before = set(descendants(os.getpid()))

    def interrupt() -> None:
        wait_until(lambda: set(descendants(os.getpid())) - before)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        Launcher(tmp_path).up({"cluster_name": "x", "provider": {"type": "nonsense"}}, lambda text: None)
    assert set(descendants(os.getpid())) <= before
