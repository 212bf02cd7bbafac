"""Requests to the dashboard of a Ray cluster over HTTP.  Ray is not needed on this machine."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweep.errors import UserError
from sweep.plan.platform import Host, Platform, fit
from sweep.providers.base import section_of
from sweep.spec.cluster import Existing
from sweep.spec.sweep import Sweep

SECONDS = 15  # timeout of a request
MOST_NODES = 10_000  # the largest number that the API lists at once
ACCELERATOR = "accelerator_type:"  # prefix of the resource with the name of a node's GPUs


def version(cluster: Existing) -> str:
    """Return the version of Ray on the cluster.

    Raises:
        UserError: the cluster does not answer, or refuses access.
    """
    return str(_ask(cluster, "/api/version")["ray_version"])


def nodes(cluster: Existing) -> list[dict[str, Any]]:
    """Return the nodes that are alive, with "resources_total", "node_ip" and "is_head_node".

    Raises:
        UserError: as `version`.
    """
    found = _ask(cluster, f"/api/v0/nodes?detail=True&limit={MOST_NODES}")["data"]["result"]["result"]
    return [node for node in found if node["state"] == "ALIVE"]


def jobs(cluster: Existing) -> dict[str, str]:
    """Return the state of every job that the cluster remembers, by the job's name.

    Raises:
        UserError: as `version`.
    """
    return {job["submission_id"]: job["status"] for job in _ask(cluster, "/api/jobs/") if job["submission_id"]}


def platform(sweep: Sweep) -> Platform:
    """Return the platform of the trials, from the YAML and, where it has `auto`, from the present nodes.

    Raises:
        UserError: as `version`, or trials do not fit on the nodes.
    """
    cluster = section_of(sweep, Existing)
    if cluster.cpus != "auto" and (cluster.gpus != "auto" or sweep.trial.gpus == 0):
        gpus = 0 if cluster.gpus == "auto" else cluster.gpus
        return fit(sweep, [Host(cluster.cpus, gpus)], cluster.gpu, cluster.capability)
    there = [node["resources_total"] for node in nodes(cluster)]
    hosts = [Host(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in there]
    if cluster.cpus != "auto":
        hosts = [Host(cluster.cpus, sum(host.gpus for host in hosts))]
    elif cluster.gpus != "auto":
        hosts = [Host(sum(host.cpus for host in hosts), cluster.gpus)]
    wanted = sweep.trial.gpus != 0 and any(host.gpus for host in hosts)
    return fit(sweep, hosts, cluster.gpu or (_kind(there) if wanted else ""), cluster.capability)


def headers(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the HTTP headers with the cluster's secret; {} if Ray's settings on this machine have none."""
    token = environment.get("RAY_AUTH_TOKEN", "")
    files = (environment.get("RAY_AUTH_TOKEN_PATH"), "~/.ray/auth_token")
    for file in [Path(name).expanduser() for name in files if name]:
        if not token and file.is_file():
            token = file.read_text()
    return {"Authorization": f"Bearer {token.strip()}"} if token.strip() else {}


def _kind(there: list[dict[str, float]]) -> str:
    """Return the name of the GPUs as Ray reports it."""
    names = {name.removeprefix(ACCELERATOR) for has in there if has.get("GPU") for name in has if ACCELERATOR in name}
    if len(names) == 1:
        return names.pop()
    if names:
        raise UserError(
            f"cluster: different GPUs ({', '.join(sorted(names))}): their name is part of every key; use one kind"
        )
    raise UserError("cluster.gpu: must be given, because Ray does not know the name of these GPUs, e.g. NVIDIA L4")


def _ask(cluster: Existing, path: str) -> Any:
    request = urllib.request.Request(f"{cluster.address}{path}", headers=headers())  # noqa: S310  (http or https)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise UserError(
                f"cluster.address: {cluster.address} refuses access ({error.code}): put the cluster's secret into "
                "RAY_AUTH_TOKEN, or the name of its file into RAY_AUTH_TOKEN_PATH"
            ) from None
        raise UserError(
            f"cluster.address: {cluster.address}{path} answers {error.code}; check that it is the dashboard of a Ray "
            "cluster with ray[default]"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"cluster.address: {cluster.address} does not answer ({reason}); if it is reached through a tunnel, "
            "open it first, e.g. ssh -L 8265:127.0.0.1:8265 HEAD or kubectl port-forward service/NAME-head-svc 8265"
        ) from None
