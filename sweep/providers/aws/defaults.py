"""Values for `auto`: the machine image, and the network that may connect by SSH."""

from __future__ import annotations

import ipaddress
import urllib.request
from collections.abc import Callable

from sweep.errors import UserError
from sweep.providers.aws import client
from sweep.spec.cluster import Aws

# AWS's base image for NVIDIA GPUs: Ubuntu 24.04 with a driver and Python 3.12; it also boots without a GPU.
IMAGE_PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
ADDRESS_URL = "https://checkip.amazonaws.com"


def image(cluster: Aws) -> str:
    """Return the id of the machine image.

    Raises:
        UserError: it is `auto`, and AWS does not report the id.
    """
    if cluster.image != "auto":
        return cluster.image
    try:
        answer = client.client("ssm", cluster.region).get_parameter(Name=IMAGE_PARAMETER)
    except client.errors() as error:
        raise UserError(
            f"cluster.image: AWS does not report the newest image in {cluster.region} "
            f"({client.error_text(error)}); give one: --set cluster.image=ami-..."
        ) from None
    return str(answer["Parameter"]["Value"])


def ssh_from(cluster: Aws, ask: Callable[[], str] | None = None) -> str:
    """Return the network that may connect by SSH, as CIDR.

    Args:
        cluster: section of the YAML.
        ask: returns the public address of this machine; by default it asks a service of AWS.

    Raises:
        UserError: it is `auto`, and the public address of this machine cannot be found out.
    """
    if cluster.ssh_from != "auto":
        return cluster.ssh_from
    try:
        return str(ipaddress.ip_network((ask or _public_address)().strip()))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cluster.ssh_from: this machine's public address cannot be found out ({error}); "
            "give it: --set cluster.ssh_from=ADDRESS/32"
        ) from None


def _public_address() -> str:
    with urllib.request.urlopen(ADDRESS_URL, timeout=client.SECONDS) as answer:
        return str(answer.read(64).decode())
