"""A user's own datasets: how the YAML declares them, and what they hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field

from data import catalog
from data.catalog import DatasetInfo
from data.errors import DataError
from data.sources.layouts import Classes, Contents, Folder, Layout, Mvtec, Scans
from sweep.errors import UserError
from sweep.store import open_store
from sweep.store.base import Store, StoreError

OwnSet = Annotated[Folder | Classes | Mvtec | Scans, Field(discriminator="layout")]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def name_faults(names: Iterable[str]) -> list[str]:
    """What is wrong with names of a user's own sets."""
    problems = []
    for name in names:
        if name in catalog.DATASETS:
            problems.append(f"{name}: is the name of a built-in dataset; choose another")
        elif not NAME.fullmatch(name):
            problems.append(f"{name}: must be letters, digits, '.', '_' and '-', at most 100, a letter or digit first")
    return problems


def size_of(info: DatasetInfo, size: int | None) -> int:
    """Side of prepared images in pixels, `size` being what the user says of all sets."""
    own = None if info.layout is None else info.layout.size
    return own or size or info.default_size


def describe(sets: Mapping[str, Layout], size: int | None, storage: str) -> tuple[dict[str, Contents], list[str]]:
    """What sets hold, as the store has them, else as their folders are; and problems of those that neither tells.

    Args:
        sets: the user's, by name.
        size: what he says of all datasets.
        storage: address of the store.
    """
    found: dict[str, Contents] = {}
    problems: list[str] = []
    try:
        store = open_store(storage) if sets else None
    except (StoreError, UserError):
        store = None  # its own problem is told when it is opened for work
    for name, layout in sets.items():
        stored = None if store is None else _stored_contents(store, name, layout, size)
        try:
            found[name] = stored or catalog.contents(layout)
        except DataError as error:
            problems += [f"data.sets.{name}: {problem}" for problem in str(error).split("\n")]
            problems.append(
                f"data.sets.{name}: is not in {storage}, and its folder cannot be used here: fix what is said above, "
                f"or give the folder with --set data.sets.{name}.root=FOLDER, or the storage that has it"
            )
    return found, problems


def _stored_contents(store: Store, name: str, layout: Layout, size: int | None) -> Contents | None:
    """What the manifest says; None where there is none, or not a whole one: the folder tells then."""
    unknown = catalog.own(name, layout, Contents((), 0, ("",)))
    path = f"datasets/{name}/{unknown.preparation(size_of(unknown, size))}/manifest.json"
    try:
        if not store.exists(path):
            return None
        fields: Any = json.loads(store.get(path))
        found = Contents(tuple(fields["classes"]), int(fields["rows"]), tuple(fields["protocols"]))
    except (StoreError, ValueError, TypeError, KeyError):
        return None
    return found if found.protocols else None
