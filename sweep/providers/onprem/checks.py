"""Checks of the user's own hosts over SSH, all hosts at once.  Nothing is started on them."""

from __future__ import annotations

import importlib.metadata
import shlex
import shutil
import uuid
from collections.abc import Iterator
from functools import partial
from importlib.resources import files

from sweep.errors import UserError
from sweep.providers.base import section_of
from sweep.providers.finding import CHECK_SECONDS, Finding
from sweep.providers.onprem import ray_config, ssh
from sweep.spec.cluster import OnPrem
from sweep.spec.load import find_placeholders
from sweep.spec.sweep import Sweep
from sweep.store import open_store
from sweep.store.base import Store, StoreError

S3_PROBE = """
import boto3, sys
bucket, key = sys.argv[1:]
s3 = boto3.client("s3")
s3.put_object(Bucket=bucket, Key=key, Body=b"from a host")
s3.delete_object(Bucket=bucket, Key=key)
print("store=ok")
"""


def findings(sweep: Sweep) -> Iterator[Finding]:
    """Check each host: SSH, cores and GPUs, Python environment, and access to the store."""
    left = find_placeholders(sweep)
    if "cluster.hosts" in left:
        yield Finding("hosts", "unknown", "not tried before cluster.hosts is edited")
        return
    cluster = section_of(sweep, OnPrem)
    missing = [name for name in ("ssh", "rsync") if shutil.which(name) is None]
    if missing:
        yield Finding("here", "not ok", f"no {' and no '.join(missing)} here", "install the packages openssh and rsync")
        return
    probe = f"checks/{uuid.uuid4().hex}"
    store = None if "storage" in left else _put_probe(sweep.storage, probe)
    try:
        look = _script(sweep, probe if store is not None else None)
        found = ssh.run_on_all(cluster.hosts, lambda host: ssh.parse_facts(ssh.run(cluster, host, look)))
    finally:
        _forget(store, probe)
    for number, host in enumerate(cluster.hosts):
        seen = found[host]
        if isinstance(seen, UserError):
            fix = f"try: {shlex.join(ssh.words(cluster, host))} true"
            yield Finding(f"host {host}", "not ok", "; ".join(seen.problems), fix)
        else:
            trials = number > 0 or len(cluster.hosts) == 1
            yield _host(cluster, host, seen, head=number == 0, trials=trials)
            yield _environment(cluster, host, seen)
            if store is not None:
                yield _store(sweep, host, seen)


def _host(cluster: OnPrem, host: str, seen: dict[str, list[str]], *, head: bool, trials: bool) -> Finding:
    finding = partial(Finding, f"host {host}")
    if "rsync" not in seen:
        return finding("not ok", "reached, but rsync is not installed", "install it there")
    if head and int(seen["ray_of_others"][0]):
        text = "reached; the head of another Ray cluster runs there, and uses the ports"
        return finding("not ok", text, "wait for it or end it; a running launch of this sweep is kept: see `status`")
    cores, gpus = int(seen["cores"][0]), seen.get("gpu", [])
    offer = f"{cores} cores, {_gpus(gpus)}"
    if not trials:
        return finding("ok", f"reached as {ssh.user(cluster)}: the head, {offer}; it runs no trials")
    if cores < cluster.cpus:
        return finding("not ok", f"has {offer}; cluster.cpus is {cluster.cpus}", f"--set cluster.cpus={cores}")
    if len(gpus) < cluster.gpus:
        return finding("not ok", f"has {offer}; cluster.gpus is {cluster.gpus}", f"--set cluster.gpus={len(gpus)}")
    for line in gpus[: cluster.gpus]:
        name, capability = (part.strip() for part in line.rsplit(",", 1))
        if name != cluster.gpu:
            return finding(
                "not ok",
                f"has {name}; cluster.gpu is {cluster.gpu}",
                "use the name that nvidia-smi prints, or leave it out",
            )
        if cluster.capability is not None and float(capability) != cluster.capability:
            text = f"{name} has compute capability {capability}; cluster.capability is {cluster.capability:g}"
            return finding("not ok", text, f"--set cluster.capability={capability}")
    return finding("ok", f"reached as {ssh.user(cluster)}: {offer}")


