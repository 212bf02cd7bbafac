"""Sweeps for the lab: clusters/aws.yaml as it is shipped, with named overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sweep.providers.aws.ray_config import profiles
from sweep.spec.cluster import Aws
from tests.lab.cloud import Cloud

CONFIG = "lab.yaml"
TRAINED_LOG = "/tmp/trained.log"  # on each machine, `Logged` writes the steps that it trains into it
STEPS = 20  # steps in an epoch of `Logged` on digits
SOON = {  # changes of a machine's guard: seconds instead of minutes
    "HEAD_GONE_SECONDS = 600.0": "HEAD_GONE_SECONDS = 20.0",
    "SUPERVISOR_GONE_SECONDS = 600.0": "SUPERVISOR_GONE_SECONDS = 30.0",
    "REACHED_SECONDS = 600.0": "REACHED_SECONDS = 120.0",
    "SET_UP_SECONDS = 1800.0": "SET_UP_SECONDS = 120.0",
    "POLL_SECONDS = 15.0": "POLL_SECONDS = 2.0",
}
BUCKET = "a-bucket-of-mine"
STORAGE = f"s3://{BUCKET}/anomaly"
ROLES = HEAD_ROLE, WORKER_ROLE = profiles(Aws(), STORAGE)


def overrides(cloud: Cloud) -> dict[str, Any]:
    """Return the differences from the shipped YAML.

    - Storage: the line that the user has to edit.
    - Image, environment and ssh_from: the fake does not have the services that `auto` asks.
    - Small size: two workers that end soon when idle, one hour in all, and a dataset that is part of a package.
    - CPUs in place of a GPU, which this machine does not have: a trial takes the four CPUs of a worker.
    """
    return {
        "storage": STORAGE,
        "cluster": {
            "image": cloud.image, "environment": cloud.environment, "ssh_from": cloud.ssh_from,
            "max_workers": 2, "idle_minutes": 0.5,
        },
        "budget": {"max_hours": 1},
        "sweep": {"name": "lab", "datasets": ["digits"]},
        "trial": {"gpus": 0, "checkpoint_seconds": 5},
    }  # fmt: skip


def write_sweep(cloud: Cloud, **sections: dict[str, Any]) -> None:
    """Write CONFIG on the laptop: the shipped YAML, the overrides, and further ones by section; `sweep` is replaced."""
    text = (cloud.laptop.checkout / "clusters/aws.yaml").read_text()
    config = yaml.safe_load(text)
    for section, value in overrides(cloud).items():
        config[section] = {**config[section], **value} if isinstance(value, dict) else value
    for section, value in sections.items():
        config[section] = value if section == "sweep" else {**config[section], **value}
    (cloud.laptop.checkout / CONFIG).write_text(yaml.safe_dump(config))


def impatient(user_data: str) -> str:
    """Return the script of a first boot with a guard that waits for seconds instead of minutes."""
    for patience, less in SOON.items():
        user_data = user_data.replace(patience, less)
    return user_data


def check(cloud: Cloud) -> None:
    """Make the bucket and the two roles with `check --fix`."""
    done = cloud.laptop.run(["python", "-m", "sweep", "check", CONFIG, "--fix"])
    assert done.returncode == 0, done.stdout + done.stderr


def logged(epochs: int, pause: float = 0.25, abnormal: int = 4) -> dict[str, Any]:
    """Return a section `sweep` with trials that each take `epochs` x STEPS x `pause` seconds and almost no CPU time."""
    name = "tests.support.faulty_detectors:Logged"
    study = {
        "name": "s", "kind": "error_bars", "detectors": [name], "datasets": ["digits"],
        "abnormal": list(range(abnormal)), "seeds": 1, "hyperparameters": {name: {"epochs": epochs, "pause": pause}},
    }  # fmt: skip
    return {"name": "lab", "studies": [study]}


def trained(cloud: Cloud, *instances: str) -> dict[str, list[int]]:
    """Return the steps that machines trained, by trial, in the order of machines and steps; machines may be gone."""
    found: dict[str, list[int]] = {}
    for instance in instances:
        log = cloud.tmp(instance) / Path(TRAINED_LOG).name
        for line in log.read_text().splitlines() if log.exists() else ():
            trial, step = line.split()
            found.setdefault(trial, []).append(int(step))
    return found
