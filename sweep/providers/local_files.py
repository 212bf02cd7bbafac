"""Names and files of a sweep's machines on this machine: cluster, job, folders, secrets."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sweep.errors import UserError
from sweep.files import write_atomically
from sweep.spec.sweep import Sweep


def cluster_name(sweep: Sweep) -> str:
    """Return the name of a sweep's cluster or job, which is the same at every launch, so that `down` finds it.

    Sweeps with other names or stores have other cluster names.
    """
    readable = re.sub(r"[^A-Za-z0-9]+", "-", sweep.name).strip("-")[:40]
    digest = hashlib.sha256(f"{sweep.storage}\n{sweep.name}".encode()).hexdigest()[:8]
    return f"sweep-{readable}-{digest}"


def cluster_folder(sweep: Sweep, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for secrets and log of a sweep's cluster on this machine; it may not exist yet."""
    cache = Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "anomaly-sweep/clusters" / cluster_name(sweep)


def private_text(path: Path, text: str) -> None:
    """Write a file that only its owner can read, completely or not at all.

    Raises:
        OSError: it cannot be written; the old file stays.
    """
    write_atomically(path, text.encode(), mode=0o600)


@contextmanager
def explain_unwritable(folder: Path) -> Iterator[None]:
    """Turn an OSError within the block, such as a full disk, into an error that names the folder and the fix."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: {error}; set XDG_CACHE_HOME to use another folder") from None
