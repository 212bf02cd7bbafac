"""Ray's node provider for EC2, as a sweep needs it: Ray's own cannot replace spot by on-demand machines.

Ray imports it by name (`provider.module`), on this machine and on the head.  So the project's folder must be on the
Python path before Ray starts.
"""

from __future__ import annotations

import copy
import logging
import random
import time
from collections.abc import Iterator
from typing import Any

from ray.autoscaler._private.aws import config as aws_config
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider, make_ec2_resource
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import NODE_KIND_WORKER, TAG_RAY_NODE_KIND

from sweep.providers.aws import capacity, client

# Refusals of EC2 for which another zone, type or market is tried.  All others, such as a missing right, are final.
NO_CAPACITY = frozenset({
    "InsufficientInstanceCapacity",
    "InsufficientCapacity",
    "UnfulfillableCapacity",
    "SpotMaxPriceTooLow",
    "MaxSpotInstanceCountExceeded",  # the quota of spot vCPUs; on-demand machines have another one
    "VcpuLimitExceeded",  # the quota of one family; another type may have another one
    "InstanceLimitExceeded",
    "Unsupported",  # this type is not offered in this zone
})  # fmt: skip

# Pauses in seconds if EC2 accepts no more requests from the account for now.  It has made no machine then.  Each pause
# is randomized, so that requests that were refused together do not come back together.
PAUSES = (2.0, 4.0, 8.0)

log = logging.getLogger(__name__)


class SpotFirst(AWSNodeProvider):
    """Node provider that tries every type as spot in every zone, then every type on demand.

    This is for workers; the head is requested as configured.

    It reads these keys of Ray's provider section, in addition to those of AWS's own provider:
        worker_types: instance types of a worker, in order of preference.
        ssh_from: the only network that may connect by SSH.
        security_group.GroupName: name of the security group, which only this sweep uses, so that it can be removed.
        tags: tags of the security group.
    """

    def _create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        if tags.get(TAG_RAY_NODE_KIND) != NODE_KIND_WORKER:  # the head; its type may also be a worker's type
            return self._request(node_config, tags, count)
        try:
            made = self._any_worker(node_config, tags, count)
        except NodeLaunchException as refused:
            capacity.write_refusal(f"{refused.category}: {refused.description}")
            raise
        except Exception as error:  # EC2 was not reached
            capacity.write_refusal(f"{type(error).__name__}: {error}")
            raise
        capacity.clear_refusal()
        return made

    def _any_worker(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        refusals = []
        for attempt in attempts(node_config, self.provider_config["worker_types"]):
            market = "spot" if "InstanceMarketOptions" in attempt else "on demand"
            try:
                return self._request(attempt, tags, count)
            except NodeLaunchException as refused:
                if refused.category not in NO_CAPACITY:
                    raise
                log.warning("no capacity for %s %s: %s", attempt["InstanceType"], market, refused.category)
                refusals.append(refused)
        raise refusals[-1]

    def _request(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> dict[str, Any]:
        """Request machines in each configured zone in turn; if EC2 throttles the account, try again a few times."""
        pauses = iter(PAUSES)
        while True:
            try:
                made: dict[str, Any] = super()._create_node(node_config, dict(tags), count)  # type: ignore[no-untyped-call]
                return made
            except NodeLaunchException as refused:
                pause = next(pauses, None)
                if pause is None or refused.category not in client.THROTTLED:
                    raise
            time.sleep(pause * random.uniform(0.5, 1.5))

    @staticmethod
    def bootstrap_config(cluster_config: dict[str, Any]) -> dict[str, Any]:
        """Return the configuration that Ray completes, with a security group that allows SSH only from `ssh_from`.

        Ray's own security group would allow SSH from everywhere.
        """
        config = copy.deepcopy(cluster_config)
        node_configs = [node["node_config"] for node in config["available_node_types"].values()]
        if any("SecurityGroupIds" not in node for node in node_configs):
            config = aws_config._configure_subnet(config)
            group = _security_group(config)
            for node in config["available_node_types"].values():
                node["node_config"].setdefault("SecurityGroupIds", [group])
        bootstrapped: dict[str, Any] = AWSNodeProvider.bootstrap_config(config)
        return bootstrapped


def attempts(node_config: dict[str, Any], worker_types: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the requests to EC2 for one worker, in the order in which they are tried.

    Args:
        node_config: configuration of a worker; it requests spot by "InstanceMarketOptions".
        worker_types: instance types that can replace each other.  If `cluster.ray` gives a worker another type, only
            that type is tried.
    """
    types = worker_types if node_config["InstanceType"] in worker_types else [node_config["InstanceType"]]
    on_demand = {key: value for key, value in node_config.items() if key != "InstanceMarketOptions"}
    markets = [node_config] if "InstanceMarketOptions" in node_config else []
    for market in (*markets, on_demand):
        for name in types:
            yield {**market, "InstanceType": name}


def _security_group(config: dict[str, Any]) -> str:
    """Return the id of the sweep's security group; it is made if necessary, and gets exactly the rules it needs."""
    provider = config["provider"]
    name = provider["security_group"]["GroupName"]
    ec2 = make_ec2_resource(provider["region"], max_retries=5)
    subnet = next(iter(config["available_node_types"].values()))["node_config"]["SubnetIds"][0]
    vpc = ec2.Subnet(subnet).vpc_id
    wanted = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "group-name", "Values": [name]}]
    group = next(iter(ec2.security_groups.filter(Filters=wanted)), None)
    if group is None:
        tags = [{"Key": key, "Value": value} for key, value in provider["tags"].items()]
        group = ec2.create_security_group(
            GroupName=name,
            Description="Machines of one sweep: one another, and SSH from one network",
            VpcId=vpc,
            TagSpecifications=[{"ResourceType": "security-group", "Tags": tags}],
        )
    rules = [
        {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group.id}]},
        {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, **_range(provider["ssh_from"])},
    ]
    if group.ip_permissions:  # rules of an earlier launch, perhaps from another address
        group.revoke_ingress(IpPermissions=group.ip_permissions)
    group.authorize_ingress(IpPermissions=rules)
    return str(group.id)


def _range(network: str) -> dict[str, Any]:
    if ":" in network:
        return {"Ipv6Ranges": [{"CidrIpv6": network}]}
    return {"IpRanges": [{"CidrIp": network}]}
