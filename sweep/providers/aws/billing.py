"""What a sweep's machines on EC2 cost: every one that bears its tags, with its price."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sweep.providers.aws import client
from sweep.providers.aws.prices import Quote, quotes
from sweep.providers.aws.ray_config import TAG
from sweep.providers.local_files import cluster_name
from sweep.spec.cluster import Aws
from sweep.spec.sweep import Sweep
from sweep.store.launch_status import Node

PAID = ("pending", "running", "stopping", "shutting-down")  # until it is said to be terminated
ENDED = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")  # e.g. User initiated (2026-01-01 10:00:00 GMT)


def bill(sweep: Sweep) -> Callable[[], list[Node] | None]:
    """What lists a sweep's machines, terminated ones for as long as EC2 shows them (about an hour).

    Prices are looked up once, when the first list is made.  The list is None when EC2 does not answer.
    """
    cluster = sweep.cluster
    assert isinstance(cluster, Aws)
    priced: dict[str, Quote] = {}
    filters = [
        {"Name": f"tag:{TAG}", "Values": [sweep.name]},
        {"Name": "tag:ray-cluster-name", "Values": [cluster_name(sweep)]},
    ]

    def listed() -> list[Node] | None:
        if not priced:
            priced.update(quotes(cluster))
        try:
            pages = client.client("ec2", cluster.region).get_paginator("describe_instances").paginate(Filters=filters)
            found = [one for page in pages for group in page["Reservations"] for one in group["Instances"]]
        except client.errors():
            return None
        return [_node(instance, priced) for instance in found]

    return listed


def _node(instance: dict[str, Any], priced: dict[str, Quote]) -> Node:
    spot = instance.get("InstanceLifecycle") == "spot"
    quote = priced.get(instance["InstanceType"])
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
    """When a machine that is terminated ended, in seconds since 1970; EC2 does not say of every one."""
    said = ENDED.search(instance.get("StateTransitionReason") or "")
    return None if said is None else datetime.fromisoformat(said[1]).replace(tzinfo=UTC).timestamp()
