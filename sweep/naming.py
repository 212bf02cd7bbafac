"""The name that everything of one sweep goes by outside its store: cluster, job, folders."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from sweep.spec import Sweep


def cluster_name(sweep: Sweep) -> str:
    """One for each sweep of each store, the same at every launch, so that `down` finds what was made."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", sweep.name).strip("-")[:40]
    digest = hashlib.sha256(f"{sweep.storage}\n{sweep.name}".encode()).hexdigest()[:8]
    return f"sweep-{readable}-{digest}"


def kept(sweep: Sweep, environment: Mapping[str, str] = os.environ) -> Path:
    """Folder in which this machine keeps the secrets and the log of a sweep's cluster; nobody has made it yet."""
    cache = Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "anomaly-sweep/clusters" / cluster_name(sweep)
