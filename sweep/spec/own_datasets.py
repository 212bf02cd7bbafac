"""The user's own datasets: how the YAML declares them, and what they contain."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from data import catalog
from data.catalog import DatasetInfo
from data.errors import DataError
from data.sources.layouts import LAYOUTS, Classes, Contents, Folder, Layout, Mvtec, Scans
from sweep.errors import UserError
from sweep.store import open_store
from sweep.store.base import Store, StoreError
from sweep.store.records import parse_json


def _numbers_are_no_truth_values(value: Any) -> Any:
    """Refuse true and false where a number belongs: Python counts them as 1 and 0."""
    layout = LAYOUTS.get(str(value.get("layout"))) if isinstance(value, Mapping) else None
    if layout is not None:
        flags = {field.name for field in dataclasses.fields(layout) if field.type == "bool"}
        wrong = sorted(name for name, given in value.items() if isinstance(given, bool) and name not in flags)
        if wrong:
            raise ValueError("\n".join(f"{name} must not be true or false" for name in map(str, wrong)))
    return value


OwnDataset = Annotated[
    Annotated[Folder | Classes | Mvtec | Scans, Field(discriminator="layout")],
    BeforeValidator(_numbers_are_no_truth_values),
]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def name_problems(names: Iterable[str]) -> list[str]:
    """Return the problems of names of the user's own datasets."""
    problems = []
    for name in names:
        if name in catalog.DATASETS:
            problems.append(f"{name}: is the name of a built-in dataset; choose another")
        elif not NAME.fullmatch(name):
            problems.append(
                f"{name}: must be letters, digits, '.', '_' and '-', at most 100, and start with a letter or digit"
            )
    return problems


def size_of(info: DatasetInfo, size: int | None) -> int:
    """Return the side of prepared images in pixels.

    Args:
        info: the dataset; the size of its own layout comes first.
        size: size that the user set for all datasets; it comes second, the dataset's default last.
    """
    own = None if info.layout is None else info.layout.size
    return own or size or info.default_size


def describe(
    sets: Mapping[str, Layout], size: int | None, storage: str, outage_seconds: float
) -> tuple[dict[str, Contents], list[str]]:
    """Return the contents of own datasets, and the problems of those whose contents are unknown.

    The contents come from the store if it has the dataset, otherwise from the dataset's folder.

    Args:
        sets: the user's datasets by name.
        size: size that the user set for all datasets.
        storage: address of the store.
        outage_seconds: seconds to wait for a store that does not answer.
    """
    found: dict[str, Contents] = {}
    problems: list[str] = []
    try:
        store = open_store(storage, outage_seconds) if sets else None
    except (StoreError, UserError):
        store = None  # the problem is reported later, when the store is opened for work
    for name, layout in sets.items():
        stored = None if store is None else _stored_contents(store, name, layout, size)
        try:
            found[name] = stored or _revised(layout, catalog.contents(layout), None)
        except DataError as error:
            problems += [f"data.sets.{name}: {problem}" for problem in str(error).split("\n")]
            problems.append(
                f"data.sets.{name}: is not in {storage}, and its folder cannot be used here: fix the problems above, "
                f"or give the folder with --set data.sets.{name}.root=FOLDER, or the storage that contains it"
            )
    return found, problems


def _stored_contents(store: Store, name: str, layout: Layout, size: int | None) -> Contents | None:
    """Return the contents from the stored manifest; None if it is absent or incomplete, so that the folder is used."""
    unknown = catalog.own(name, layout, Contents((), 0, ("",)))
    path = f"datasets/{name}/{unknown.preparation(size_of(unknown, size))}/manifest.json"
    try:
        if not store.exists(path):
            return None
        fields: Any = parse_json(store.get(path))
        found = Contents(tuple(fields["classes"]), int(fields["rows"]), tuple(fields["protocols"]))
    except (StoreError, ValueError, TypeError, KeyError):
        return None
    return _revised(layout, found, fields) if found.protocols else None


def revise(
    recorded: Mapping[str, Contents], sets: Mapping[str, Layout], size: int | None, store: Store
) -> dict[str, Contents]:
    """Return the contents of own datasets in a recorded launch, with the protocol revisions that apply today.

    So results of an older version that may test on images equal to training images are shown as stale.

    Args:
        recorded: contents by name; those that an older version wrote have no revisions.
        sets: the datasets by name.
        size: size that the user set for all datasets.
        store: open store; contents of a dataset that it does not have stay as they are.
    """
    stored = {name: _stored_contents(store, name, layout, size) for name, layout in sets.items() if name in recorded}
    return {
        name: found if (now := stored.get(name)) is None else dataclasses.replace(found, revised=now.revised)
        for name, found in recorded.items()
    }


def _revised(layout: Layout, found: Contents, manifest: Mapping[str, Any] | None) -> Contents:
    return dataclasses.replace(found, revised=catalog.revised_protocols(layout, found.protocols, manifest))
