"""A launch on a provider's machines: the order of its steps, and what is left if it fails half-way."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.errors import DONE, INTERRUPTED, SOME_FAILED, AlreadyRuns, Outcome, UserError
from sweep.launch import follow
from sweep.launch.remote import RemoteLaunch
from sweep.plan.expand import expand
from sweep.plan.status import SweepStatus
from sweep.providers.onprem.provider import OnPremProvider
from sweep.spec.load import load
from sweep.store import launch_status, open_store
from sweep.store.base import Store, StoreError
from sweep.store.launch_status import LaunchStatus
from sweep.store.lease import Lease, LeaseHeld
from sweep.store.ledger import Ledger
from tests.support.providers import STATUS, on_hosts
from tests.support.ray_nodes import RayNodes, ray_nodes
from tests.support.sweeps import ROOT, TIMEOUT, environment, platform, results_of, wait_until, write_config


class Machines(OnPremProvider):
    """A provider with machines that are only names in a list.

    Attributes:
        making, submitting, removing: called in `provision`, `submit` and `teardown`.
        up: machines that exist.
        asked: all calls, in order.
        deadline: argument of `provision`.
    """

    def __init__(
        self,
        making: Callable[[], object] = lambda: None,
        submitting: Callable[[int], object] = lambda number: None,
        removing: Callable[[], object] = lambda: None,
        up: list[str] | None = None,
    ) -> None:
        super().__init__(on_hosts())
        self.making, self.submitting, self.removing = making, submitting, removing
        self.up: list[str] = up or []
        self.asked: list[str] = []
        self.deadline: float | None = None

    def provision(self, status: SweepStatus, console: Console, deadline: float | None) -> float | None:
        self.asked.append("make")
        self.up.append("a head")
        self.deadline = deadline
        self.making()
        return None if deadline is None else deadline - 300

    def submit(self, number: int) -> None:
        self.asked.append(f"submit {number}")
        self.submitting(number)

    def is_alive(self) -> bool | None:
        return bool(self.up)

    def resources(self) -> list[str]:
        return list(self.up)

    def teardown(self, console: Console) -> list[str]:
        self.asked.append("tear down")
        self.removing()
        removed, self.up[:] = list(self.up), []
        return removed


class LaunchCase:
    """A sweep of one trivial trial, for a launch."""

    def __init__(self, folder: Path) -> None:
        self.config = write_config(
            folder, [{"detectors": ["constant"], "abnormal": [0]}], budget={"max_hours": 2}, cluster={"cpus": 1}
        )
        self.sweep = load(self.config)
        self.store: Store = open_store(self.sweep.storage)
        self.ledger = Ledger(self.store, self.sweep.name)
        self.output = io.StringIO()

    def launch_on(self, provider: Machines) -> RemoteLaunch:
        where = platform(self.sweep)
        console = Console(file=self.output, width=300)
        prepared = (self.sweep, expand(self.sweep, where), where, self.store, self.ledger, console)
        return RemoteLaunch(*prepared, provider, STATUS, lambda verb: f"sweep {verb} it")

    def writes_status(self, **head: Any) -> Callable[[int], None]:
        """Return a function that writes this status of the head, for `Machines.submitting`."""
        return lambda number: launch_status.write(self.store, self.sweep.name, LaunchStatus(number, **head))

    @property
    def printed(self) -> str:
        return self.output.getvalue()


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LaunchCase:
    monkeypatch.setattr(follow, "POLL_SECONDS", 0.01)
    return LaunchCase(tmp_path)


def test_a_launch_is_made_recorded_submitted_and_followed_and_nothing_is_left(launched: LaunchCase) -> None:
    provider = Machines(submitting=launched.writes_status(state="ended", exit_code=SOME_FAILED, cause="1 trial failed"))
    before = time.time()
    assert launched.launch_on(provider).run(detach=False) == Outcome(SOME_FAILED)
    assert provider.asked == ["make", "submit 1", "tear down"]
    (spec,) = launched.ledger.specs()
    assert spec["skip_failed"] is False
    assert before <= spec["started"] <= time.time()
    assert provider.deadline == pytest.approx(spec["started"] + 7200)
    assert spec["deadline"] == pytest.approx(spec["started"] + 6900), "the provider's time, which may be sooner"
    assert "1 trial failed" in launched.printed and "removed: a head" in launched.printed
    assert list(launched.store.list("datasets")), "missing data are put before machines are made"


def test_the_sweep_is_ours_while_machines_are_made_and_the_heads_from_then_on(launched: LaunchCase) -> None:
    lease = Lease(launched.store, f"sweeps/{launched.sweep.name}/lease", "the driver")

    def other() -> None:
        with pytest.raises(LeaseHeld):
            lease.acquire()

    provider = Machines(making=other, submitting=lambda number: other())
    assert launched.launch_on(provider).run(detach=True) == Outcome(DONE, finished=False)
    lease.acquire()
    assert provider.up == ["a head"]
    assert "sweep status it --watch" in launched.printed and "sweep down it" in launched.printed


@pytest.mark.parametrize("stage", ["making", "submitting"])
@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_fails_before_the_supervisor_runs_takes_everything_down(
    launched: LaunchCase, stage: str, number: signal.Signals | None
) -> None:
    def fail(*_: object) -> None:
        if number is None:
            raise UserError("no capacity")
        os.kill(os.getpid(), number)
        time.sleep(60)

    provider = Machines()
    setattr(provider, stage, fail)
    if number is None:
        with pytest.raises(UserError, match="no capacity"):
            launched.launch_on(provider).run(detach=False)
    else:
        assert launched.launch_on(provider).run(detach=False) == Outcome(INTERRUPTED, finished=False)
    assert provider.up == []
    assert "removed: a head" in launched.printed
    assert len(launched.ledger.specs()) == (stage == "submitting"), "a launch is recorded only when the machines exist"
    Lease(launched.store, f"sweeps/{launched.sweep.name}/lease", "the next").acquire()


def launch_until_interrupted(folder: Path) -> None:
    """Launch in this process, and write the result into a file; runs as a separate process."""

    def making() -> None:
        (folder / "making").touch()
        time.sleep(60)

    launched, provider = LaunchCase(folder), Machines(making=making)
    outcome = replace(launched.launch_on(provider), console=Console(highlight=False)).run(detach=False)
    (folder / "left").write_text(f"{outcome.code} {provider.up}")


@pytest.mark.parametrize("reader", ["terminal", "pipe"])
def test_a_launch_whose_reader_is_gone_takes_everything_down_all_the_same(tmp_path: Path, reader: str) -> None:
    ours, theirs = pty.openpty() if reader == "terminal" else os.pipe()
    # A terminal that is closed sends SIGHUP to the processes that it controls.
    attach = partial(fcntl.ioctl, theirs, termios.TIOCSCTTY, 0) if reader == "terminal" else None
    with open(tmp_path / "errors", "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import *; launch_until_interrupted(Path({str(tmp_path)!r}))"],
            cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=theirs, stderr=errors,
            start_new_session=True, preexec_fn=attach,
        )  # fmt: skip
    os.close(theirs)
    os.set_blocking(ours, False)

    def making() -> bool:
        with suppress(OSError):  # nothing left to read
            os.read(ours, 65_536)  # otherwise the launch would wait for a full terminal
        return (tmp_path / "making").exists()

    wait_until(making, process)
    os.close(ours)
    if reader == "pipe":
        process.send_signal(signal.SIGINT)  # Ctrl-C in `launch | tee` reaches both
    process.wait(timeout=TIMEOUT)
    assert (tmp_path / "left").exists(), (tmp_path / "errors").read_text()
    assert (tmp_path / "left").read_text() == "130 []"


def test_a_terminal_that_is_closed_is_told_by_shell_and_kernel_and_interrupts_once(launched: LaunchCase) -> None:
    def hang_up() -> None:
        os.kill(os.getpid(), signal.SIGHUP)

    provider = Machines(making=hang_up, removing=hang_up)
    assert launched.launch_on(provider).run(detach=False).code == INTERRUPTED
    assert provider.up == []
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_a_launch_that_shall_outlive_its_terminal_does(launched: LaunchCase) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        provider = Machines(making=lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert launched.launch_on(provider).run(detach=True).code == DONE
    finally:
        signal.signal(signal.SIGHUP, before)
    assert provider.up == ["a head"]


def test_where_taking_down_fails_the_way_out_is_said_and_the_first_problem_is_the_one(launched: LaunchCase) -> None:
    def fail(words: str) -> Callable[[], None]:
        def raising() -> None:
            raise UserError(words)

        return raising

    provider = Machines(making=fail("no capacity"), removing=fail("EC2 does not answer"))
    with pytest.raises(UserError, match="no capacity"):
        launched.launch_on(provider).run(detach=False)
    assert "EC2 does not answer: machines may be left.  Remove them: sweep down it" in launched.printed


def test_a_second_interruption_leaves_at_once(launched: LaunchCase) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    provider = Machines(making=interrupt, removing=interrupt)
    assert launched.launch_on(provider).run(detach=False).code == INTERRUPTED
    assert "Remove them: sweep down it" in launched.printed


def test_a_second_launch_is_refused_and_touches_nothing(launched: LaunchCase) -> None:
    provider = Machines()
    lease = Lease(launched.store, f"sweeps/{launched.sweep.name}/lease", "ubuntu@head")
    with lease.hold(), pytest.raises(UserError) as caught:
        launched.launch_on(provider).run(detach=False)
    for words in ("is run by ubuntu@head, for", "sweep status it --watch", "sweep down it", "sweep.name=NAME"):
        assert words in str(caught.value)
    assert provider.asked == []


def test_a_launch_is_refused_while_a_head_speaks_whose_driver_is_being_restarted(launched: LaunchCase) -> None:
    launched.writes_status(state="running")(7)
    provider = Machines(up=["a head"])
    with pytest.raises(UserError, match="launch 7 of sweep test runs"):
        launched.launch_on(provider).run(detach=False)
    assert provider.asked == []
    gone = Machines(submitting=launched.writes_status(state="ended", exit_code=0))
    assert launched.launch_on(gone).run(detach=False).code == DONE, "without a head no launch is refused"


def test_a_head_that_runs_another_launch_is_left_alone(launched: LaunchCase) -> None:
    def refuse(number: int) -> None:
        raise AlreadyRuns("the head of sweep test runs another launch")

    provider = Machines(submitting=refuse)
    with pytest.raises(UserError, match="runs another launch"):
        launched.launch_on(provider).run(detach=False)
    assert provider.up == ["a head"]


def test_ctrl_c_while_following_leaves_the_machines_alone(launched: LaunchCase) -> None:
    def submit(number: int) -> None:
        launched.writes_status(state="running")(number)
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()

    provider = Machines(submitting=submit)
    assert launched.launch_on(provider).run(detach=False) == Outcome(INTERRUPTED, finished=False)
    assert provider.up == ["a head"]
    assert "the launch goes on without this machine.  To see it: sweep status it --watch" in launched.printed


def test_a_head_that_is_lost_leaves_no_workers_and_the_next_command_is_said(
    launched: LaunchCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "SILENT_SECONDS", 0.1)
    provider = Machines(submitting=launched.writes_status(state="running"))
    launch = launched.launch_on(provider)
    monkeypatch.setattr(provider, "is_alive", lambda: False)
    with pytest.raises(UserError, match=r"the head is gone.*go on with: sweep launch it"):
        launch.run(detach=False)
    assert provider.up == []
    head = launch_status.read(launched.store, launched.sweep.name)
    assert head is not None and head.has_ended and (head.cause or "").startswith("the head is gone: taken down by ")


@pytest.mark.parametrize("end", ["ended", "gone"])
@pytest.mark.parametrize("other", ["makes machines", "waits for its driver"])
def test_who_followed_a_launch_leaves_the_machines_of_the_next_one_alone(
    launched: LaunchCase, monkeypatch: pytest.MonkeyPatch, end: str, other: str
) -> None:
    monkeypatch.setattr(follow, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr("sweep.store.lease.HANDOVER_SECONDS", 0.0)
    provider = Machines(up=["a head of launch 2"])
    monkeypatch.setattr(provider, "is_alive", lambda: False)
    state, code = ("ended", SOME_FAILED) if end == "ended" else ("running", None)
    launched.writes_status(state=state, exit_code=code)(1)
    numbers = [launched.ledger.put_spec({"started": 1.0}) for _ in range(1 if other == "makes machines" else 2)]
    making = Lease(launched.store, f"sweeps/{launched.sweep.name}/lease", "ada@laptop-2")
    with making.hold() if other == "makes machines" else nullcontext():
        if end == "ended":
            assert launched.launch_on(provider).follow(1) == Outcome(SOME_FAILED)
            text = launched.printed
        else:
            with pytest.raises(UserError) as caught:
                launched.launch_on(provider).follow(1)
            text = str(caught.value)
    assert (provider.up, "tear down" in provider.asked) == (["a head of launch 2"], False)
    assert ("is run by ada@laptop-2" if len(numbers) == 1 else "launch 2 of sweep test has taken over") in text
    assert "nothing was removed.  To see it: sweep status it --watch" in text


def test_a_driver_that_has_ended_and_not_yet_let_go_of_the_sweep_is_waited_for(launched: LaunchCase) -> None:
    driver = Lease(launched.store, f"sweeps/{launched.sweep.name}/lease", "ubuntu@head, launch 1")
    driver.acquire()
    launched.writes_status(state="ended", exit_code=DONE)(1)
    threading.Timer(0.2, driver.release).start()
    provider = Machines(up=["a worker"])
    assert launched.launch_on(provider).follow(1) == Outcome(DONE)
    assert provider.up == []


def test_the_lease_of_a_driver_that_died_with_its_head_keeps_no_machine(launched: LaunchCase) -> None:
    Lease(launched.store, f"sweeps/{launched.sweep.name}/lease", "ubuntu@head, launch 1", ttl_seconds=0.1).acquire()
    path = f"sweeps/{launched.sweep.name}/lease"
    record = json.loads(launched.store.get(path))
    launched.store.put(path, json.dumps({**record, "machine": "another boot"}).encode())
    launched.writes_status(state="ended", exit_code=DONE)(1)
    provider = Machines(up=["a worker"])
    assert launched.launch_on(provider).follow(1) == Outcome(DONE)
    assert provider.up == []


@pytest.mark.parametrize("error", [StoreError("no route to the store"), KeyboardInterrupt()])
def test_where_nobody_knows_who_runs_the_sweep_the_way_out_is_said(
    launched: LaunchCase, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(lease: Lease) -> None:
        raise error

    monkeypatch.setattr("sweep.launch.remote.take_over", fail)
    launched.writes_status(state="ended", exit_code=DONE)(1)
    provider = Machines(up=["a worker"])
    assert launched.launch_on(provider).follow(1) == Outcome(DONE)
    assert provider.up == ["a worker"]
    assert f"{str(error) or 'interrupted'}: machines may be left.  Remove them: sweep down it" in launched.printed


class RayMachines(Machines):
    """Nodes of Ray on this machine; the supervisor runs as on a head."""

    def __init__(self, nodes: RayNodes, sweep: str, storage: str, folder: Path) -> None:
        super().__init__()
        self._nodes, self._words, self._folder = nodes, [storage, sweep], folder

    def provision(self, status: SweepStatus, console: Console, deadline: float | None) -> float | None:
        self._nodes.start_worker(1)
        return super().provision(status, console, deadline)

    def submit(self, number: int) -> None:
        super().submit(number)
        command = [
            sys.executable, "-m", "sweep.launch.head.supervisor", *self._words, str(number), "--detach",
            "--log", str(self._folder / "supervisor.log"), "--supervised", str(self._folder / "supervised"),
            "--then", f"touch {self._folder}/then",
        ]  # fmt: skip
        subprocess.run(command, cwd=ROOT, env=environment(**self._nodes.entry), check=True)
        wait_until((self._folder / "supervised").exists)


@pytest.mark.ray
@pytest.mark.faults
def test_a_real_supervisor_is_submitted_and_followed_to_its_end(launched: LaunchCase, tmp_path: Path) -> None:
    folder = tmp_path / "head"
    folder.mkdir()
    with ray_nodes() as nodes:
        provider = RayMachines(nodes, launched.sweep.name, launched.sweep.storage, folder)
        assert launched.launch_on(provider).run(detach=False) == Outcome(DONE), (folder / "supervisor.log").read_text()
        (result,) = results_of(tmp_path).values()
        assert result["status"] == "ok"
        head = launch_status.read(launched.store, launched.sweep.name)
        assert head is not None and (head.state, head.done, head.exit_code) == ("ended", 1, DONE)
        report = {path.rpartition("/")[2] for path in launched.store.list(f"sweeps/{launched.sweep.name}/report")}
        assert {"report.html", "leaderboard.csv"} <= report
        wait_until((folder / "then").exists)
    assert [line for line in launched.printed.splitlines() if line.startswith("the head: ")][-1] == "the head: ended"
