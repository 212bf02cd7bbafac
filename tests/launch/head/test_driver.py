"""A launch on an attached Ray cluster of several nodes, with real processes that are killed."""

from __future__ import annotations

import html
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.errors import UserError
from sweep.launch.head.run import HeadLaunch
from sweep.plan.launch_record import command_from_argv
from sweep.store.launch_status import LaunchStatus
from sweep.store.lease import Lease
from tests.support.launches import attempts_of, drive, ended_head, head_of, put_launch, supervise, wait_for_lines
from tests.support.ray_nodes import RayNodes, ray_nodes
from tests.support.sweeps import (
    descendants,
    kill_everything,
    logged,
    plan_of,
    results_of,
    wait_until,
    words_of,
    write_config,
)

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(600)]
STEPS = 20  # steps in an epoch of `tests.support.faulty_detectors:Logged` on digits


@dataclass
class Cluster:
    """A head with two workers of one slot each.

    Attributes:
        nodes: nodes of Ray.
        log: file to which trials write the steps that they train.
        folder: folder for the log and the notices.
        workers: processes of the workers, by the path at which each expects a notice.
    """

    nodes: RayNodes
    log: Path
    folder: Path
    workers: dict[Path, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start_worker(self) -> Path:
        notice = self.folder / f"notice-{len(self.nodes.processes)}"
        self.workers[notice] = self.nodes.start_worker(TRAINED_LOG=str(self.log), SWEEP_NOTICE_FILE=str(notice))
        return notice

    def restore(self) -> None:
        """Start missing workers, remove all notices, and empty the log."""
        self.log.unlink(missing_ok=True)
        for notice, process in list(self.workers.items()):
            notice.unlink(missing_ok=True)
            if process.poll() is not None:
                del self.workers[notice]
        while len(self.workers) < 2:
            self.start_worker()

    def busy_worker(self) -> Path:
        """Return the notice path of a worker that runs a trial."""
        for notice, process in self.workers.items():
            for pid in descendants(process.pid):
                if b"ray::ResourceTrainable.train" in words_of(pid):
                    return notice
        raise AssertionError("no worker runs a trial")

    def steps(self) -> Counter[str]:
        return Counter(self.log.read_text().splitlines())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with ray_nodes() as nodes:
        yield Cluster(nodes, folder / "trained.log", folder)


@pytest.fixture
def cluster(built: Cluster) -> Cluster:
    built.restore()
    return built


def configure(folder: Path, epochs: int, pause: float = 0.0, **top: Any) -> Path:
    folder.mkdir(exist_ok=True)
    study = {**logged(epochs=epochs, pause=pause), "abnormal": [0, 1]}
    return write_config(folder, [study], trial={"retries": 0, "checkpoint_seconds": 0.3, "cpus": 1}, **top)


@pytest.fixture(scope="module")
def calm(built: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Return the folder and the output of a launch without disturbance."""
    built.restore()
    folder = tmp_path_factory.mktemp("calm")
    number = put_launch(configure(folder, epochs=6))
    return folder, drive(folder, number, **built.nodes.entry)


def test_a_launch_runs_to_its_report_and_leaves_the_cluster_as_it_was(
    built: Cluster, calm: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    folder, run = calm
    assert run.returncode == 0, run.stdout + run.stderr
    head = ended_head(folder)
    assert (head.launch, head.exit_code, head.cause, head.restarts) == (1, 0, None, 0)
    assert (head.trials, head.done, head.to_run, head.running) == (2, 2, 0, 0)
    assert head.usd is None, "these machines have no price"
    report = {path.name for path in (folder / "store/sweeps/test/report").iterdir()}
    assert {"report.html", "leaderboard.csv", "results.parquet", "figures"} <= report
    page = html.unescape((folder / "store/sweeps/test/report/report.html").read_text())
    config = next(folder.glob("*.yaml"))
    assert command_from_argv("report", ["launch", str(config), "-y"]) in page
    assert all(process.poll() is None for process in built.nodes.processes), "the cluster still runs"
    assert plan_of(config)["to_run"] == 0


def test_a_driver_that_is_killed_is_started_again_and_the_table_is_the_same(
    cluster: Cluster, calm: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    number = put_launch(configure(tmp_path, epochs=6))
    then = f"cat {tmp_path}/store/sweeps/test/head.json >> {tmp_path}/then"
    supervisor = supervise(tmp_path, number, "--then", then, "--pause", "0.1", **cluster.nodes.entry)
    wait_for_lines(cluster.log, 3 * STEPS, supervisor)
    (driver,) = [pid for pid in descendants(supervisor.pid) if is_driver(pid)]
    os.kill(driver, signal.SIGKILL)
    assert supervisor.wait(timeout=240) == 0, (tmp_path / "supervisor.log").read_text()
    head = ended_head(tmp_path)
    assert (head.exit_code, head.restarts, head.done) == (0, 1, 2)
    assert attempts_of(tmp_path) == [], "no trial has failed"
    statuses = (tmp_path / "then").read_text()
    assert statuses.count('"state"') == 1, "the command ran once"
    assert '"state": "ended"' in statuses, "it ran after the end was written"
    assert (tmp_path / "supervised").exists()
    ours, theirs = results_of(tmp_path), results_of(calm[0])
    assert ours.keys() == theirs.keys()
    for key, result in ours.items():
        assert result["metrics"] == theirs[key]["metrics"]
    assert max(cluster.steps().values()) <= 2, "trials went on from their resume states"


def is_driver(pid: int) -> bool:
    return b"sweep.launch.head\0" in words_of(pid)


def test_trials_of_a_machine_that_is_lost_go_on_elsewhere_and_have_not_failed(cluster: Cluster, tmp_path: Path) -> None:
    config = configure(tmp_path, epochs=8, pause=0.05)
    supervisor = supervise(tmp_path, put_launch(config), **cluster.nodes.entry)
    wait_for_lines(cluster.log, 4 * STEPS, supervisor)
    kill_everything(cluster.workers[cluster.busy_worker()])
    assert supervisor.wait(timeout=240) == 0, (tmp_path / "supervisor.log").read_text()
    (attempt,) = attempts_of(tmp_path)
    assert attempt["status"] == "preempted"
    assert "was lost" in attempt["cause"]
    head = ended_head(tmp_path)
    assert (head.done, head.failed, head.preemptions) == (2, 0, 1)
    assert len(cluster.steps()) == 2 * 8 * STEPS
    assert cluster.steps().total() < 2 * 8 * STEPS + 5 * STEPS, "the trial went on from its resume state"


def test_a_trial_that_sees_the_notice_writes_its_state_and_goes_on_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    config = configure(tmp_path, epochs=8, pause=0.05)
    supervisor = supervise(tmp_path, put_launch(config), **cluster.nodes.entry)
    wait_for_lines(cluster.log, 4 * STEPS, supervisor)
    notice = cluster.busy_worker()
    notice.touch()
    assert supervisor.wait(timeout=240) == 0, (tmp_path / "supervisor.log").read_text()
    (attempt,) = attempts_of(tmp_path)
    assert attempt["status"] == "preempted"
    assert "taken away" in attempt["cause"]
    head = ended_head(tmp_path)
    assert (head.done, head.failed, head.preemptions) == (2, 0, 1)
    assert max(cluster.steps().values()) == 1, "no step was lost"


def test_a_stop_reaches_trials_on_every_node_and_suspended_a_launch_has_not_ended(
    cluster: Cluster, tmp_path: Path
) -> None:
    number = put_launch(configure(tmp_path, epochs=1000, pause=0.05))
    then = ["--then", f"echo once >> {tmp_path}/then"]
    first = supervise(tmp_path, number, *then, **cluster.nodes.entry)
    wait_for_lines(cluster.log, 3 * STEPS, first)
    for pid in [first.pid, *descendants(first.pid)]:  # job systems send the signal to all child processes, too
        os.kill(pid, signal.SIGUSR1)
    assert first.wait(timeout=240) == 130
    head = head_of(tmp_path)
    assert head is not None
    assert (head.state, head.exit_code) == ("starting", None)
    assert "suspended" in (head.cause or "")
    assert not (tmp_path / "then").exists()
    assert len(list((tmp_path / "store/trials").glob("*/checkpoint/latest.json"))) == 2
    taken_back = {**cluster.nodes.entry, "SWEEP_TERM_SUSPENDS": "1"}
    second = supervise(tmp_path, number, *then, **taken_back)
    wait_for_lines(cluster.log, cluster.steps().total() + 2 * STEPS, second)
    for pid in [second.pid, *filter(is_driver, descendants(second.pid))]:
        os.kill(pid, signal.SIGTERM)
    assert second.wait(timeout=240) == 130
    head = head_of(tmp_path)
    assert head is not None
    assert (head.state, head.exit_code) == ("starting", None)
    assert not (tmp_path / "then").exists()
    third = supervise(tmp_path, number, *then, **taken_back)
    wait_for_lines(cluster.log, cluster.steps().total() + 2 * STEPS, third)
    third.send_signal(signal.SIGUSR2)
    assert third.wait(timeout=240) == 130
    head = ended_head(tmp_path)
    assert (head.exit_code, head.done, head.to_run, head.restarts) == (130, 0, 2, 0)
    assert (tmp_path / "then").read_text() == "once\n"
    assert attempts_of(tmp_path) == [], "a stop is no failure"
    assert max(cluster.steps().values()) == 1, "no step was lost"


def test_a_launch_for_which_no_machine_ever_came_ends_when_it_is_asked_to(tmp_path: Path) -> None:
    number = put_launch(configure(tmp_path, epochs=1))
    with ray_nodes() as nodes:
        supervisor = supervise(tmp_path, number, **nodes.entry)
        wait_until(lambda: (head_of(tmp_path) or LaunchStatus(0, "starting")).state == "running", supervisor)
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(timeout=240) == 130
    head = ended_head(tmp_path)
    assert (head.exit_code, head.to_run, head.nodes) == (130, 2, ())


def test_when_the_time_limit_is_reached_nothing_more_is_started(tmp_path: Path) -> None:
    run = drive(tmp_path, put_launch(configure(tmp_path, epochs=1), deadline=time.time() - 1))
    assert run.returncode == 3, run.stdout + run.stderr
    head = ended_head(tmp_path)
    assert (head.exit_code, head.to_run) == (3, 2)
    assert "time limit is reached" in (head.cause or "")


def test_a_sweep_that_runs_elsewhere_is_refused_and_its_record_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep.store.lease.HANDOVER_SECONDS", 0.0)
    number = put_launch(configure(tmp_path, epochs=1))
    launch = HeadLaunch.open(str(tmp_path / "store"), "test", number, Console(quiet=True))
    with Lease(launch.store, "sweeps/test/lease", "ada@elsewhere").hold(), pytest.raises(UserError, match="ada@else"):
        launch.run()
    assert head_of(tmp_path) is None
