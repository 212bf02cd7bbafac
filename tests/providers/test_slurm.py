"""A sweep as a job of Slurm: its provider, and its two scripts, run with stand-ins for the programs of Slurm and Ray.

tests/lab shows the same with real Slurm.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweep.errors import UserError
from sweep.providers.local_files import cluster_name
from sweep.providers.slurm import checks, jobs, scripts
from sweep.providers.slurm.provider import SlurmProvider
from sweep.spec.sweep import Sweep
from tests.support.providers import AT_ONCE, STATUS, FakeSlurm, on_slurm
from tests.support.sweeps import descendants, words_of

TIMEOUT = 60
# Programs on one node, which write every call into the file $CALLS.  A sleep of 600 s ends at once, as if Slurm did it.
PROGRAMS = {
    "srun": 'echo "srun $*" >> $CALLS; while [ "$1" != bash ]; do shift; done; exec "$@"',
    "scontrol": 'echo "scontrol $*" >> $CALLS; [ -z "${NO_REQUEUE:-}" ]',
    "sleep": '[ "$1" != 600 ] || { echo "sleep $*" >> $CALLS; exit 0; }; exec /bin/sleep "$@"',
    "scancel": 'echo "scancel $*" >> $CALLS',
    "ray": """
echo "ray $*" >> $CALLS
[ "$(grep -c '^ray start' $CALLS)" -gt "${RAY_FAILS:-0}" ] || { echo no port; exit 1; }
echo Ray runtime started.
trap 'echo "ray ended" >> $CALLS; exit' TERM
while :; do sleep 0.05; done
""",
    "python": """
