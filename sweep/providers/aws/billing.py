"""Machines of a sweep on EC2, found by their tags, with their prices."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from sweep.providers.aws import client
from sweep.providers.aws.prices import Quote, quotes
from sweep.providers.aws.ray_config import TAG
from sweep.providers.base import section_of
from sweep.providers.local_files import cluster_name
from sweep.spec.cluster import Aws
from sweep.spec.sweep import Sweep
from sweep.store.launch_status import Node

PAID = ("pending", "running", "stopping", "shutting-down")  # states in which a machine may cost money
# The end of a machine in EC2's words, as in "User initiated (2026-01-01 10:00:00 GMT)".
ENDED = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")
Prices = dict[str, Quote]  # prices by instance type


def list_machines(sweep: Sweep, prices: Prices) -> list[Node] | None:
    """Return a sweep's machines with their prices.  EC2 lists terminated ones for about an hour.

    Args:
        sweep: sweep of the machines.
        prices: filled by the first call, so that prices are looked up only once.

    Returns:
        None if EC2 does not answer.
    """
    cluster = section_of(sweep, Aws)
    filters = [
        {"Name": f"tag:{TAG}", "Values": [sweep.name]},
        {"Name": "tag:ray-cluster-name", "Values": [cluster_name(sweep)]},
    ]
    if not prices:
        prices.update(quotes(cluster))
    try:
        pages = client.client("ec2", cluster.region).get_paginator("describe_instances").paginate(Filters=filters)
        found = [one for page in pages for group in page["Reservations"] for one in group["Instances"]]
    except client.errors():
        return None
    return [_node(instance, prices) for instance in found]


def _node(instance: dict[str, Any], prices: Prices) -> Node:
    spot = instance.get("InstanceLifecycle") == "spot"
    quote = prices.get(instance["InstanceType"])
    price = None if quote is None else quote.spot if spot else quote.on_demand
    alive = instance["State"]["Name"] in PAID
    return Node(
        name=instance["InstanceId"],
        type=instance["InstanceType"],
        market="spot" if spot else "on demand",
        zone=instance.get("Placement", {}).get("AvailabilityZone", ""),
        since=instance["LaunchTime"].timestamp(),
        alive=alive,
        until=None if alive else _end_time(instance),
        usd_per_hour=price,
    )


def _end_time(instance: dict[str, Any]) -> float | None:
    """Return when a machine was terminated, in seconds since 1970; None if EC2 does not report it."""
    match = ENDED.search(instance.get("StateTransitionReason") or "")
    return None if match is None else datetime.fromisoformat(match[1]).replace(tzinfo=UTC).timestamp()
