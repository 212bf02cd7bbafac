"""Run every story of faults, two at a time, and write the table of what happened into tests/README.md.

    python -m tests.chaos                      all rows, for hours
    python -m tests.chaos --scale 0.1          a tenth of the tries; writes no table
    python -m tests.chaos --row "TMPDIR"       the rows whose name contains this; writes no table

It needs root for some rows.  The exit code is 1 if anything was lost, doubled, left behind or silent, or if there was
a traceback.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from sweep.spec.bf16_units import cpu_bf16_units
from tests.chaos import rivals, shortages, surroundings
from tests.chaos.launches import killed
from tests.chaos.outages import outage, spoiled
from tests.chaos.story import stop_all
from tests.chaos.tally import Tally, table_of
from tests.support.s3_proxy import Faults, faulty_proxy
from tests.support.s3_servers import S3Server, seaweed_server
from tests.support.sweeps import ROOT

PAGE = ROOT / "tests/README.md"
BEGIN, END = "<!-- chaos: begin -->\n", "<!-- chaos: end -->\n"
KILLS = 5  # of one story
S3_FAULTS = 10_000


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        name: what is wrong.
        tries: least number of tries of a full run.
        play: plays one story, given its seed.
    """

    name: str
    tries: int
    play: Callable[[int], Tally]

    def run(self, scale: float) -> Tally:
        """Play stories until there were enough tries, at most twice as many as tries."""
        total, wanted = Tally(), max(1, math.ceil(self.tries * scale))
        for seed in range(2 * wanted):
            began = time.monotonic()
            total += self._play(seed)
            print(f"{self.name}: {total.tries} of {wanted} tries, {time.monotonic() - began:.0f} s", flush=True)
            if total.tries >= wanted:
                break
        return total

    def _play(self, seed: int) -> Tally:
        try:
            tally = self.play(seed)
        except AssertionError as error:
            tally = Tally(tries=1)
            tally.add("lost", 1, f"the story did not end: {error}")
        if tally.harm:
            print(f"{self.name}, seed {seed}:", *tally.notes, sep="\n", flush=True)
        return tally


def rows(server: S3Server, plan: Faults, scale: float) -> list[Row]:
    """Return all rows; `plan` is that of the proxy before the server."""

    def on_s3(play: Callable[[int, str], Tally]) -> Callable[[int], Tally]:
        return lambda seed: play(seed, f"s3://{server.bucket}/{uuid.uuid4().hex}/a b'ü")

    def on_proxy(play: Callable[..., Tally], **options: float) -> Callable[[int], Tally]:
        return on_s3(lambda seed, storage: play(seed, storage, plan, **options))

    return [
        Row("kill -9 of a launch with all of Ray", 50, partial(killed, kills=KILLS)),
        Row("kill -9 of a launch alone", 10, partial(killed, kills=KILLS, alone=True)),
        Row("kill -9 of a launch with all of Ray, on S3", 50, on_s3(partial(killed, kills=KILLS))),
        *(
            Row(f"launch on S3, {rate:.0%} of answers spoiled", tries, on_proxy(spoiled, rate=rate))
            for rate, tries in {0.01: 20, 0.1: 400, 0.5: 500}.items()
        ),
        Row("launch on S3, which stays away for 5 to 60 s", 5, on_proxy(outage)),
        Row("store, lease and ledger on S3, 1 to 50 % of answers spoiled", 1, partial(_s3_calls, scale=scale)),
        Row("two launches of one sweep at once", 6, rivals.at_once),
        Row("three launches of one sweep at once", 6, partial(rivals.at_once, launches=3)),
        Row("three launches of one sweep at once, on S3", 6, on_s3(_three_at_once)),
        Row("launch paused beyond its lease", 3, rivals.paused),
        Row("launch paused beyond its lease, without its trials", 3, partial(rivals.paused, everything=False)),
        Row("two sweeps with the same trials in one store", 6, rivals.overlapping),
        Row("report, status, plan and data put beside a launch", 20, rivals.beside),
        *(Row(f"{name} in mid-launch", 2, partial(shortages.short, name)) for name in shortages.SHORTAGES),
        Row("resume states cut, flipped, emptied, deleted", 20, shortages.spoiled_states),
        *(Row(name, 1, partial(surroundings.surrounded, name)) for name in surroundings.SURROUNDINGS),
        Row("detectors that harm their process", 1, partial(_tests, "tests/chaos/test_neighbours.py")),
        Row("hostile and damaged inputs", 1, partial(_tests, "tests/chaos/test_inputs.py")),
    ]