def _gpus(lines: list[str]) -> str:
    names = [line.rsplit(",", 1)[0].strip() for line in lines]
    kinds = {name: names.count(name) for name in names}
    return " and ".join(f"{count} {name}" for name, count in kinds.items()) or "no GPU"


def _environment(cluster: OnPrem, host: str, seen: dict[str, list[str]]) -> Finding:
    name, python, ray = f"environment {host}", seen["python"][0], seen["ray"][0]
    if not cluster.environment:
        if not python:
            return Finding(name, "not ok", "python3 is not installed", "install it there, with pip")
        text = f"not checked: a launch makes it, pinned, with python3 ({python}) and pip, which need a package index"
        return Finding(name, "unknown", text, "for hosts without internet: --set cluster.environment=FOLDER")
    ours = importlib.metadata.version("ray")
    if ray == ours:
        return Finding(name, "ok", f"{cluster.environment}: Python {python}, Ray {ray}")
    text = (
        f"{cluster.environment}/bin/python has {f'Ray {ray}' if ray else 'no Ray, or does not exist'}; needed is {ours}"
    )
    return Finding(name, "not ok", text, "make it there from pyproject.toml, e.g. with uv sync")


def _store(sweep: Sweep, host: str, seen: dict[str, list[str]]) -> Finding:
    name = f"store from {host}"
    if "store" in seen:
        return Finding(
            name, "ok", "a probe was written" if sweep.storage.startswith("s3://") else "it is the same folder"
        )
    if not sweep.storage.startswith("s3://"):
        text = f"{sweep.storage} is another folder there than here, or cannot be written to"
        return Finding(name, "not ok", text, "use a folder on NFS with the same path on every host, or s3://")
    if not section_of(sweep, OnPrem).environment:
        return Finding(name, "unknown", "not tried before the Python environment exists")
    text = f"a probe could not be written to {sweep.storage}: {' '.join(seen.get('error', ['no reason given']))}"
    return Finding(name, "not ok", text, "add credentials there, e.g. in ~/.aws")


def _script(sweep: Sweep, probe: str | None) -> str:
    cluster = section_of(sweep, OnPrem)
    return (
        (files("sweep.providers.onprem") / "look.sh").read_text()
        .replace("{{PYTHON}}", ray_config.python(sweep) if cluster.environment else "python3")
        .replace("{{STORAGE}}", "" if probe is None else _probe(sweep, probe))
    )  # fmt: skip


def _probe(sweep: Sweep, probe: str) -> str:
    """Return shell code that prints "store=ok" if a host can read the probe in the store and write next to it."""
    if not sweep.storage.startswith("s3://"):
        seen = shlex.quote(f"{sweep.storage}/{probe}")
        return f'[ -r {seen} ] && touch {seen}.there 2> /dev/null && rm -f {seen}.there && echo "store=ok"; true'
    if not section_of(sweep, OnPrem).environment:
        return ""
    bucket, _, prefix = sweep.storage.removeprefix("s3://").partition("/")
    words = [ray_config.python(sweep), "-c", S3_PROBE, bucket, f"{prefix}/{probe}.there".lstrip("/")]
    return f"{shlex.join(words)} 2> >(tail -n 1 | sed 's/^/error=/'); true"


def _put_probe(storage: str, probe: str) -> Store | None:
    """Return the store, with a probe in it; None if that failed, which the check of the storage reports."""
    try:
        store = open_store(storage, CHECK_SECONDS)
        store.put(probe, b"from here")
    except StoreError:
        return None
    return store


def _forget(store: Store | None, probe: str) -> None:
    if store is not None:
        store.delete(probe)
