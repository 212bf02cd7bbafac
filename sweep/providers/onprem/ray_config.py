"""The configuration of Ray's cluster launcher for hosts over SSH, generated; `cluster.ray` is merged last.

Use it with Ray's first autoscaler (`sweep.providers.ray_launcher`).  The second one starts only one worker of several
here, because it does not know that the head exists.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from sweep.providers.base import section_of
from sweep.providers.local_files import cluster_folder, cluster_name
from sweep.providers.onprem import ssh
from sweep.providers.ray_config import OBJECT_STORE, UV, export_line, text, validate
from sweep.spec.cluster import OnPrem
from sweep.spec.sweep import Sweep
from sweep.spec.yamlfile import merge

HERE = Path(__file__).parent
OURS = "~/.anomaly-sweep"  # folder on every host, with a folder for each sweep, and the environment that was made
PORT = 6379  # port of Ray on the head
START_TRIES = 5  # attempts to start Ray on a host
KEY_ON_HEAD = "~/ray_bootstrap_key.pem"  # Ray's launcher copies the private key there, if there is one


def configuration(sweep: Sweep, code: Path, token: Path, end: Path) -> dict[str, Any]:
    """Return the configuration for Ray's launcher.

    Args:
        sweep: sweep that is run.
        code: folder that is copied to the hosts.
        token: file with the cluster's secret.
        end: script of `end_script`, which the head runs when the launch has ended.
    """
    cluster = section_of(sweep, OnPrem)
    head, *workers = cluster.hosts
    auth = {"ssh_user": ssh.user(cluster)}
    if cluster.ssh_key:
        auth["ssh_private_key"] = str(Path(cluster.ssh_key).expanduser())
    folder = folder_of(sweep)
    generated: dict[str, Any] = {
        "cluster_name": cluster_name(sweep),
        "max_workers": len(workers),
        "provider": {"type": "local", "head_ip": head, "worker_ips": list(workers)},
        "auth": auth,
        "docker": {},
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,  # without effect, because all hosts are needed all the time
        "file_mounts": {f"{folder}/code": str(code), f"{folder}/auth_token": str(token), f"{folder}/end.sh": str(end)},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "initialization_commands": [],
        "setup_commands": _setup(cluster, folder),
        "head_setup_commands": [],
        "worker_setup_commands": [],
        "head_start_ray_commands": _start(
            sweep,
            f"--head --port={PORT} --dashboard-host=127.0.0.1 --autoscaling-config=~/ray_bootstrap_config.yaml",
            _slots(cluster, 0 if workers else 1),
        ),
        "worker_start_ray_commands": _start(sweep, f"--address=$RAY_HEAD_IP:{PORT}", _slots(cluster, 1)),
    }
    return merge(generated, cluster.ray)


def yaml_text(sweep: Sweep) -> str:
    """Return the configuration as YAML, after Ray's own checks.

    Raises:
        UserError: Ray refuses the configuration because of `cluster.ray`.
    """
    here = cluster_folder(sweep)
    config = configuration(sweep, here / "code", here / "auth_token", here / "end.sh")
    validate(config)
    return text(config)


def submission(sweep: Sweep, number: int) -> str:
    """Return the command that starts the supervisor of a launch on the head, and ends when the supervisor runs."""
    folder = folder_of(sweep)
    words = ["python", "-m", "sweep.launch.head.supervisor", sweep.storage, sweep.name, str(number)]
    return (
        f"{_environment(sweep)}; cd {folder}/code && {shlex.join(words)} --then 'bash {folder}/end.sh' "
        f"--supervised {folder}/supervised --log {folder}/supervisor.log --detach"
    )


def stop_script(sweep: Sweep) -> str:
    """Return a script that ends this sweep's Ray on a host, and removes the files that were copied there."""
    return f"{_stop(sweep)}\n{_fill('remove.sh', sweep)}"


def count_script(sweep: Sweep) -> str:
    """Return a script that prints the number of processes of this sweep's Ray on a host."""
    return f"{_fill('ours.sh', sweep)}\nours | wc -l"


