"""The configuration of Ray's cluster launcher for a sweep on EC2, generated; `cluster.ray` is merged last.

A comment next to each value gives its reason.  `sweep.providers.ray_config` runs Ray's own checks on the result.
"""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.providers.aws.instances import Worker
from sweep.providers.base import section_of
from sweep.providers.local_files import cluster_name
from sweep.providers.ray_config import UV
from sweep.spec.cluster import Aws
from sweep.spec.ray_settings import RAY_SETTINGS
from sweep.spec.sweep import Sweep
from sweep.spec.yamlfile import merge

TAG = "anomaly-sweep"  # tag of everything that a sweep makes; rights, bills and removal depend on it
CLUSTER_TAG = f"{TAG}-cluster"  # tag for one sweep of one store; two stores may have sweeps with the same name
PROVIDER = "sweep.providers.aws.node_provider.SpotFirst"
CODE = "~/anomaly-sweep"  # folder on every machine
ENVIRONMENT = "/opt/anomaly-sweep-venv"
PORT = 6379  # port of Ray on the head
ROOT_DEVICE = "/dev/sda1"  # root device of Ubuntu's images
GUARD_SECONDS = 120  # time for the script of the first boot; cloud-init runs it after SSH works
# A machine without a guard is not set up any further.  The brackets in the pattern keep pgrep from finding this command
# itself.  Ray puts parentheses around a command; if it had its own at both ends, the shell would read arithmetic.
AWAIT_GUARD = (
    f"for second in $(seq {GUARD_SECONDS}); do pgrep -f '[/]opt/sweep/guard.py' > /dev/null && exit 0; sleep 1; done; "
    "echo 'nothing would power this machine off: its first boot has not run the user data, which needs cloud-init; "
    "take another cluster.image'; exit 1"
)
# Writes the head's address for a worker's guard, which watches the head from then on.  Ray sets it only on workers.
LEAVE_HEAD = (
    f'test -z "$RAY_HEAD_IP" || (sudo install -d -m 1777 /run/sweep && echo "$RAY_HEAD_IP:{PORT}" > /run/sweep/head)'
)
MACHINE = Path(__file__).parent / "machine"
USER_DATA_BYTES = 16_384  # limit of EC2


@dataclass(frozen=True)
class Resolved:
    """Values that a launch finds out before it can request machines.

    Attributes:
        image: id of the machine image.
        ssh_from: network that may connect by SSH, as CIDR.
        deadline: time at which every machine powers itself off, in seconds since 1970.
        workers: most workers at once.
        code: folder that is copied to the machines.
        token: file with the cluster's secret.
        key: file of the private key for SSH; EC2 has the public key under the cluster's name.
    """

    image: str
    ssh_from: str
    deadline: int
    workers: int
    code: Path
    token: Path
    key: Path


def configuration(sweep: Sweep, worker: Worker, resolved: Resolved) -> dict[str, Any]:
    """Return the configuration for Ray's launcher."""
    cluster = section_of(sweep, Aws)
    name = cluster_name(sweep)
    tags = {**cluster.tags, TAG: sweep.name, CLUSTER_TAG: name}
    provider: dict[str, Any] = {
        "type": "external",
        "module": PROVIDER,
        "region": cluster.region,
        "cache_stopped_nodes": False,  # Ray's default is to stop machines, but their disks still cost money
        "worker_types": list(cluster.worker),
        "ssh_from": resolved.ssh_from,
        "security_group": {"GroupName": name},
        "tags": tags,
    }
    if cluster.zones != "auto":
        provider["availability_zone"] = ",".join(cluster.zones)
    spot = {
        "MarketType": "spot",  # without MaxPrice, the limit is the on-demand price
        "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
    }
    head_profile, worker_profile = profiles(cluster, sweep.storage)
    head_node = _node(cluster, cluster.head, head_profile, tags, resolved, "head")
    worker_node = _node(cluster, cluster.worker[0], worker_profile, tags, resolved, "worker")
    if cluster.spot:
        worker_node["InstanceMarketOptions"] = spot
    generated: dict[str, Any] = {
        "cluster_name": name,
        "max_workers": resolved.workers,
        "upscaling_speed": float(max(1, resolved.workers)),  # request all at once: the demand is known from the start
        "idle_timeout_minutes": cluster.idle_minutes,
        "provider": provider,
        "auth": {"ssh_user": cluster.ssh_user, "ssh_private_key": str(resolved.key)},
        "docker": {},
        "head_node_type": "head",
        "available_node_types": {
            "head": {  # no slots: no trial runs on the head
                "resources": {"CPU": 0, "GPU": 0}, "min_workers": 0, "max_workers": 0, "node_config": head_node
            },
            "worker": {  # resources are given, not detected: types that replace each other must be equal for Ray
                "resources": {"CPU": worker.cpus, "GPU": worker.gpus},
                "min_workers": 0, "max_workers": resolved.workers, "node_config": worker_node,
            },
        },
        "file_mounts": {CODE: str(resolved.code), "~/.ray/auth_token": str(resolved.token)},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],  # the folder of code has only files that must be copied
        "rsync_filter": [],
        "initialization_commands": [AWAIT_GUARD, LEAVE_HEAD],  # they run first, and outside of any container
        "setup_commands": _setup(cluster),
        "head_setup_commands": [],  # Ray's default would install a boto3 that is not pinned
        "worker_setup_commands": [],
        "head_start_ray_commands": _head_start(cluster),
        "worker_start_ray_commands": _worker_start(cluster, worker),
    }  # fmt: skip
    return merge(generated, cluster.ray)


def storage_digest(cluster: Aws, storage: str) -> str:
    """Return eight digits for a storage, the end of the names of its roles and policies."""
    return hashlib.sha256(f"{cluster.region} {storage}".encode()).hexdigest()[:8]


