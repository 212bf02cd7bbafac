"""A sweep as a job of Slurm: it requeues at its walltime, and its table equals that of an undisturbed sweep."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import unavailable
from tests.lab import slurm
from tests.lab.cloud import SMALL_RAY
from tests.lab.premises import SHARED, Premises, addresses, premises, wait
from tests.lab.sweeps import STEPS, logged

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]

NODES = ["node1", "node2"]
SECONDS = 1000.0  # time for several runs of a job, on a busy computer
LOG = "trained.log"
EPOCHS = 70
LAUNCH = ["python", "-m", "sweep", "launch", "slurm.yaml", "-y"]


@pytest.fixture
def site(lab_is_possible: None, tmp_path: Path) -> Iterator[Premises]:
    """Yield a login node, which is the desk, and two nodes of Slurm."""
    lacking = sorted({package for program, package in slurm.PROGRAMS.items() if shutil.which(program) is None})
    if lacking:
        unavailable(f"Debian packages are missing: {' '.join(lacking)}")
    nodes = {name: address for name, address in addresses(NODES).items() if name != "desk"}
    with premises(tmp_path, NODES, slurm.seed(nodes)) as made:
        slurm.start(list(made.hosts.values()))
        munge = made.desk.run(["bash", "-c", slurm.START, "start"], user="root")
        assert munge.returncode == 0, munge.stderr
        cluster = {
            "provider": "slurm", "nodes": 2, "cpus": 1, "partition": "main", "folder": f"{SHARED}/jobs",
            "environment": made.environment, "walltime": "00:03:00", "signal_seconds": 60,
        }  # fmt: skip
        config = {
            "cluster": cluster, "storage": f"{SHARED}/store", "data": {"size": 16},
            # `precision: auto` could be bf16 on this machine, and is float32 on nodes whose CPU a plan does not know.
            "trial": {"checkpoint_seconds": 2, "precision": "float32"}, "sweep": logged(EPOCHS, 0.05, abnormal=4),
        }  # fmt: skip
        made.write("slurm.yaml", config)
        peace = {"cluster": {"provider": "local"}, "storage": f"{SHARED}/other", "sweep": logged(EPOCHS, 0.0, 4)}
        made.write("here.yaml", {**config, **peace})
        yield made


def job_output(site: Premises) -> str:
    """Return the output of the job, of all its runs."""
    return "".join(log.read_text() for log in (site.shared / "jobs").glob("*/*.log"))


def board(site: Premises, config: str) -> list[tuple[object, ...]]:
    """Return the rows of a sweep, without columns that differ from run to run."""
    done = site.run("python", "-m", "sweep", "report", config, "--json")
    assert done.returncode == 0, done.stderr
    columns = ("detector", "abnormal", "seed", "selection", "status", "epoch", "auroc", "ap", "fpr95", "split_hash")
    return sorted(tuple(row[column] for column in columns) for row in json.loads(done.stdout))


def test_a_job_that_its_walltime_ends_requeues_and_ends_with_the_same_table(site: Premises, tmp_path: Path) -> None:
    checked = site.run("python", "-m", "sweep", "check", "slurm.yaml", "--json")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    states = {finding["name"]: finding["state"] for finding in json.loads(checked.stdout)["findings"]}
    assert {states[name] for name in ("slurm", "partition", "job")} == {"ok"}

    log = tmp_path / "launch.log"
    launch = site.start(*LAUNCH, output=log, TRAINED_LOG=f"{SHARED}/{LOG}", **SMALL_RAY)
    controller = site.hosts[NODES[0]]

    hurried = 0

    def ended() -> bool:
        nonlocal hurried
        if launch.poll() is None and job_output(site).count("back into the queue") > hurried:
            hurried += slurm.shorten_delay(controller)
        return launch.poll() is not None

    def logs() -> str:
        of_slurm = controller.run(["tail", "-n", "60", "/var/log/slurmctld.log"], user="root").stdout
        return "\n".join([log.read_text(), job_output(site), of_slurm])

    wait(ended, SECONDS, logs)
    assert launch.returncode == 0, logs()
    assert "back into the queue" in job_output(site), "the walltime has ended the job"
    lines = [line.split() for line in (site.shared / LOG).read_text().splitlines()]
    assert len(lines) == len({tuple(line) for line in lines}), "no step was trained twice"
    assert len(lines) == 4 * EPOCHS * STEPS
    assert controller.run(["squeue", "--noheader"]).stdout == ""
    for node in NODES:
        assert site.processes(node, "ray|sweep[.]") == []
        assert site.hosts[node].run(["bash", "-c", "ls -d /tmp/sweep-*"]).stdout == ""
    assert [path.suffix for path in (site.shared / "jobs").glob("*/*")] == [".log"]

    here = site.run("python", "-m", "sweep", "launch", "here.yaml", "-y", timeout=SECONDS)
    assert here.returncode == 0, here.stdout + here.stderr
    table = board(site, "slurm.yaml")
    assert len(table) >= 4 and all(row[4] == "ok" for row in table)
    assert table == board(site, "here.yaml")


def test_a_job_that_slurm_takes_back_goes_on_when_it_runs_again(site: Premises, tmp_path: Path) -> None:
    log, controller, trained = tmp_path / "launch.log", site.hosts[NODES[0]], site.shared / LOG
    unhurried = ["--set", 'cluster.walltime="01:00:00"']  # with quotes, as in the YAML
    launch = site.start(*LAUNCH, *unhurried, output=log, TRAINED_LOG=f"{SHARED}/{LOG}", **SMALL_RAY)

    def logs() -> str:
        of_slurm = controller.run(["tail", "-n", "60", "/var/log/slurmctld.log"], user="root").stdout
        return "\n".join([log.read_text(), job_output(site), of_slurm])

    def steps() -> int:
        assert launch.poll() is None, logs()
        return len(trained.read_text().splitlines()) if trained.exists() else 0

    wait(lambda: steps() > 2 * STEPS, SECONDS, logs)
    (job,) = controller.run(["squeue", "--noheader", "--format=%i"]).stdout.split()
    requeued = controller.run(["scontrol", "requeue", job], user="root")
    assert requeued.returncode == 0, requeued.stderr
    hurried = 0

    def again() -> bool:
        nonlocal hurried
        assert launch.poll() is None, logs()
        shown = controller.run(["scontrol", "show", "job", job]).stdout
        hurried = hurried or slurm.shorten_delay(controller)
        return "JobState=RUNNING" in shown and "Restarts=1" in shown

    wait(again, SECONDS, logs)
    before = steps()
    wait(lambda: steps() > before + 2 * STEPS, SECONDS, logs)
    head = json.loads(next((site.shared / "store/sweeps").glob("*/head.json")).read_text())
    assert (head["launch"], head["state"], head["exit_code"]) == (1, "running", None), logs()

    down = site.run("python", "-m", "sweep", "down", "slurm.yaml", "-y", *unhurried, timeout=SECONDS)
    assert down.returncode == 0, down.stdout + down.stderr
    wait(lambda: launch.poll() is not None, SECONDS, logs)
    assert controller.run(["squeue", "--noheader"]).stdout == ""
    head = json.loads(next((site.shared / "store/sweeps").glob("*/head.json")).read_text())
    assert head["state"] == "ended" and "taken down" in head["cause"], logs()