[ "$2" != sweep.providers.slurm.ports ] || exec {python} "$@"
echo "python $*" >> $CALLS
echo "$RAY_ADDRESS $RAY_AUTH_MODE $PYTHONPATH" >> $CALLS
trap 'echo suspended >> $CALLS; exit 130' USR1
trap 'echo "taken back $SWEEP_TERM_SUSPENDS" >> $CALLS; exit 130' TERM
trap 'echo stopped >> $CALLS; exit 130' USR2
[ -z "${EXIT:-}" ] || exit $EXIT
echo driving >> $CALLS
while :; do sleep 0.05; done
""",
}


class Node:
    """One node without Slurm that runs a job's scripts."""

    def __init__(self, folder: Path, sweep: Sweep) -> None:
        self.sweep, self.calls = sweep, folder / "calls"
        self.folder = scripts.folder_of(sweep)
        self.run = self.folder.run(7)
        for path in (self.run, self.folder.code / "sweep", scripts.environment_of(_slurm(sweep)) / "bin"):
            path.mkdir(parents=True)
        for name, body in PROGRAMS.items():
            program = scripts.environment_of(_slurm(sweep)) / "bin" / name
            program.write_text(f"#!/bin/bash\n{body.replace('{python}', sys.executable)}\n")
            program.chmod(0o755)
        (self.folder.code / "sweep/providers/slurm").mkdir(parents=True)
        (self.folder.code / "sweep/providers/slurm/ports.py").write_text(
            (Path(scripts.__file__).parent / "ports.py").read_text()
        )
        (self.run / "node.sh").write_text(scripts.node(sweep, 7))
        (folder / "job").write_text(scripts.job(sweep, 7))
        self.scratch = Path(f"/tmp/sweep-{os.getpid()}")
        self._job = folder / "job"

    def start(self, **environment: str) -> subprocess.Popen[str]:
        programs = scripts.environment_of(_slurm(self.sweep)) / "bin"
        slurm = {
            "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0", "SLURM_STEP_ID": "0",
            "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1", "CALLS": str(self.calls),
        }  # fmt: skip
        return subprocess.Popen(
            ["bash", str(self._job)],
            env={"PATH": f"{programs}:/usr/bin:/bin", **slurm, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def wait_for_end(self, job: subprocess.Popen[str]) -> tuple[int, str, list[str]]:
        """Return the job's exit code and output, and the calls of programs."""
        output, _ = job.communicate(timeout=TIMEOUT)
        assert not self.scratch.exists()
        return job.returncode, output, [call for call in self.calls.read_text().splitlines() if "srun" not in call]

    def wait_for(self, line: str, job: subprocess.Popen[str]) -> None:
        while not self.calls.exists() or line not in self.calls.read_text():
            assert job.poll() is None, "the job has ended"
            os.sched_yield()


def _slurm(sweep: Sweep) -> Any:
    return sweep.cluster


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path, on_slurm(tmp_path))


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_a_job_ends_with_the_code_of_its_sweep_and_leaves_nothing(tmp_path: Path, code: int) -> None:
    node = Node(tmp_path, on_slurm(tmp_path))
    returned, output, calls = node.wait_for_end(node.start(EXIT=str(code)))
    assert returned == code, output
    (start,) = (call for call in calls if call.startswith("ray start"))
    assert "--head" in start and "--num-cpus=3" in start and "--include-dashboard=false" in start
    (driver,) = (call for call in calls if call.startswith("python"))
    assert f"sweep.launch.head.supervisor {node.sweep.storage} table-1 7" in driver
    address = re.search(r"--port=(\d+)", start)
    assert address is not None
    assert f"127.0.0.1:{address.group(1)} token {node.folder.code}" in calls
    assert calls[-2:] == ["ray ended", f"scancel {os.getpid()}.0"]
    assert not any(call.startswith("scontrol") for call in calls)
    assert (node.run / "address").read_text().strip() == f"127.0.0.1:{address.group(1)}"


def test_at_its_walltime_a_job_stops_in_order_and_requeues(node: Node) -> None:
    job = node.start()
    node.wait_for("driving", job)
    job.send_signal(signal.SIGUSR1)
    _, output, calls = node.wait_for_end(job)
    assert calls.index("suspended") < calls.index(f"scontrol requeue {os.getpid()}")
    assert "back into the queue" in output and "stopped" not in calls


def test_a_job_that_may_not_requeue_says_how_to_go_on(node: Node) -> None:
    job = node.start(NO_REQUEUE="1")
    node.wait_for("driving", job)
    job.send_signal(signal.SIGUSR1)
    code, output, _ = node.wait_for_end(job)
    assert code == 130 and "launch the sweep again" in output


def test_a_job_that_is_taken_down_stops_in_order_and_does_not_requeue(node: Node) -> None:
    job = node.start()
    node.wait_for("driving", job)
    job.send_signal(signal.SIGUSR2)
    code, _, calls = node.wait_for_end(job)
    assert code == 130 and "stopped" in calls
    assert not any(call.startswith(("scontrol", "sleep")) for call in calls)


def test_a_job_that_slurm_ends_is_suspended_and_leaves_to_slurm_what_becomes_of_it(node: Node) -> None:
    job = node.start()
    node.wait_for("driving", job)
    job.terminate()
    code, _, calls = node.wait_for_end(job)
    assert code == 130 and "taken back 1" in calls and "stopped" not in calls
    assert not any(call.startswith(("scontrol", "sleep")) for call in calls)


def test_a_job_whose_step_alone_is_ended_waits_to_be_preempted(node: Node) -> None:
    job = node.start()
    node.wait_for("driving", job)
    (step,) = (pid for pid in descendants(job.pid) if b"node.sh" in words_of(pid))
    os.kill(step, signal.SIGTERM)
    _, output, calls = node.wait_for_end(job)
    assert "taken back 1" in calls and "stopped" not in calls
    assert calls[-1] == "sleep 600", "Slurm would not requeue a job that ends by itself"
    assert not any(call.startswith("scontrol") for call in calls)
    assert "goes on if this job runs again" in output
    assert (node.run / "exit_code").read_text() == "130\n"


def test_a_ray_that_does_not_start_fails_the_job_with_what_it_said(node: Node) -> None:
    code, output, calls = node.wait_for_end(node.start(RAY_FAILS="99"))
    assert code == 1 and "no port" in output
    assert not any("sweep.launch.head.supervisor" in call for call in calls)


def test_a_ray_that_does_not_start_at_once_is_started_again_on_another_port(node: Node) -> None:
    code, _, calls = node.wait_for_end(node.start(RAY_FAILS="2", EXIT="0"))
    ports = [found.group(1) for call in calls if (found := re.search(r"--port=(\d+)", call))]
    assert code == 0 and len(ports) == 3
    assert (node.run / "address").read_text().strip() == f"127.0.0.1:{ports[-1]}"


def test_a_second_run_knows_nothing_of_the_first(node: Node) -> None:
    for file in ("exit_code", "address", "supervisor.pid"):
        (node.run / file).write_text("1")
    assert node.wait_for_end(node.start(EXIT="0"))[0] == 0


def test_sbatch_is_asked_for_what_the_file_says(tmp_path: Path) -> None:
    keys = {"nodes": 2, "gpus": 4, "gpu": "NVIDIA L4", "partition": "gpu", "account": "us", "qos": "long"}
    sweep = on_slurm(tmp_path, **keys, walltime="1-00:00:00", signal_seconds=60, options=["--mem=64G", "--exclusive"])
    options = re.findall(r"^#SBATCH (.*)$", scripts.job(sweep, 3), re.MULTILINE)
    assert {
        "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=3", "--gpus-per-node=4", "--partition=gpu",
        "--account=us", "--qos=long", "--time=1-00:00:00", "--signal=B:USR1@60", "--open-mode=append", "--requeue",
        "--mem=64G", "--exclusive", f"--job-name={cluster_name(sweep)}",
    } <= set(options)  # fmt: skip
    plain = re.findall(r"^#SBATCH --(\S+?)=", scripts.job(on_slurm(tmp_path), 3), re.MULTILINE)
    assert not {"gpus-per-node", "partition", "account", "qos"} & set(plain), (
        "otherwise Slurm's defaults would not be used"
    )


def test_commands_of_the_user_come_first_on_every_node(tmp_path: Path) -> None:
    text = scripts.node(on_slurm(tmp_path, before=["module load cuda", "export A=1"]), 1)
    assert text.index("module load cuda\nexport A=1\n") < text.index("ray start")


def test_braces_and_names_of_fields_in_a_value_stay_as_they_are(tmp_path: Path) -> None:
    """A value is put in as it is: nothing in it is filled in again, and nothing ends in a traceback."""
    commands = ["echo {{ x }}", "echo {{CPUS}} {{SUPERVISOR}}", "awk '{{print}}'"]
    text = scripts.scripts_text(on_slurm(tmp_path, before=commands, options=["--comment={{GPUS}}"]))
    for value in (*commands, "--comment={{GPUS}}"):
        assert value in text


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    folder = tmp_path / "bin"
    folder.mkdir()
    return FakeSlurm(folder, monkeypatch)


def test_a_job_is_submitted_as_generated_and_only_its_logs_outlive_it(slurm: FakeSlurm, tmp_path: Path) -> None:
    sweep, console = on_slurm(tmp_path), Console(quiet=True)
    provider = SlurmProvider(sweep, AT_ONCE)
    provider.provision(STATUS, console, None)
    provider.submit(1)
    folder = scripts.folder_of(sweep)
    assert (folder.code / "sweep/providers/slurm/node.sh").exists() and folder.token.stat().st_mode & 0o077 == 0
    assert slurm.submitted.read_text() == scripts.job(sweep, 1)
    assert provider.resources()[0] == "job 12 of Slurm, PENDING (Priority)"
    for name in ("job-12.log", "my-notes.txt", "launch-notes"):
        (folder.path / name).touch()
    provider.teardown(console)
    assert {path.name for path in folder.path.iterdir()} == {"job-12.log", "my-notes.txt", "launch-notes"}


def test_files_that_a_launch_removes_at_the_same_moment_are_no_problem(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, console = on_slurm(tmp_path), Console(quiet=True)
    provider, remove = SlurmProvider(sweep, AT_ONCE), shutil.rmtree
    provider.provision(STATUS, console, None)

    def removed_before(path: Path) -> None:
        remove(path)
        raise FileNotFoundError(path)

    monkeypatch.setattr(shutil, "rmtree", removed_before)
    provider.teardown(console)
    assert list(scripts.folder_of(sweep).path.iterdir()) == []


def test_a_shared_folder_that_takes_nothing_is_a_problem(slurm: FakeSlurm, tmp_path: Path) -> None:
    sweep = on_slurm(tmp_path)
    provider, folder = SlurmProvider(sweep, AT_ONCE), scripts.folder_of(sweep).path
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")
    with pytest.raises(UserError, match=r"cluster[.]folder: .*; give a folder that all nodes share"):
        provider.provision(STATUS, Console(quiet=True), None)
    with pytest.raises(UserError, match=r"cluster[.]folder: .*; give a folder that all nodes share"):
        provider.submit(1)


def test_a_running_job_is_asked_to_stop_in_order_first(slurm: FakeSlurm, tmp_path: Path) -> None:
    sweep = on_slurm(tmp_path)
    slurm.holds(cluster_name(sweep), "12 RUNNING n1")
    SlurmProvider(sweep, AT_ONCE).teardown(Console(quiet=True))
    assert slurm.calls.read_text() == "scancel --batch --signal=USR2 12\n"


@pytest.mark.parametrize(
    ("program", "message"),
    [("#!/bin/sh\nexec /bin/sleep 1000\n", "scancel: no answer for"), ("", "scancel cannot be run here")],
)
def test_a_slurm_that_does_not_end_a_job_is_a_problem_that_says_so(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    (tmp_path / "bin/scancel").write_text(program)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(jobs, "SECONDS", 0.5)
    with pytest.raises(UserError, match=message):
        jobs.end(jobs.Job("12", "RUNNING", "n1"), in_order=False)


def test_jobs_of_the_past_are_none(slurm: FakeSlurm, tmp_path: Path) -> None:
    slurm.holds("x", "12 COMPLETED n1", "13 FAILED n1", "14 TIMEOUT")
    assert jobs.jobs("x") == []
    slurm.holds("x", "12 COMPLETED n1", "13 PENDING (BeginTime)")
    assert jobs.jobs("x") == [jobs.Job("13", "PENDING", "(BeginTime)")]


def test_where_slurm_is_not_it_is_said_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="squeue: this command is not installed here; run this where"):
        SlurmProvider(on_slurm(tmp_path), AT_ONCE).resources()
    (first, *_) = checks.findings(on_slurm(tmp_path))
    assert (first.name, first.state) == ("slurm", "not ok")


def test_a_check_names_partitions_and_asks_slurm_for_the_rest(slurm: FakeSlurm, tmp_path: Path) -> None:
    sweep = on_slurm(tmp_path, partition="gpu")
    (scripts.environment_of(_slurm(sweep)) / "bin").mkdir(parents=True)
    (scripts.environment_of(_slurm(sweep)) / "bin/ray").touch()
    found = {finding.name: finding for finding in checks.findings(sweep)}
    assert {name: found[name].state for name in ("slurm", "partition", "job")} == dict.fromkeys(
        ("slurm", "partition", "job"), "ok"
    )
    assert "to start at noon" in found["job"].found
    assert found["environment"].state == "unknown", "this machine cannot know if the nodes share it"
    slurm.refuses.touch()
    (job,) = (finding for finding in checks.findings(sweep) if finding.name == "job")
    assert job.state == "not ok" and "Invalid qos" in job.found
    (partition,) = (f for f in checks.findings(on_slurm(tmp_path, partition="gpux")) if f.name == "partition")
    assert partition.state == "not ok" and "you can use: gpu, main" in partition.found
    assert not slurm.submitted.exists()


def test_an_environment_without_ray_is_not_ok(slurm: FakeSlurm, tmp_path: Path) -> None:
    (found,) = (f for f in checks.findings(on_slurm(tmp_path)) if f.name == "environment")
    assert found.state == "not ok" and "has no command ray" in found.found