def _three_at_once(seed: int, storage: str) -> Tally:
    return rivals.at_once(seed, 3, storage)


def _s3_calls(seed: int, scale: float) -> Tally:
    """Run the tests of single calls; each spoiled answer is a try."""
    faults = math.ceil(S3_FAULTS * scale)
    tally = _tests("tests/chaos/test_s3.py", seed, SWEEP_CHAOS_FAULTS=str(faults), SWEEP_CHAOS_SEED=str(seed))
    tally.tries = faults
    return tally


def _tests(file: str, seed: int, **variables: str) -> Tally:
    """Run a file of tests, each a try; one that fails or cannot run counts as lost."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [sys.executable, "-m", "pytest", "-q", "--timeout=7200", f"--junitxml={report}", file]
        run = subprocess.run(words, cwd=ROOT, env={**os.environ, "SWEEP_CI": "1", **variables}, stdout=sys.stderr)
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    bad = [case.get("name") for case in cases if any(case.find(kind) is not None for kind in ("failure", "error"))]
    tally = Tally(tries=len(cases) - sum(case.find("skipped") is not None for case in cases))
    tally.add("lost", max(len(bad), int(run.returncode != 0)), f"tests that failed: {bad}")
    return tally


@contextmanager
def faulty_s3() -> Iterator[tuple[S3Server, Faults]]:
    """Run an S3 server behind a proxy, in the environment of this process."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-s3-", dir="/var/tmp"))
        server = stack.enter_context(seaweed_server(Path(folder)))
        endpoint, plan = stack.enter_context(faulty_proxy(server))
        os.environ.update(server.environment(), AWS_ENDPOINT_URL_S3=endpoint)
        os.environ.pop("AWS_PROFILE", None)
        yield server, plan


def machine() -> str:
    """Describe this machine in a line: CPU, cores and its units for bf16."""
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.+)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return f"{os.cpu_count()} cores of {models[0] if models else platform.processor()}, bf16: {cpu_bf16_units()}"


def written_into(page: str, table: str, where: str) -> str:
    """Return a page with a new table between its markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{where}\n\n{table}\n{END}{after}"


def main() -> int:
    """Run the rows, print the table, and write it into the page if all rows ran whole."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--row", default="", help="run the rows whose name contains this")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the number of tries")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a story that is stopped removes what it has made
    began, done = time.monotonic(), dict[str, Tally]()
    with faulty_s3() as (server, plan), ThreadPoolExecutor(2) as lanes:
        wanted = [row for row in rows(server, plan, options.scale) if options.row in row.name]
        # Rows of S3 share one proxy, so they run one after another; the others run beside them.
        parts = [[row for row in wanted if ("S3" in row.name) == on_s3] for on_s3 in (True, False)]
        try:
            for found in lanes.map(lambda part: {row.name: row.run(options.scale) for row in part}, parts):
                done |= found
        except KeyboardInterrupt:
            stop_all()
            raise
        done = {row.name: done[row.name] for row in wanted}
    minutes = (time.monotonic() - began) / 60
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    where = f"{datetime.date.today()}, commit {commit.stdout.strip()}, {machine()}, {minutes:.0f} minutes:"
    print(f"{where}\n\n{table_of(done)}")
    if options.scale == 1.0 and not options.row:
        PAGE.write_text(written_into(PAGE.read_text(), table_of(done), where))
    return 0 if done and all(tally.is_good for tally in done.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
