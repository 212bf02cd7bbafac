"""The verb check: whether a sweep could run as its YAML says.  Nothing is started.

The store is written to, with a probe that is deleted again; `fix` makes what may be made.
"""

from __future__ import annotations

import uuid
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.errors import UserError
from sweep.plan.datasets import missing
from sweep.plan.table import slots
from sweep.providers import user_code
from sweep.providers.base import Provider
from sweep.providers.finding import Finding
from sweep.providers.registry import provider_of
from sweep.spec.load import edit, find_placeholders
from sweep.spec.sweep import Sweep
from sweep.store import open_store
from sweep.store.base import StoreError


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        findings: in the order in which a user would fix them.
        commands: what would be run on machines, by kind of machine; {} where there are none but this one.
    """

    findings: tuple[Finding, ...]
    commands: dict[str, list[str]]

    @property
    def passed(self) -> bool:
        return all(finding.state != "not ok" for finding in self.findings)


def check(sweep: Sweep, *, fix: bool = False) -> Checked:
    """Check everything that a launch needs.

    Args:
        sweep: that would be launched.
        fix: make what is missing and may be made.
    """
    provider, unedited = provider_of(sweep), find_placeholders(sweep)
    left = [Finding(key, "not ok", f"{text} is a placeholder", edit(key)) for key, text in unedited.items()]
    before = tuple(provider.store_findings(fix=fix))
    reached = "storage" not in unedited and all(finding.state != "not ok" for finding in before)
    stored = (storage(sweep), *data(sweep)) if reached else _not_tried(unedited)
    machines = (*provider.findings(fix=fix), _slots(provider), *_budget(provider))
    return Checked((*left, *before, *stored, *user_code.findings(provider), *machines), provider.commands())


def storage(sweep: Sweep) -> Finding:
    """Whether the store takes, keeps and gives up an object, and refuses to overwrite one that is put once."""
    path = f"checks/{uuid.uuid4().hex}"
    try:
        store = open_store(sweep.storage)
        try:
            first, second = store.put_once(path, b"first"), store.put_once(path, b"second")
            kept = store.get(path)
        finally:
            store.delete(path)
        gone = not store.exists(path)
    except StoreError as error:
        return Finding("storage", "not ok", str(error))
    if not (first and not second and kept == b"first"):
        fix = "use AWS's own S3 or a server with conditional writes (If-None-Match)"
        return Finding("storage", "not ok", f"{store.url} lets a second writer overwrite what is put once", fix)
    if not gone:
        return Finding("storage", "not ok", f"{store.url} does not delete {path}")
    return Finding("storage", "ok", f"{store.url}: a probe was written, refused a second time, read and deleted")


def data(sweep: Sweep) -> Iterator[Finding]:
    """Whether each dataset is in the store, or where it would be read from."""
    try:
        absent = missing(open_store(sweep.storage), sweep)
    except StoreError as error:
        yield Finding("data", "unknown", f"the store does not say what it holds: {error}")
        return
    for name in sorted({name for study in sweep.studies for name in study.datasets}):
        yield Finding(f"data {name}", "ok", "in the store") if name not in absent else _source(sweep, name)


def _source(sweep: Sweep, name: str) -> Finding:
    """A dataset that is not in the store yet.  Its files are not read here: that may mean a download."""
    put = f"python -m sweep data put {name} CONFIG"
    if not sweep.dataset(name).needs_root:
        return Finding(f"data {name}", "ok", "not in the store yet; comes with a package, a launch puts it")
    if sweep.data.root is None:
        fix = f"--set data.root=FOLDER, then {put}"
        return Finding(f"data {name}", "not ok", "not in the store, and data.root names no folder to read it from", fix)
    root = Path(sweep.data.root).expanduser()
    if not root.is_dir() or not any(root.iterdir()):
        said = f"not in the store, and {root} holds nothing; where torchvision can, it downloads it there"
        return Finding(f"data {name}", "unknown", said, put)
    return Finding(f"data {name}", "unknown", f"not in the store yet; a launch reads it from {root}, or now:", put)


def _slots(provider: Provider[Any]) -> Finding:
    try:
        found = provider.platform()
        provider.check_launch()
        return Finding("slots", "ok", "; ".join([slots(found), *found.caution.splitlines()]))
    except UserError as error:
        return Finding("slots", "not ok", "; ".join(error.problems))


def _budget(provider: Provider[Any]) -> Iterator[Finding]:
    if caution := provider.budget_caution():
        fix = "" if provider.sweep.budget.max_hours else "--set budget.max_hours=HOURS"
        yield Finding("budget", "unknown", caution, fix)


def _not_tried(unedited: Container[str]) -> list[Finding]:
    """Return the lines on the store where earlier lines show that it cannot be reached."""
    if "storage" in unedited:
        return [Finding("data", "unknown", "not tried before storage is edited")]
    return [Finding(name, "unknown", "not tried before the lines above are ok") for name in ("storage", "data")]
