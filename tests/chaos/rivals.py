"""Stories of launches that meet: of one sweep, of two sweeps in one store, and of other commands beside a launch."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter

from tests.chaos.story import Launch, Story, story, wait, wait_for_moment
from tests.chaos.tally import Tally
from tests.support.sweeps import ROOT, command, descendants

OWN_PROCESSES = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")  # as a container; it needs root
REFUSED = "is being launched by"
LEASE_SECONDS = 30.0


def at_once(seed: int, launches: int = 2, storage: str | None = None) -> Tally:
    """Start launches of one sweep at the same time, one of them in a container: one runs it, the others are refused."""
    rng = random.Random(f"{seed} {launches}")
    with story(storage, kind="fixed") as told:
        places = [(), *[OWN_PROCESSES if os.getuid() == 0 else ()] * (launches - 1)][:launches]
        rng.shuffle(places)
        rivals = []
        for place in places:
            rivals.append(Launch(told, before=place))
            time.sleep(rng.random() * 2)
        codes = [rival.wait() for rival in rivals]
        told.tally.tries = launches
        for rival, code in zip(rivals, codes, strict=True):
            told.take(rival)
            refused = code == 1 and REFUSED in rival.output
            told.tally.add("lost", code != 0 and not refused, f"ended with {code}:\n{rival.output}")
        told.tally.add("lost", codes.count(0) == 0, "no launch ran the sweep")
        told.tally.add("doubled", codes.count(0) > 1 and len(told.ledger.specs()) > 1, "two launches ran the sweep")
        _count_repeated(told)
        told.finish()
        return told.tally


def paused(seed: int, everything: bool = True) -> Tally:
    """Stop a launch beyond its lease, let one in a container take over, and wake the first, which must give way.

    Args:
        seed: decides the moment.
        everything: stop all of its processes, as in a virtual machine that is paused; else the launch alone.
    """
    with story(kind="fixed") as told:
        first = Launch(told)
        if not wait_for_moment(told, first, random.Random(f"{seed} {everything}"), steps=60):
            return told.tally
        stopped = [first.process.pid, *(descendants(first.process.pid) if everything else [])]
        _signal(stopped, signal.SIGSTOP)
        first_steps, told.tally.tries = told.steps(), 1
        second = Launch(told, before=OWN_PROCESSES)
        if everything:
            told.recover(second)
            told.tally.add("lost", told.steps() == first_steps, f"nobody took over:\n{second.output}")
        else:
            wait(lambda: len(told.ledger.specs()) > 1 or second.has_ended)
        _signal(stopped, signal.SIGCONT)
        codes = (first.wait(), second.wait())
        told.take(second)  # the silence of one that was stopped is its own
        told.tally.add("tracebacks", first.output.count("Traceback (most recent"), first.output)
        gave_way = codes[0] == 1 and "another launch of this sweep has taken over" in first.output
        told.tally.add("lost", not gave_way, f"the first one ended with {codes[0]}:\n{first.output}")
        told.tally.add("lost", codes[1] != 0, f"the second one ended with {codes[1]}:\n{second.output}")
        told.finish()
        return told.tally


def overlapping(seed: int, storage: str | None = None) -> Tally:
    """Launch two sweeps with the same trials into one store at the same time: each trial has one result."""
    with story(storage, kind="fixed") as told:
        first = Launch(told)
        time.sleep(random.Random(seed).random() * 3)
        second = Launch(told, "--set", "sweep.name=other")
        codes = (first.wait(), second.wait())
        told.tally.tries = 2
        for launch, code in zip((first, second), codes, strict=True):
            told.take(launch)
            told.tally.add("lost", code != 0, f"ended with {code}:\n{launch.output}")
        told.finish("--set", "sweep.name=other")
        return told.tally


def beside(seed: int, storage: str | None = None) -> Tally:
    """Run commands that read, and one that puts a dataset, again and again beside a launch."""
    rng = random.Random(seed)
    with story(storage, kind="fixed") as told:
        launch = Launch(told)
        wait(lambda: told.steps() > 0 or launch.has_ended)
        while not launch.has_ended:
            verb = rng.choice([("report",), ("status", "--json"), ("plan",), ("data", "put", "digits")])
            run = subprocess.run(
                command(*verb, told.config), cwd=ROOT, env=told.environment(), capture_output=True, text=True
            )
            output = f"{verb}: {run.stdout}{run.stderr}"
            told.tally.tries += 1
            told.tally.add("lost", run.returncode != 0, output)
            told.tally.add("tracebacks", output.count("Traceback"), output)
        told.tally.add("lost", launch.wait() != 0, launch.output)
        told.take(launch)
        _count_repeated(told)
        told.finish()
        return told.tally


def _signal(processes: list[int], number: int) -> None:
    for pid in processes:
        if os.path.exists(f"/proc/{pid}"):
            os.kill(pid, number)


def _count_repeated(told: Story) -> None:
    """Count steps that were trained more than once, where no launch was disturbed."""
    repeated = {line: times for line, times in Counter(told.log.read_text().splitlines()).items() if times > 1}
    told.tally.add("doubled", len(repeated), f"steps {repeated}")
