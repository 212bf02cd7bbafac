"""Checks of a Ray cluster that exists, one finding for each.  Nothing is started."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from sweep.errors import UserError
from sweep.providers.base import section_of
from sweep.providers.existing import dashboard
from sweep.providers.finding import Finding, check_shared_folder
from sweep.spec.cluster import Existing
from sweep.spec.sweep import Sweep

HERE = ("127.0.0.1", "localhost", "::1")


def findings(sweep: Sweep) -> Iterator[Finding]:
    """Check that the cluster answers, its version of Ray, and its resources."""
    cluster = section_of(sweep, Existing)
    try:
        yield version(cluster)
        nodes = dashboard.nodes(cluster)
    except UserError as error:
        yield Finding("nodes", "not ok", "; ".join(error.problems))
        return
    cpus = sum(node["resources_total"].get("CPU", 0) for node in nodes)
    gpus = sum(node["resources_total"].get("GPU", 0) for node in nodes)
    number = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}"
    yield Finding("nodes", "ok", f"{number}, {cpus:g} CPUs, {gpus:g} GPUs now")
    plain = cluster.address.startswith("http://") and urlsplit(cluster.address).hostname not in HERE
    if plain and dashboard.headers():
        text = "the cluster's secret is sent over the network as plain text"
        yield Finding("address", "unknown", text, "reach it through a tunnel, or by https")
    text = f"only the job can find out if {cluster.python} there has this project's packages"
    yield Finding(
        "environment", "unknown", text, "use an image made from pyproject.toml, and an absolute path in cluster.python"
    )
    if not sweep.storage.startswith("s3://"):
        yield check_shared_folder("shared folder", Path(sweep.storage), "every node of the cluster")


def version(cluster: Existing) -> Finding:
    """Check that the cluster answers, and runs the version of Ray that this project needs.

    Raises:
        UserError: the cluster does not answer, or refuses access.
    """
    there, ours = dashboard.version(cluster), importlib.metadata.version("ray")
    if there == ours:
        return Finding("ray", "ok", f"{cluster.address} runs Ray {there}")
    fix = f"start the cluster from an image with ray {ours} and the packages of pyproject.toml"
    return Finding("ray", "not ok", f"{cluster.address} runs Ray {there}, but this project needs {ours}", fix)
