"""Implementation of `data put`, `data verify` and `data list`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from rich.console import Console
from rich.table import Table

from sweep.errors import UserError
from sweep.plan.datasets import contents_here, put_into, refuse_unknown
from sweep.spec.own_datasets import size_of
from sweep.spec.sweep import Sweep
from sweep.store import open_store
from sweep.store.base import Store

OK, DAMAGED, UNFINISHED, NEWER = "ok", "damaged", "unfinished", "of a newer version"
FIXABLE = {DAMAGED, UNFINISHED}


def put(sweep: Sweep, name: str, console: Console) -> None:
    """Prepare a dataset from its source and store it, with progress; a damaged one is fixed.

    Raises:
        UserError: the dataset does not exist, or its source cannot be read here.
    """
    put_into(open_store(sweep.storage, sweep.budget.outage_seconds), sweep, name, console)


def verify(sweep: Sweep, names: Collection[str], console: Console, repair: bool = False) -> bool:
    """Check every byte of some or all stored datasets.  Returns True if all are whole.

    Args:
        sweep: names the store and the sources.
        names: names of datasets; none for all.
        console: where to print the state of each.
        repair: fix damaged datasets from their source.

    Raises:
        UserError: a dataset does not exist, or is not stored.
    """
    store = open_store(sweep.storage, sweep.budget.outage_seconds)
    stored = store.names("datasets")
    for name in names:
        if name not in stored:
            refuse_unknown(sweep, name)
    absent = [name for name in names if name not in stored]
    if absent:
        raise UserError(
            [f"{name} is not in the store {store.url}: python -m sweep data put {name} CONFIG" for name in absent]
        )
    if not stored:
        console.print(f"no dataset is stored in {store.url}", soft_wrap=True, markup=False)
    states = set()
    for found in names or stored:
        for preparation in store.names(f"datasets/{found}"):
            state, problems = _state(store, found, preparation)
            if state in FIXABLE and repair:
                console.print(f"{found} {preparation}: {state}, being fixed")
                _show(problems, console)
                state, problems = _repair(store, sweep, found, preparation, console)
            console.print(f"{found} {preparation}: {state}")
            _show(problems, console)
            states.add(state)
    if states & FIXABLE and not repair:
        console.print("to fix it from its source, run the same command with --repair")
    return states <= {OK}


def _state(store: Store, name: str, preparation: str) -> tuple[str, list[str]]:
    """Return the state of a stored dataset, and its problems."""
    from data.storage import shards
    from data.storage.manifest import DamagedManifestError, NewerManifestError, read_manifest

    try:
        if read_manifest(store, name, preparation) is None:
            return UNFINISHED, []
        problems = [str(problem) for problem in shards.verify(store, name, preparation)]
    except DamagedManifestError as error:
        return DAMAGED, [str(error)]
    except NewerManifestError as error:
        return NEWER, [str(error)]
    return DAMAGED if problems else OK, problems


def _repair(store: Store, sweep: Sweep, name: str, preparation: str, console: Console) -> tuple[str, list[str]]:
    """Put a damaged dataset again.  Returns its new state, and the problems that are left."""
    info = contents_here(sweep, name) if name in sweep.data.datasets() else None
    if info is None or info.preparation(size_of(info, sweep.data.size)) != preparation:
        return DAMAGED, [
            f"CONFIG describes no set {name} that is prepared as {preparation} and can be read here: "
            "change data.size or data.sets, also with --set"
        ]
    try:
        put_into(store, sweep, name, console)
    except UserError as error:
        return DAMAGED, list(error.problems)
    return _state(store, name, preparation)


def _show(problems: list[str], console: Console) -> None:
    for problem in problems:
        console.print(f"  {problem}", markup=False, soft_wrap=True)


def listing(sweep: Sweep) -> list[dict[str, Any]]:
    """Return one entry for each dataset of the store, with what is stored of it, and one for each that is not stored.

    Datasets that are not stored are the built-in ones and those of `data.sets`.
    """
    store = open_store(sweep.storage, sweep.budget.outage_seconds)
    found: list[dict[str, Any]] = []
    described = sweep.data.datasets()
    for name in dict.fromkeys([*described, *store.names("datasets")]):
        info = (described[name] or contents_here(sweep, name)) if name in described else None
        preparations: list[str | None] = [*store.names(f"datasets/{name}")] or [None]
        for preparation in preparations:
            entry: dict[str, Any] = {
                "name": name, "preparation": preparation,
                "classes": None, "channels": None, "protocols": None, "licence": None,
                "images": None, "counts": None, "bytes": None, "fingerprint": None,
            }  # fmt: skip
            if info is not None:
                entry |= {
                    "classes": list(info.classes), "channels": info.channels,
                    "protocols": list(info.protocols), "licence": info.licence,
                }  # fmt: skip
            if preparation is not None:
                entry |= _stored_entry(store, name, preparation)
            found.append(entry)
    return found


def table(found: list[dict[str, Any]]) -> Table:
    """Return the listing as a table for the terminal."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("dataset", "stored as", "images", "MB", "protocols", "fingerprint"):
        shown.add_column(heading, no_wrap=True)
    shown.add_column("images of each class")
    for entry in found:
        images = "-" if entry["images"] is None else f"{entry['images']:,}"
        size = "-" if entry["bytes"] is None else f"{entry['bytes'] / 1e6:,.1f}"
        counts = entry["counts"] or dict.fromkeys(entry["classes"] or ())
        classes = ", ".join(name if count is None else f"{name} {count:,}" for name, count in counts.items())
        shown.add_row(
            entry["name"], entry["preparation"] or "not stored", images, size,
            ", ".join(entry["protocols"] or ()), (entry["fingerprint"] or "-")[:12], classes,
        )  # fmt: skip
    return shown


def _stored_entry(store: Store, name: str, preparation: str) -> dict[str, Any]:
    from data.storage.manifest import DamagedManifestError, NewerManifestError, read_manifest

    try:
        manifest = read_manifest(store, name, preparation)
    except DamagedManifestError:
        return {"fingerprint": DAMAGED}
    except NewerManifestError:
        return {"fingerprint": NEWER}
    if manifest is None:
        return {"fingerprint": UNFINISHED}
    return {
        "classes": list(manifest.classes),
        "channels": manifest.shape[0],
        "protocols": list(manifest.protocols),
        "licence": manifest.licence,
        "images": manifest.rows,
        "counts": dict(manifest.counts),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "fingerprint": manifest.fingerprint,
        "skipped": len(manifest.skipped),
        "duplicates": manifest.duplicates,
    }