def end_script(sweep: Sweep) -> str:
    """Return the script that the head runs when the launch has ended.

    It stops the head's own Ray first, because Ray on the head would start Ray on the workers again.
    """
    cluster = section_of(sweep, OnPrem)
    options = " ".join(f"-o {option}" for option in ssh.OPTIONS)
    lines = ["#!/bin/bash", _stop(sweep), f"key=; [ -e {KEY_ON_HEAD} ] && key='-i '{KEY_ON_HEAD}"]
    for worker in cluster.hosts[1:]:
        # The head waits for each worker, but a worker that hangs must not stop it forever.
        reach = f"timeout {ssh.SECONDS} ssh {options} $key -l {shlex.quote(ssh.user(cluster))} {worker} 'bash -s'"
        lines.append(f"{reach} <<'END'\n{stop_script(sweep)}\nEND")
    return "\n".join([*lines, _fill("remove.sh", sweep), ""])


def folder_of(sweep: Sweep) -> str:
    """Return the folder of a sweep on every host."""
    return f"{OURS}/{cluster_name(sweep)}"


def python(sweep: Sweep) -> str:
    """Return the path of Python on the hosts, as a word for the shell."""
    return f"{_environment_folder(section_of(sweep, OnPrem))}/bin/python"


def _setup(cluster: OnPrem, folder: str) -> list[str]:
    """Return the commands that make the environment on a host; [] if it has one.

    Every package is pinned by pyproject.toml.  The marker file `done` is named after the content of pyproject.toml, so
    the command does nothing if the environment was made from the same file.
    """
    if cluster.environment:
        return []
    made = _environment_folder(cluster)
    return [
        f'done={made}/.$(sha256sum {folder}/code/pyproject.toml | cut -c1-16); test -e "$done" || ('
        f"cd {folder}/code && python3 -m pip install -q --target {OURS}/uv {UV} && "
        f'UV_PROJECT_ENVIRONMENT={made} {OURS}/uv/bin/uv sync -q --no-dev --all-extras && touch "$done")'
    ]


def _environment_folder(cluster: OnPrem) -> str:
    return cluster.environment or f"{OURS}/venv"


def _environment(sweep: Sweep) -> str:
    folder = folder_of(sweep).replace("~", "$HOME")
    return export_line(
        PATH=f"{_environment_folder(section_of(sweep, OnPrem)).replace('~', '$HOME')}/bin:$PATH",
        PYTHONPATH=f"{folder}/code",
        RAY_AUTH_TOKEN_PATH=f"{folder}/auth_token",
    )


def _before(sweep: Sweep) -> str:
    """Return the commands before Ray's own: Ray runs in a folder of the sweep, so that its processes can be found."""
    folder = folder_of(sweep)
    private = f"chmod 600 {folder}/auth_token"
    return f"{private}; {_environment(sweep)}; ulimit -n $(ulimit -Hn); mkdir -p {folder}/running; cd {folder}/running"


def _slots(cluster: OnPrem, share: int) -> str:
    return f"--num-cpus={cluster.cpus * share} --num-gpus={cluster.gpus * share} --object-store-memory={OBJECT_STORE}"


def _start(sweep: Sweep, role: str, slots: str) -> list[str]:
    """Return the commands that stop this sweep's Ray on a host and start it again.

    `ray stop` is not used, because it would end every Ray of this user on the host.  The start is tried several
    times: on a busy host Ray gives up if its parts are slow, and its launcher never tries a failed host again.
    """
    stop = f"bash -c {shlex.quote(_stop(sweep))}"
    start = f"({_before(sweep)}; ray start {role} {slots})"
    return [stop, f"for _ in $(seq {START_TRIES}); do {start} && break || ({stop}; sleep 5; false); done"]


def _stop(sweep: Sweep) -> str:
    return f"{_fill('ours.sh', sweep)}\n{_fill('stop.sh', sweep)}"


def _fill(name: str, sweep: Sweep) -> str:
    text = (HERE / name).read_text().strip()
    return text.replace("{{NAME}}", cluster_name(sweep)).replace("{{FOLDER}}", folder_of(sweep))
