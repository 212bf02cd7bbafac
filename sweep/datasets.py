"""The verb data: put, verify and list datasets in a sweep's store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from data import catalog
from sweep.faults import UserError, unknown
from sweep.spec import Sweep
from sweep.store import Store, open_store


def put(sweep: Sweep, name: str, console: Console) -> None:
    """Prepare a dataset from its source and store it, with progress; mends what is damaged.

    Raises:
        UserError: there is no such dataset, or its source cannot be read here.
    """
    put_into(open_store(sweep.storage), sweep, name, console)


def put_into(store: Store, sweep: Sweep, name: str, console: Console) -> None:
    """`put` for an open store."""
    from data import shards  # numpy, pyarrow and Pillow: a second that no other verb should pay
    from data.faults import DataError

    if name not in catalog.DATASETS:
        raise UserError(unknown("dataset", name, catalog.DATASETS))
    root = None if sweep.data.root is None else Path(sweep.data.root).expanduser()
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"preparing {name}", total=None)
            manifest = shards.put(
                store,
                name,
                size=_size(sweep, name),
                root=root,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except (DataError, ValueError) as error:
        raise UserError(str(error)) from None
    console.print(f"{name}: {manifest.rows:,} images in the store, fingerprint {manifest.fingerprint[:12]}")


def missing(store: Store, sweep: Sweep) -> list[str]:
    """Datasets of a sweep that its store has not."""
    names = sorted({name for study in sweep.studies for name in study.datasets})
    return [name for name in names if not store.exists(f"datasets/{name}/{_preparation(sweep, name)}/manifest.json")]


def verify(sweep: Sweep, name: str | None, console: Console) -> bool:
    """Check every byte of one or all stored datasets; returns whether all are whole.

    Raises:
        UserError: there is no such dataset.
    """
    from data import shards
    from data.faults import DataError

    store = open_store(sweep.storage)
    if name is not None and name not in catalog.DATASETS:
        raise UserError(unknown("dataset", name, catalog.DATASETS))
    stored = [found for found in store.names("datasets") if name in (None, found)]
    if name is not None and not stored:
        raise UserError(f"{name} is not in the store {store.url}: python -m sweep data put {name} CONFIG")
    whole = True
    for found in stored:
        for preparation in store.names(f"datasets/{found}"):
            try:
                faults = [str(fault) for fault in shards.verify(store, found, preparation)]
            except DataError as error:
                faults = [str(error)]
            whole = whole and not faults
            console.print(f"{found} {preparation}: {'ok' if not faults else 'damaged'}")
            for fault in faults:
                console.print(f"  {fault}; mend it: python -m sweep data put {found} CONFIG", markup=False)
    return whole


def listing(sweep: Sweep) -> list[dict[str, Any]]:
    """Every dataset of the catalog, with what the store holds of it."""
    store = open_store(sweep.storage)
    found: list[dict[str, Any]] = []
    for info in catalog.DATASETS.values():
        preparations: list[str | None] = [*store.names(f"datasets/{info.name}")] or [None]
        for preparation in preparations:
            entry: dict[str, Any] = {
                "name": info.name, "classes": list(info.classes), "channels": info.channels,
                "protocols": list(info.protocols), "preparation": preparation, "licence": info.licence,
                "images": None, "counts": None, "bytes": None, "fingerprint": None,
            }  # fmt: skip
            if preparation is not None:
                entry |= _stored(store, info.name, preparation)
            found.append(entry)
    return found


def table(found: list[dict[str, Any]]) -> Table:
    """The listing for a person."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("dataset", "stored as", "images", "classes", "protocols", "fingerprint"):
        shown.add_column(heading)
    for entry in found:
        images = "-" if entry["images"] is None else f"{entry['images']:,}"
        fingerprint = (entry["fingerprint"] or "-")[:12]
        shown.add_row(
            entry["name"], entry["preparation"] or "not stored", images,
            str(len(entry["classes"])), ", ".join(entry["protocols"]), fingerprint,
        )  # fmt: skip
    return shown


def _stored(store: Store, name: str, preparation: str) -> dict[str, Any]:
    from data.manifest import DamagedManifestError, read_manifest

    try:
        manifest = read_manifest(store, name, preparation)
    except DamagedManifestError:
        return {"fingerprint": "damaged"}
    if manifest is None:
        return {}
    return {
        "images": manifest.rows,
        "counts": dict(manifest.counts),
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "fingerprint": manifest.fingerprint,
    }


def _size(sweep: Sweep, name: str) -> int:
    return sweep.data.size or catalog.dataset(name).default_size


def _preparation(sweep: Sweep, name: str) -> str:
    return catalog.preparation(name, _size(sweep, name))
