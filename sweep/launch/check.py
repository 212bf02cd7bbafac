"""Implementation of `check`: find out if a sweep can run as its YAML describes.  Nothing is started.

A probe object is written to the store and deleted again.  With `fix`, missing resources are made if that is allowed.
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
from sweep.providers import user_code, weights
from sweep.providers.base import Provider
from sweep.providers.finding import CHECK_SECONDS, Finding
from sweep.providers.registry import provider_of
from sweep.spec.load import find_placeholders, placeholder_fix
from sweep.spec.sweep import Sweep
from sweep.store import open_store
from sweep.store.base import StoreError


@dataclass(frozen=True)
class Checked:
    """Result of a check.

    Attributes:
        findings: findings in the order in which a user would fix them.
        commands: shell commands that machines would run, by kind of machine; {} if only this machine is used.
    """

    findings: tuple[Finding, ...]
    commands: dict[str, list[str]]

    @property
    def passed(self) -> bool:
        return all(finding.state != "not ok" for finding in self.findings)


def check(sweep: Sweep, *, fix: bool = False) -> Checked:
    """Check everything that a launch needs.

    Args:
        sweep: sweep that would be launched.
        fix: make what is missing and may be made.
    """
    provider, unedited = provider_of(sweep), find_placeholders(sweep)
    left = [Finding(key, "not ok", f"{text} is a placeholder", placeholder_fix(key)) for key, text in unedited.items()]
    before = tuple(provider.store_findings(fix=fix))
    reached = "storage" not in unedited and all(finding.state != "not ok" for finding in before)
    stored = (storage(sweep), *data(sweep)) if reached else _not_tried(unedited)
    machines = (*provider.findings(fix=fix), _slots(provider), *_budget(provider))
    return Checked(
        (*left, *before, *stored, *user_code.findings(provider), *weights.findings(provider), *machines),
        provider.commands(),
    )


def storage(sweep: Sweep) -> Finding:
    """Check that the store takes, keeps and deletes an object, and does not overwrite one that is put once."""
    path = f"checks/{uuid.uuid4().hex}"
    try:
        store = open_store(sweep.storage, CHECK_SECONDS)
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
        return Finding(
            "storage", "not ok", f"{store.url} lets a second writer overwrite an object that is put once", fix
        )
    if not gone:
        return Finding("storage", "not ok", f"{store.url} does not delete {path}")
    return Finding("storage", "ok", f"{store.url}: a probe was written, refused a second time, read and deleted")


def data(sweep: Sweep) -> Iterator[Finding]:
    """Check that each dataset is in the store, or that its source can be read."""
    try:
        absent = missing(open_store(sweep.storage, CHECK_SECONDS), sweep)
    except StoreError as error:
        yield Finding("data", "unknown", f"the contents of the store cannot be listed: {error}")
        return
    for name in sorted({name for study in sweep.studies for name in study.datasets}):
        yield Finding(f"data {name}", "ok", "in the store") if name not in absent else _source(sweep, name)


def _source(sweep: Sweep, name: str) -> Finding:
    """Check the source of a dataset that is not in the store; files are not read, because that may mean a download."""
    put = f"python -m sweep data put {name} CONFIG"
    if not sweep.dataset(name).needs_root:
        return Finding(
            f"data {name}", "ok", "not in the store yet; it is part of a Python package, and a launch puts it"
        )
    if sweep.data.root is None:
        fix = f"--set data.root=FOLDER, then {put}"
        return Finding(
            f"data {name}", "not ok", "not in the store, and no folder to read it from is given (data.root)", fix
        )
    root = Path(sweep.data.root).expanduser()
    if not root.is_dir() or not any(root.iterdir()):
        text = f"not in the store, and {root} is empty or missing; torchvision downloads it there, if it can"
        return Finding(f"data {name}", "unknown", text, put)
    return Finding(
        f"data {name}", "unknown", f"not in the store yet; a launch reads it from {root}; to put it now:", put
    )


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
    """Return findings for checks of the store that are skipped, because an earlier finding makes them pointless."""
    if "storage" in unedited:
        return [Finding("data", "unknown", "not tried before storage is edited")]
    return [Finding(name, "unknown", "not tried before the lines above are ok") for name in ("storage", "data")]
