"""What a sweep needs of a Ray cluster that runs already, looked at line by line.  Nothing is started."""

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
    """Whether the cluster answers, is of our version, and what it has."""
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
        said = "the cluster's secret goes over the network as plain text"
        yield Finding("address", "unknown", said, "reach it through a tunnel, or by https")
    said = f"whether {cluster.python} there has this project's packages is found out by the job alone"
    yield Finding("environment", "unknown", said, "an image made from pyproject.toml, and cluster.python absolute")
    if not sweep.storage.startswith("s3://"):
        yield check_shared_folder("shared folder", Path(sweep.storage), "every node of the cluster")


def version(cluster: Existing) -> Finding:
    """Whether the cluster answers, and runs the Ray that this project is made for.

    Raises:
        UserError: it does not answer, or does not let us in.
    """
    there, ours = dashboard.version(cluster), importlib.metadata.version("ray")
    if there == ours:
        return Finding("ray", "ok", f"{cluster.address} runs Ray {there}")
    fix = f"start the cluster from an image with ray {ours} and the packages of pyproject.toml"
    return Finding("ray", "not ok", f"{cluster.address} runs Ray {there}, this project needs {ours}", fix)
