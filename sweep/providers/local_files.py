"""The name that everything of one sweep goes by outside its store: cluster, job, folders."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sweep.errors import UserError
from sweep.spec.sweep import Sweep


def cluster_name(sweep: Sweep) -> str:
    """One for each sweep of each store, the same at every launch, so that `down` finds what was made."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", sweep.name).strip("-")[:40]
    digest = hashlib.sha256(f"{sweep.storage}\n{sweep.name}".encode()).hexdigest()[:8]
    return f"sweep-{readable}-{digest}"


def cluster_folder(sweep: Sweep, environment: Mapping[str, str] = os.environ) -> Path:
    """Folder in which this machine keeps the secrets and the log of a sweep's cluster; nobody has made it yet."""
    cache = Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "anomaly-sweep/clusters" / cluster_name(sweep)


def private_text(path: Path, text: str) -> None:
    """Have a file that its owner alone may read hold this; whoever reads it meanwhile, or later, sees all or nothing.

    Raises:
        OSError: it cannot be written; what it held before stays.
    """
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """What cannot be written to a folder of a cluster, such as on a disk that is full, is a problem of the user's."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: {error}; XDG_CACHE_HOME names another place") from None
