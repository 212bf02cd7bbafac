"""A Ray cluster that exists: its answers, plans on it, and a sweep as one of its jobs."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
import yaml

from sweep.errors import UserError
from sweep.providers.existing import dashboard as api
from sweep.providers.existing.checks import findings
from sweep.providers.slurm.ports import free
from tests.support.providers import Dashboard, DashboardAnswer, on_ray, serving
from tests.support.sweeps import environment, platform, sweep

TIMEOUT = 240


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Dashboard]:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with serving(Dashboard()) as server:
        yield server


def test_slots_are_those_of_the_nodes_of_now_or_what_the_file_says(dashboard: Dashboard) -> None:
    dashboard.nodes = [{"CPU": 0.0}, {"CPU": 8.0, "GPU": 2.0, "accelerator_type:L4": 1.0}, {"CPU": 3.0}]
    found = platform(on_ray(dashboard))
    assert (found.slots, found.device, found.gpus) == (2, "L4", 1.0)
    assert platform(on_ray(dashboard, gpu="NVIDIA L4", capability=8.9)).numerics.precision == "bf16"
    assert platform(on_ray(dashboard, {"gpus": 0, "cpus": 3})).slots == 3, "two on one node and one on the other"
    assert platform(on_ray(dashboard, {"gpus": 0}, cpus=64)).slots == 64
    assert platform(on_ray("http://127.0.0.1:9", cpus=64, gpus=16, gpu="NVIDIA L4")).slots == 16, (
        "the YAML has all numbers, so the cluster is not asked"
    )


def test_gpus_without_one_name_are_refused(dashboard: Dashboard) -> None:
    dashboard.nodes = [{"CPU": 8.0, "GPU": 1.0}]
    with pytest.raises(UserError, match=r"cluster.gpu: must be given"):
        platform(on_ray(dashboard))
    dashboard.nodes = [{"CPU": 8.0, "GPU": 1.0, f"accelerator_type:{name}": 1.0} for name in ("L4", "T4")]
    with pytest.raises(UserError, match=r"different GPUs \(L4, T4\)"):
        platform(on_ray(dashboard))


def test_a_secret_is_taken_from_where_ray_takes_it(
    dashboard: Dashboard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dashboard.token = "secret"
    with pytest.raises(UserError, match="RAY_AUTH_TOKEN"):
        platform(on_ray(dashboard))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("secret\n")
    assert platform(on_ray(dashboard)).slots == 4
    (tmp_path / "other").write_text("wrong")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "other"))
    with pytest.raises(UserError, match="refuses access"):
        platform(on_ray(dashboard))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert api.headers() == {"Authorization": "Bearer secret"}


def test_a_check_tells_another_ray_and_an_address_that_does_not_answer(dashboard: Dashboard) -> None:
    states = {finding.name: finding.state for finding in findings(on_ray(dashboard))}
    assert states == {"ray": "ok", "nodes": "ok", "environment": "unknown"}
    dashboard.version = "2.9.3"
    (found,) = (finding for finding in findings(on_ray(dashboard)) if finding.name == "ray")
    assert found.state == "not ok" and f"runs Ray 2.9.3, but this project needs {ray.__version__}" in found.found
    (found,) = findings(on_ray("http://127.0.0.1:9"))
    assert found.state == "not ok" and "does not answer" in found.found and "port-forward" in found.found


def test_what_is_no_dashboard_is_told(dashboard: Dashboard) -> None:
    class Missing(DashboardAnswer):
        def do_GET(self) -> None:  # noqa: N802
            self.send_error(404)

    dashboard.RequestHandlerClass = Missing
    with pytest.raises(UserError, match="answers 404; check that it is the dashboard"):
        platform(on_ray(dashboard))


@contextmanager
def ray_cluster(log: Path) -> Iterator[dict[str, str]]:
    """Run Ray with one node and its dashboard, on its own ports; yields the environment for its clients."""
    token, folder = secrets.token_hex(32), tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    port, dashboard, client, agent = free(4)
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
    words = [
        f"{Path(sys.executable).parent}/ray", "start", "--head", "--block", f"--port={port}", "--num-cpus=2",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}", "--min-worker-port=0", "--max-worker-port=0",
        "--object-store-memory=100000000", f"--temp-dir={folder}",
    ]  # fmt: skip
    with log.open("wb") as output:
        head = subprocess.Popen(words, env=environment(**own), stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + TIMEOUT
        while True:
            assert head.poll() is None and time.monotonic() < deadline, log.read_text()
            done = subprocess.run(
                ["curl", "-sf", "-H", f"Authorization: Bearer {token}", f"http://127.0.0.1:{dashboard}/api/version"],
                capture_output=True,
            )
            if done.returncode == 0:
                break
            time.sleep(0.2)
        yield {**own, "ADDRESS": f"http://127.0.0.1:{dashboard}"}
    finally:
        head.terminate()
        try:
            head.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()


@pytest.mark.ray
@pytest.mark.faults
def test_a_sweep_is_one_job_that_is_followed_stopped_and_gone_on_with(tmp_path: Path) -> None:
    name = "tests.support.faulty_detectors:Logged"
    study = {
        "name": "s", "kind": "error_bars", "detectors": [name], "datasets": ["digits"], "abnormal": [0, 1], "seeds": 1,
        "hyperparameters": {name: {"epochs": 20, "pause": 0.05}},
    }  # fmt: skip
    log = tmp_path / "trained.log"
    with ray_cluster(tmp_path / "ray.log") as own:
        cluster = {
            "provider": "existing", "address": own.pop("ADDRESS"), "python": sys.executable,
            "environment_variables": {"TRAINED_LOG": str(log)},
        }  # fmt: skip
        config = tmp_path / "existing.yaml"
        body = {"name": "job", "studies": [study]}
        trial = {"checkpoint_seconds": 1}
        settings = {"cluster": cluster, "storage": str(tmp_path / "store"), "trial": trial, "sweep": body}
        config.write_text(yaml.safe_dump({**settings, "data": {"size": 16, "cache": str(tmp_path / "cache")}}))
        started = sweep("launch", config, "-y", "--detach", **own)
        assert started.returncode == 0, started.stdout + started.stderr
        deadline = time.monotonic() + TIMEOUT
        while not log.exists():
            assert time.monotonic() < deadline, sweep("status", config, **own).stdout
            time.sleep(0.1)
        down = sweep("down", config, "-y", **own)
        assert down.returncode == 0 and "RUNNING" in down.stdout, down.stdout + down.stderr
        assert "nothing" in sweep("down", config, "-y", **own).stdout

        again = sweep("launch", config, "-y", **own)
        assert again.returncode == 0, again.stdout + again.stderr
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 2 * 20 * 20, "every step was trained, and none twice"
