"""Checks of an AWS account, one finding for each.  Nothing is started."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sweep.errors import UserError
from sweep.providers.aws import client, defaults, ray_config
from sweep.providers.aws import iam as access
from sweep.providers.aws.instances import Instance, instance, worker
from sweep.providers.base import section_of
from sweep.providers.finding import Finding
from sweep.spec.cluster import Aws
from sweep.spec.load import find_placeholders
from sweep.spec.sweep import Sweep

# Codes of EC2's quotas of vCPUs, (spot, on demand), by the letters at the beginning of an instance family.
QUOTAS = {
    "g": ("L-3819A6DF", "L-DB2E81BA"),
    "vt": ("L-3819A6DF", "L-DB2E81BA"),
    "p": ("L-7212CCBC", "L-417A185B"),
    **dict.fromkeys("acdhimrtz", ("L-34B43A08", "L-1216C47A")),
}
OWN_SPOT_QUOTA = ("p5",)  # families that have other spot quotas, whose codes are not known here
PRIVATE = {
    "BlockPublicAcls": True, "IgnorePublicAcls": True, "BlockPublicPolicy": True, "RestrictPublicBuckets": True
}  # fmt: skip
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
FIX = "python -m sweep check CONFIG --fix"
NO_TOKENS = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or sign in again"


def bucket(sweep: Sweep, *, fix: bool) -> tuple[Finding, ...]:
    """Check what the store needs: credentials, region, and the bucket if it is not a placeholder."""
    cluster = section_of(sweep, Aws)
    credentials = _try("credentials", lambda: _credentials(cluster), NO_TOKENS)
    if credentials.state != "ok":
        return (credentials,)
    region = _try("region", lambda: _region(cluster))
    if "storage" in find_placeholders(sweep):
        return credentials, region
    name = sweep.storage.removeprefix("s3://").partition("/")[0]
    return credentials, region, _try("bucket", lambda: _bucket(cluster, name, fix))


def machines(sweep: Sweep, *, fix: bool) -> Iterator[Finding]:
    """Check roles, quotas, image, and the network that may connect by SSH."""
    cluster = section_of(sweep, Aws)
    try:
        account, _ = access.account(cluster.region)
    except client.errors():
        yield Finding("roles, quota, image", "unknown", "not tried before the credentials are ok")
        return
    iam = client.client("iam", cluster.region)
    if "storage" in find_placeholders(sweep):  # the roles' policies, which `fix` makes, contain it
        yield Finding("profiles", "unknown", "not tried before storage is edited")
    else:
        for role, kind in zip(access.roles(cluster, sweep.storage, account), ("head", "worker"), strict=True):
            yield _try(f"{kind} profile", lambda role=role, kind=kind: _role(iam, role, kind, fix))  # type: ignore[misc]
    if cluster.spot:
        yield _try("spot role", lambda: _spot_role(iam, fix))
    yield from _quotas(cluster)
    yield _try("image", lambda: _image(cluster))
    yield _try("ssh", lambda: Finding("ssh", "ok", f"allowed only from {defaults.ssh_from(cluster)}"))


def commands(sweep: Sweep) -> dict[str, list[str]]:
    """Return the commands that machines would run, by kind of machine; {} if no worker fits the sweep."""
    nothing = Path("unused")
    resolved = ray_config.Resolved("ami-00000000", "127.0.0.1/32", 0, 1, nothing, nothing, nothing)
    try:
        return ray_config.commands(ray_config.configuration(sweep, worker(sweep), resolved))
    except UserError:
        return {}


def _try(name: str, look: Callable[[], Finding], fix: str = "") -> Finding:
    """Return the result of a check, or a finding with the error of AWS."""
    try:
        return look()
    except UserError as error:
        return Finding(name, "not ok", "; ".join(error.problems))
    except client.errors() as error:
        refused = re.search("AccessDenied|Unauthorized|Forbidden|403", client.code(error)) is not None
        allow = "ask the administrator of the account for this right" if refused else ""
        return Finding(name, "not ok", client.error_text(error), fix or allow)


def _credentials(cluster: Aws) -> Finding:
    account, who = access.account(cluster.region)
    return Finding("credentials", "ok", f"account {account}, {who}")


def _region(cluster: Aws) -> Finding:
    answer = client.client("ec2", cluster.region).describe_availability_zones()["AvailabilityZones"]
    zones = sorted(zone["ZoneName"] for zone in answer if zone["State"] == "available")
    unknown = [] if cluster.zones == "auto" else [zone for zone in cluster.zones if zone not in zones]
    if unknown:
        text = f"{cluster.region} has no zone {', '.join(unknown)}"
        return Finding("region", "not ok", text, f"cluster.zones: auto, or some of {', '.join(zones)}")
    return Finding("region", "ok", f"{cluster.region}, zones {', '.join(zones)}")


def _bucket(cluster: Aws, name: str, fix: bool) -> Finding:
    if not BUCKET_NAME.fullmatch(name):
        edit = "edit the YAML: storage: s3://your-bucket/prefix"
        return Finding(
            "bucket", "not ok", f"{name} is no legal name: use lower-case letters, digits, '.' and '-'", edit
        )
    s3 = client.client("s3", cluster.region)
    made = False
    try:
        s3.head_bucket(Bucket=name)
    except client.errors() as error:
        if client.code(error) not in ("404", "NoSuchBucket"):
            raise
        if not fix:
            return Finding("bucket", "not ok", f"there is no bucket {name}", FIX)
        # us-east-1 is the only region that must not be named here.
        where = {"CreateBucketConfiguration": {"LocationConstraint": cluster.region}}
        s3.create_bucket(Bucket=name, **(where if cluster.region != "us-east-1" else {}))
        made = True
    region = s3.get_bucket_location(Bucket=name).get("LocationConstraint") or "us-east-1"
    if region != cluster.region:
        text = f"{name} is in {region}, machines are in {cluster.region}: transfer between them costs money"
        return Finding("bucket", "not ok", text, f"--set cluster.region={region}")
    if not _is_private(s3, name):
        if not fix:
            return Finding("bucket", "not ok", f"{name} does not block public access", FIX)
        s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=PRIVATE)
    return Finding("bucket", "ok", f"{name} in {region}, {'made, ' if made else ''}public access blocked")


def _is_private(s3: Any, name: str) -> bool:
    try:
        found = s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"]
    except client.errors() as error:
        if client.code(error) != "NoSuchPublicAccessBlockConfiguration":
            raise
        return False
    return all(found.get(key) for key in PRIVATE)


def _role(iam: Any, role: access.Role, kind: str, fix: bool) -> Finding:
    name = f"{kind} profile"
    problem = access.problem(iam, role)
    if problem is not None and fix:
        access.make(iam, role)
        problem = access.problem(iam, role)
    if problem is not None:
        foreign = "not of Sweep" in problem
        return Finding(name, "not ok", problem, "give another name of a profile" if foreign else FIX)
    return Finding(name, "ok", f"instance profile {role.name}, policy {role.policy_name}")


def _spot_role(iam: Any, fix: bool) -> Finding:
    if not access.has_spot_role(iam):
        if not fix:
            return Finding("spot role", "not ok", f"the account has no {access.SPOT_ROLE} yet", FIX)
        access.make_spot_role(iam)
    return Finding("spot role", "ok", access.SPOT_ROLE)


def _quotas(cluster: Aws) -> Iterator[Finding]:
    """Check the vCPUs that the account may run at once, against those of the workers and the head."""
    try:
        types = [instance(name, cluster.region) for name in cluster.worker]
        head = instance(cluster.head, cluster.region)
    except UserError as error:
        yield Finding("quota", "unknown", "; ".join(error.problems))
        return
    families = {_family(t.name): t for t in sorted(types, key=lambda t: t.vcpus)}  # the largest type of each family
    for family, largest in families.items():
        if cluster.spot:
            yield _try("quota", lambda f=family, t=largest: _quota(cluster, f, t, True))  # type: ignore[misc]
        yield _try("quota", lambda f=family, t=largest: _quota(cluster, f, t, False))  # type: ignore[misc]
    if _family(head.name) not in families:
        yield _try("quota", lambda: _head_quota(cluster, head))


def _quota(cluster: Aws, family: str, of: Instance, spot: bool) -> Finding:
    """Check a quota of the workers.

    If the workers are spot, on-demand machines are only the fallback, and one worker is enough there.
    """
    name = f"quota {family} {'spot' if spot else 'on demand'}"
    code = _quota_code(of.name, spot)
    if code is None:
        return Finding(name, "unknown", f"the quota for {of.name} is not known here", _page(cluster))
    allowed = _allowed_vcpus(cluster, code)
    if allowed is None:
        return Finding(name, "unknown", f"AWS does not report how many vCPUs {code} allows", _page(cluster, code))
    fit, wanted = int(allowed // of.vcpus), cluster.max_workers if spot or not cluster.spot else 1
    text = f"{allowed:g} vCPUs are enough for {fit} of {of.name}, cluster.max_workers is {cluster.max_workers}"
    if fit >= wanted:
        return Finding(name, "ok", text)
    fewer = f", or --set cluster.max_workers={fit}" if fit and wanted > 1 else ""
    return Finding(name, "not ok", text, f"ask for more: {_page(cluster, code)}{fewer}")


def _head_quota(cluster: Aws, head: Instance) -> Finding:
    code = _quota_code(head.name, False)
    allowed = None if code is None else _allowed_vcpus(cluster, code)
    if code is None or allowed is None:
        return Finding("quota head", "unknown", f"AWS does not report how many of {head.name} may run", _page(cluster))
    text = f"{allowed:g} vCPUs, {head.name} has {head.vcpus}"
    if allowed >= head.vcpus:
        return Finding("quota head", "ok", text)
    return Finding("quota head", "not ok", text, f"ask for more: {_page(cluster, code)}")


def _allowed_vcpus(cluster: Aws, code: str) -> float | None:
    """Return the vCPUs of a quota; None if unknown, as in a region that was never used."""
    quotas = client.client("service-quotas", cluster.region)
    try:
        return float(quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])
    except client.errors() as error:
        if "NoSuchResource" not in client.code(error):
            raise
        return None


def _family(name: str) -> str:
    return name.partition(".")[0]


def _quota_code(name: str, spot: bool) -> str | None:
    letters = re.match("[a-z]+", name)
    if letters is None or (spot and name.startswith(OWN_SPOT_QUOTA)):
        return None
    codes = QUOTAS.get(letters.group())
    return None if codes is None else codes[0 if spot else 1]


def _page(cluster: Aws, code: str = "") -> str:
    return f"https://{cluster.region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/{code}"


def _image(cluster: Aws) -> Finding:
    found = defaults.image(cluster)
    images = client.client("ec2", cluster.region).describe_images(ImageIds=[found])["Images"]
    if not images:
        return Finding("image", "not ok", f"{cluster.region} has no image {found}", "--set cluster.image=ami-...")
    root = images[0].get("RootDeviceName", ray_config.ROOT_DEVICE)
    if root != ray_config.ROOT_DEVICE:
        text = f"{found} boots from {root}, but a launch sets the size of {ray_config.ROOT_DEVICE}"
        return Finding("image", "not ok", text, "use an Ubuntu image, or set BlockDeviceMappings in cluster.ray")
    sizes = [disk.get("Ebs", {}).get("VolumeSize", 0) for disk in images[0].get("BlockDeviceMappings", [])]
    if max(sizes, default=0) > cluster.disk_gb:
        text = f"{found} needs {max(sizes)} GB, cluster.disk_gb is {cluster.disk_gb}"
        return Finding("image", "not ok", text, f"--set cluster.disk_gb={max(sizes)}")
    pin = f"; to keep it: --set cluster.image={found}" if cluster.image == "auto" else ""
    return Finding("image", "ok", f"{found}, {images[0].get('Name', 'without a name')}{pin}")