def profiles(cluster: Aws, storage: str) -> tuple[str, str]:
    """Return the names of the head's and the workers' instance profiles: given, or one of each for each storage."""
    digest = storage_digest(cluster, storage)
    head = f"sweep-head-{digest}" if cluster.head_profile == "auto" else cluster.head_profile
    worker = f"sweep-worker-{digest}" if cluster.worker_profile == "auto" else cluster.worker_profile
    return head, worker


def commands(config: dict[str, Any]) -> dict[str, list[str]]:
    """Return the commands that machines run, by kind of machine."""
    first = [*config["initialization_commands"], *config["setup_commands"]]
    return {
        kind: [*first, *config[f"{kind}_setup_commands"], *config[f"{kind}_start_ray_commands"]]
        for kind in ("head", "worker")
    }


def _node(
    cluster: Aws, instance_type: str, profile: str, tags: dict[str, str], resolved: Resolved, role: str
) -> dict[str, Any]:
    """Return the request to EC2 for one machine."""
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    disk = {"VolumeSize": cluster.disk_gb, "VolumeType": "gp3", "DeleteOnTermination": True, "Encrypted": True}
    return {
        "InstanceType": instance_type,
        "ImageId": resolved.image,
        "KeyName": tags[CLUSTER_TAG],
        "IamInstanceProfile": {"Name": profile},  # Ray's default gives workers none, and then they cannot write to S3
        "InstanceInitiatedShutdownBehavior": "terminate",  # otherwise a machine that is powered off costs money
        "MaintenanceOptions": {"AutoRecovery": "disabled"},  # a recovered machine would boot again, without Ray
        "BlockDeviceMappings": [{"DeviceName": ROOT_DEVICE, "Ebs": disk}],
        "MetadataOptions": {"HttpTokens": "required", "HttpEndpoint": "enabled", "HttpPutResponseHopLimit": 1},
        "TagSpecifications": [{"ResourceType": kind, "Tags": pairs} for kind in ("instance", "volume")],
        "UserData": first_boot(role, resolved.deadline),
    }


def first_boot(role: str, deadline: int) -> str:
    """Return the script of a machine's first boot, with the guard that powers it off.

    Args:
        role: "head" or "worker".
        deadline: time limit in seconds since 1970.
    """
    script = (MACHINE / "first_boot.sh").read_text()
    filled = {"DEADLINE": str(deadline), "ROLE": role, "GUARD": (MACHINE / "guard.py").read_text().rstrip()}
    for key, value in filled.items():
        script = script.replace(f"{{{{{key}}}}}", value)
    assert len(script.encode()) <= USER_DATA_BYTES
    return script


def python_environment(cluster: Aws) -> str:
    return cluster.environment or ENVIRONMENT


def _setup(cluster: Aws) -> list[str]:
    """Return the commands that make the environment on a machine; [] if the image has one.

    Every package is pinned by pyproject.toml.  The marker file `done` is named after the content of pyproject.toml, so
    the command does nothing if the environment was made from the same file.
    """
    if cluster.environment:
        return []
    folder = shlex.quote(ENVIRONMENT)
    return [
        f'done={folder}/.$(sha256sum {CODE}/pyproject.toml | cut -c1-16); test -e "$done" || ('
        f"sudo install -d -o $(id -u) {folder} && cd {CODE} && python3 -m pip install -q --target ~/.uv {UV} && "
        f'UV_PROJECT_ENVIRONMENT={folder} ~/.uv/bin/uv sync -q --no-dev --all-extras && touch "$done")'
    ]


def exports(cluster: Aws) -> str:
    """Return the shell code before every command of Ray."""
    exports = {
        "PATH": f"{python_environment(cluster)}/bin:$PATH",
        "PYTHONPATH": "$HOME/anomaly-sweep",  # Ray imports the node provider from it, and trials their code
        **RAY_SETTINGS,  # the secret for RAY_AUTH_MODE is in ~/.ray/auth_token
        "AWS_DEFAULT_REGION": cluster.region,
    }
    return " ".join(["export", *(f"{name}={value}" for name, value in exports.items())]) + "; ulimit -n 65536 2>&-; "


def _start(words: str) -> str:
    """Return the command that starts Ray, with a second try.

    Ray waits only half a minute for its own parts, which is too short if its files are read from a new disk for the
    first time.
    """
    return f"ray start {words} || {{ ray stop --force; ray start {words}; }}"


def _head_start(cluster: Aws) -> list[str]:
    before = exports(cluster)
    return [
        f"chmod 600 ~/.ray/auth_token; {before}ray stop",
        before
        + _start(
            f"--head --port={PORT} --num-cpus=0 --num-gpus=0 --dashboard-host=127.0.0.1 "
            "--autoscaling-config=~/ray_bootstrap_config.yaml"
        ),
    ]


def _worker_start(cluster: Aws, worker: Worker) -> list[str]:
    before, head = exports(cluster), f"$RAY_HEAD_IP:{PORT}"
    ray = f"{python_environment(cluster)}/bin/ray"
    watch = f"python3 {CODE}/sweep/providers/aws/machine/spot_notice.py --ray {ray} --head {head}"
    return [
        f"chmod 600 ~/.ray/auth_token; {before}ray stop",
        LEAVE_HEAD,  # again, in case cluster.ray has other initialization_commands
        before + _start(f"--address={head} --num-cpus={worker.cpus} --num-gpus={worker.gpus}"),
        f"{before}flock -n /tmp/sweep-spot-notice setsid {watch} > /tmp/sweep-spot-notice.log 2>&1 < /dev/null &",
    ]
