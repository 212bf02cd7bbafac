"""Datasets of a sweep: put them into its store, and find out which are missing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from data import catalog
from data.catalog import DatasetInfo
from data.errors import DataError
from sweep.errors import UserError, unknown
from sweep.spec.own_datasets import size_of
from sweep.spec.sweep import Sweep
from sweep.store.base import Store

if TYPE_CHECKING:
    from data.storage.manifest import Manifest

SHOWN = 5  # skipped images that are printed; the manifest lists all


def put_into(store: Store, sweep: Sweep, name: str, console: Console) -> None:
    """Prepare a dataset from its source, put it into the store, and print remarks for the user.

    Raises:
        UserError: the dataset does not exist, or its source cannot be read here.
    """
    from data.storage import shards  # imports numpy, pyarrow and Pillow: a second that other commands need not wait
    from data.storage.manifest import manifest_path

    refuse_unknown(sweep, name)
    root = None if sweep.data.root is None else Path(sweep.data.root).expanduser()
    try:
        info = _as_its_source_is(sweep, name)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"preparing {name}", total=None)
            manifest = shards.put(
                store,
                info,
                size=size_of(info, sweep.data.size),
                root=root,
                skip_bad=sweep.data.on_bad == "skip",
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except (DataError, ValueError) as error:
        raise UserError(str(error).split("\n")) from None
    console.print(f"{name}: {manifest.rows:,} images in the store, fingerprint {manifest.fingerprint[:12]}")
    listed = f"{store.url}/{manifest_path(name, manifest.preparation)}"
    for line in _remarks(manifest, info, listed):
        console.print(f"  {line}", markup=False, soft_wrap=True)


def _remarks(manifest: Manifest, info: DatasetInfo, listed: str) -> Iterator[str]:
    """Yield remarks for the user on a dataset that was stored.

    Args:
        manifest: manifest of the dataset.
        info: the dataset as its source has it.
        listed: address of the manifest.
    """
    parameters = manifest.parameters
    if "reached" in parameters:
        yield f"{', '.join(f'{title} {count:,}' for title, count in manifest.counts.items())} patches"
        chosen = "chosen from the boxes" if parameters["scale_from"] == "boxes" else "as given"
        overlap = f"windows reach IoU > {parameters['iou']} with boxes of {parameters['reached']}"
        yield f"scale {parameters['scale']} ({chosen}): {overlap}"
    if manifest.skipped:
        yield f"skipped {len(manifest.skipped):,} images that could not be read, all listed in {listed}:"
        yield from (f"  {skipped.source}: {skipped.reason}" for skipped in manifest.skipped[:SHOWN])
    if manifest.duplicates or manifest.repeats:
        yield from _equal_images(manifest, info)
    for title, count in zip(info.classes, info.counts, strict=False):
        if manifest.counts[title] != count:
            yield f"warning: {manifest.counts[title]:,} images of class {title}, published: {count:,}"


def _equal_images(manifest: Manifest, info: DatasetInfo) -> Iterator[str]:
    """Yield a remark on images that are equal, and on what every split does about them."""
    splits = set(info.protocols) & set(catalog.BY_SOURCE)
    counts = [(manifest.duplicates, "of the test split are also in the train split")] if splits else []
    counts += [(manifest.repeats or (0 if splits else manifest.duplicates), "repeat another one")]
    found = " and ".join(f"{count:,} images {what}" for count, what in counts if count)
    done = "they may be on two sides of a split" if info.name in catalog.DATASETS else "splits keep them on one side"
    yield f"warning: {found}, pixel for pixel; {done}"


def missing(store: Store, sweep: Sweep) -> list[str]:
    """Return the datasets of a sweep that its store does not have."""
    names = sorted({name for study in sweep.studies for name in study.datasets})
    return [name for name in names if not store.exists(f"datasets/{name}/{sweep.preparation(name)}/manifest.json")]


def unusable(store: Store, sweep: Sweep) -> list[str]:
    """Return the datasets of a sweep that are missing in its store, or whose manifest is damaged there.

    `put_into` fixes both.
    """
    from data.storage.manifest import DamagedManifestError, read_manifest

    found = missing(store, sweep)
    for name in sorted({name for study in sweep.studies for name in study.datasets} - {*found}):
        try:
            read_manifest(store, name, sweep.preparation(name))
        except DamagedManifestError:
            found.append(name)
    return found


def describe_dataset(sweep: Sweep, name: str) -> str:
    """Return a dataset's name and size, such as "cifar10 (60,000 images, 184 MB before compression)"."""
    info = sweep.dataset(name)
    size = size_of(info, sweep.data.size)
    return f"{name} ({info.images:,} images, {info.images * info.channels * size**2 / 1e6:,.0f} MB before compression)"


def contents_here(sweep: Sweep, name: str) -> DatasetInfo | None:
    """Return a dataset as its source has it; None if the folder of the user's own dataset cannot be read here."""
    try:
        return _as_its_source_is(sweep, name)
    except DataError:
        return None


def refuse_unknown(sweep: Sweep, name: str) -> None:
    known = sweep.data.datasets()
    if name not in known:
        raise UserError(unknown("dataset", name, known))


def _as_its_source_is(sweep: Sweep, name: str) -> DatasetInfo:
    """Return a dataset as its source has it now; the store is not read."""
    if name not in sweep.data.sets:
        return catalog.dataset(name)
    layout = sweep.data.sets[name]
    return catalog.own(name, layout, catalog.contents(layout))


def default_cache() -> str:
    """Return the folder for prepared images, in the user's cache folder."""
    return f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/anomaly-sweep"
