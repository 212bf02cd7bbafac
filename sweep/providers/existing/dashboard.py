"""What a running Ray cluster says of itself over HTTP.  Needs no Ray here."""

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

SECONDS = 15
MOST_NODES = 10_000  # as many as the API lists at once
ACCELERATOR = "accelerator_type:"  # begins the resource by which Ray names a node's GPUs


def version(cluster: Existing) -> str:
    """Version of the Ray that runs there.

    Raises:
        UserError: it does not answer, or does not let us in.
    """
    return str(_ask(cluster, "/api/version")["ray_version"])


def nodes(cluster: Existing) -> list[dict[str, Any]]:
    """Nodes that are alive: what each has in all ("resources_total"), "node_ip", "is_head_node".

    Raises:
        UserError: as `version`.
    """
    found = _ask(cluster, f"/api/v0/nodes?detail=True&limit={MOST_NODES}")["data"]["result"]["result"]
    return [node for node in found if node["state"] == "ALIVE"]


def jobs(cluster: Existing) -> dict[str, str]:
    """State of every job that the cluster remembers, by the name it was submitted under.

    Raises:
        UserError: as `version`.
    """
    return {job["submission_id"]: job["status"] for job in _ask(cluster, "/api/jobs/") if job["submission_id"]}


def platform(sweep: Sweep) -> Platform:
    """What trials run on: what the file says, and the nodes of now where it says nothing.

    Raises:
        UserError: as `version`, or trials find no place.
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
    """What lets us in, where a secret lies in one of the places that Ray reads it from."""
    token = environment.get("RAY_AUTH_TOKEN", "")
    files = (environment.get("RAY_AUTH_TOKEN_PATH"), "~/.ray/auth_token")
    for file in [Path(name).expanduser() for name in files if name]:
        if not token and file.is_file():
            token = file.read_text()
    return {"Authorization": f"Bearer {token.strip()}"} if token.strip() else {}


def _kind(there: list[dict[str, float]]) -> str:
    """Name of the GPUs, as Ray has it."""
    names = {name.removeprefix(ACCELERATOR) for has in there if has.get("GPU") for name in has if ACCELERATOR in name}
    if len(names) == 1:
        return names.pop()
    if names:
        raise UserError(
            f"cluster: unlike GPUs ({', '.join(sorted(names))}): their name is part of every key; use one kind"
        )
    raise UserError("cluster.gpu: must be given, since Ray does not know what GPUs these are, e.g. NVIDIA L4")


def _ask(cluster: Existing, path: str) -> Any:
    request = urllib.request.Request(f"{cluster.address}{path}", headers=headers())  # noqa: S310  (http or https)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise UserError(
                f"cluster.address: {cluster.address} does not let us in ({error.code}): put the cluster's secret into "
                "RAY_AUTH_TOKEN, or the name of its file into RAY_AUTH_TOKEN_PATH"
            ) from None
        raise UserError(
            f"cluster.address: {cluster.address}{path} answers {error.code}; is it the dashboard of a Ray cluster, "
            "and has it ray[default]?"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"cluster.address: {cluster.address} does not answer ({reason}); where it is reached through a tunnel, "
            "open it first, e.g. ssh -L 8265:127.0.0.1:8265 HEAD or kubectl port-forward service/NAME-head-svc 8265"
        ) from None
