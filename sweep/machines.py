"""What a plan says of machines that a launch would make: how many, for how long, at what price, from what."""

from __future__ import annotations

import time

from sweep import ray_yaml as ray_launcher
from sweep.aws import ray_config, resolve
from sweep.aws.estimate import Estimate, estimate, lines
from sweep.aws.folder import Folder
from sweep.aws.instances import worker
from sweep.datasets import described, missing
from sweep.providers import Aws
from sweep.spec import Sweep
from sweep.status import Survey
from sweep.store import Store, StoreError


def told(sweep: Sweep, store: Store, found: Estimate, unreached: str) -> list[str]:
    """Lines of a plan: machines, time, dollars, and what would be uploaded first."""
    return [*lines(sweep, found, worker(sweep)), _uploads(sweep, store, unreached)]


def ray_yaml(sweep: Sweep, survey: Survey) -> str:
    """The configuration that Ray's launcher would be given, after Ray's own checks.

    Raises:
        UserError: Ray refuses what `cluster.ray` makes of it, or the image or the network cannot be found out.
    """
    cluster, hours = sweep.cluster, sweep.budget.max_hours
    assert isinstance(cluster, Aws) and hours is not None
    folder = Folder(sweep)
    resolved = ray_config.Resolved(
        image=resolve.image(cluster),
        ssh_from=resolve.ssh_from(cluster),
        deadline=int(time.time() + hours * 3600),
        workers=max(1, estimate(sweep, survey).workers),
        code=folder.code,
        token=folder.token,
        key=folder.key,
    )
    config = ray_config.configuration(sweep, worker(sweep), resolved)
    ray_launcher.validated(config)
    return ray_launcher.text(config)


def _uploads(sweep: Sweep, store: Store, unreached: str) -> str:
    if unreached:
        return "to upload: unknown"
    try:
        names = missing(store, sweep)
    except StoreError as error:
        return f"to upload: unknown ({error})"
    if not names:
        return "to upload: nothing, the datasets are in the store"
    return f"to upload: {', '.join(described(sweep, name) for name in names)}"
