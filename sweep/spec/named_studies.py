"""Studies that come with the package: read by name, and narrowed to what a sweep asks of them.

A file of the folder `studies` has these keys:

    studies     list of studies, as in `sweep.studies`
    trial       defaults of the section `trial`; a sweep's own values come first
    notes       lines for the reader of a plan
    replicates  paper whose experiments these are; a sweep can leave parts of them out, but put nothing in their place
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import catalog
from data.sources.layouts import ANY
from models import catalog as detectors
from sweep.errors import UserError, unknown
from sweep.spec import yamlfile
from sweep.spec.own_datasets import size_of
from sweep.spec.study import tunable
from sweep.store import open_store
from sweep.store.base import StoreError
from sweep.store.retry import OUTAGE_SECONDS

NARROWING = {"datasets": "dataset", "detectors": "detector", "variants": "variant", "abnormal": "class"}
"""Keys of a sweep that leave out parts of a replication, and what each of their names is."""
RawStudy = Mapping[str, Any]


@dataclass(frozen=True)
class NamedStudy:
    """Contents of one file; the module describes the fields."""

    name: str
    studies: tuple[RawStudy, ...]
    trial: Mapping[str, Any]
    notes: tuple[str, ...]
    replicates: str


def named_studies() -> dict[str, Path]:
    """Return the files of the studies that come with the package, by name."""
    folder = Path(str(importlib.resources.files("sweep.spec"))) / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_named(name: str) -> NamedStudy:
    """Read the study of a legal name."""
    found = yamlfile.read(named_studies()[name])
    return NamedStudy(
        name,
        tuple(found["studies"]),
        found.get("trial", {}),
        tuple(found.get("notes", ())),
        found.get("replicates", ""),
    )


def leave_out_private(studies: Sequence[RawStudy], raw: Mapping[str, Any], notes: list[str]) -> list[RawStudy]:
    """Return studies without those private datasets that this user does not have.

    Args:
        studies: raw studies of a file of this package.
        raw: contents of the user's YAML, for `data.root`, `data.size` and `storage`.
        notes: receives a line for each dataset that is left out.
    """
    named = dict.fromkeys(name for study in studies for name in study["datasets"] if catalog.dataset(name).access)
    gone = [name for name in named if not _is_here(name, raw)]
    for name in gone:
        info = catalog.dataset(name)
        assert info.layout is not None, "private datasets are image folders"
        notes.append(
            f"dataset {name} is left out: it is not in storage, and there is no folder {info.layout.root} in data.root "
            "(--set data.root=FOLDER)"
        )
    kept = [{**study, "datasets": [name for name in study["datasets"] if name not in gone]} for study in studies]
    return [study for study in kept if study["datasets"]]


def _is_here(name: str, raw: Mapping[str, Any]) -> bool:
    """Return True if the store or the folder `data.root` has a private dataset."""
    info = catalog.dataset(name)
    data = raw.get("data")
    given = data if isinstance(data, Mapping) else {}
    root, size = given.get("root"), given.get("size")
    if isinstance(root, str) and info.layout is not None and (Path(root).expanduser() / info.layout.root).is_dir():
        return True
    try:
        path = f"datasets/{name}/{info.preparation(size_of(info, size))}/manifest.json"
        return open_store(str(raw.get("storage")), OUTAGE_SECONDS).exists(path)
    except (StoreError, UserError, ValueError):
        return False  # an illegal size or storage is reported with all other problems


def narrow_replication(
    named: NamedStudy, studies: Sequence[RawStudy], over: Mapping[str, Any], problems: list[str], notes: list[str]
) -> list[RawStudy]:
    """Return the studies of a replication without what a sweep leaves out.

    Args:
        named: the replication.
        studies: its studies, without private datasets that are missing.
        over: keys of the sweep.
        problems: receives a line for each name in `NARROWING` that is not part of the replication.
        notes: receives a line for each study of which nothing is left.
    """
    kept = list(studies)
    for key, kind in NARROWING.items():
        given = over.get(key)
        if not isinstance(given, list):
            continue  # `all` leaves nothing out; other values are reported with all other problems
        names = [str(value) for value in given]
        legal = dict.fromkeys(name for study in named.studies for name in _own(study, key))
        problems += [f"sweep.{key}: study {named.name} has {unknown(kind, n, legal)}" for n in names if n not in legal]
        left: list[RawStudy] = []
        for study in kept:
            own = [name for name in names if name in _own(study, key)]
            if own:
                left.append({**study, key: own})
            else:
                notes.append(f"study {study['name']} is left out: it has none of sweep.{key}")
        kept = left
    return kept


def _own(study: RawStudy, key: str) -> list[str]:
    """Return the names that a study of a file has under a key of `NARROWING`."""
    if key == "abnormal" and study.get(key, "all") == "all":
        return [ANY, *dict.fromkeys(name for dataset in study["datasets"] for name in catalog.dataset(dataset).classes)]
    return [str(name) for name in study.get(key, ("default",))]


def leave_out_unknown(study: Any, names: Any, notes: list[str]) -> Any:
    """Return a raw study without the variants and hyperparameters that none of the named detectors has.

    Args:
        study: raw study.
        names: detectors that a sweep names in place of the study's own.
        notes: receives a line on what is left out.

    Returns:
        The study; None if no axis or no range of its space is left.
    """
    if not isinstance(study, Mapping) or not isinstance(names, list):
        return study
    try:
        infos = [detectors.detector(str(name)) for name in names]
    except detectors.UnknownDetector:
        return study  # reported with all other problems
    every = {name for info in infos for name in tunable(info)}
    given = study.get("hyperparameters")
    shared = given.get("all") if isinstance(given, Mapping) else None
    found = dict(study)
    dropped: list[str] = []
    variants, legal = study.get("variants"), {"default", *(name for info in infos for name in info.variants)}
    if isinstance(variants, list):
        found["variants"] = [name for name in variants if name in legal] or ["default"]
        dropped += [f"variant {name}" for name in variants if name not in legal]
    for key, values in (("axes", study.get("axes")), ("space", study.get("space")), ("hyperparameters", shared)):
        if isinstance(values, Mapping | list) and (gone := [str(name) for name in values if name not in every]):
            dropped += gone
            kept = {n: v for n, v in values.items() if n in every} if isinstance(values, Mapping) else [
                n for n in values if n in every]  # fmt: skip
            found[key] = {**given, "all": kept} if key == "hyperparameters" else kept  # type: ignore[dict-item]
            if not kept and key != "hyperparameters":
                notes.append(f"study {study.get('name')} is left out: {', '.join(names)} has none of its {key}")
                return None
    if dropped:
        unique = ", ".join(dict.fromkeys(dropped))
        notes.append(f"study {study.get('name')}: left out, because {', '.join(names)} has no {unique}")
    return found
