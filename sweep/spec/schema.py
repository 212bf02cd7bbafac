"""Text that lists all keys of the YAML, each with type, default and one line of description."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from data.sources.layouts import LAYOUTS
from models import catalog as detectors
from sweep.spec.cluster import PROVIDERS
from sweep.spec.named_studies import named_studies
from sweep.spec.study import Study
from sweep.spec.study_sections import Fractions, MoreSeeds, Range
from sweep.spec.sweep import Budget, Data, TrialOptions

SECTIONS: dict[str, type[BaseModel]] = {
    "budget": Budget,
    "data": Data,
    "trial": TrialOptions,
}


def text() -> str:
    """Return the list of keys as text, one key per line."""
    lines = ["storage: store of the results: a folder, or s3://bucket/prefix (must be given)", ""]
    for provider, keys in PROVIDERS.items():
        lines += [f"cluster, provider {provider}: {keys.__doc__}", *_keys(keys, "cluster"), ""]
    for name, section in SECTIONS.items():
        lines += [f"{name}: {section.__doc__}", *_keys(section, name), ""]
    lines += ["data.sets.NAME: your own image folders; NAME is the name of the dataset in studies", *_layouts(), ""]
    studies = ", ".join(named_studies())
    lines += [
        "sweep: one complete run",
        "  sweep.name = file and study: id in the store; must be given on S3",
        f"  sweep.study: a study that comes with the package: {studies}",
        "  sweep.studies: studies instead of a named one: a list of mappings with the keys below",
        "  A key below that is given under sweep itself applies to every study.",
        "",
        "sweep.studies[]: settings to vary, and seeds to average over",
        *_keys(Study, ""),
        *_keys(Fractions, "validation"),
        *_keys(MoreSeeds, "more_seeds"),
        *_keys(Range, "space.NAME"),
        "",
        "hyperparameters.DETECTOR, or hyperparameters.all: training hyperparameters, and lambda for the score",
    ]
    for info in detectors.DETECTORS.values():
        lines.append(f"  {info.name}: {info.doc}; variants {', '.join(info.variants)}")
        lines += [f"    {f.name} = {f.default}: {f.doc}, {f.legal()}" for f in info.fields]
        lam = info.variant(info.default_variant).lam
        lines += [] if lam is None else [f"    lambda = {lam}: share of the reconstruction term in the score, 0 to 1"]
    return "\n".join(lines)


def _keys(section: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in section.model_fields.items():
        if not field.repr:  # filled in by the program, not by the user
            continue
        path = f"{prefix}.{name}" if prefix else name
        yield f"  {path}{_default(field)}: {field.description}"


def _layouts() -> Iterator[str]:
    """Yield the keys of own datasets, each once, with the layouts that have it unless all do."""
    for name, layout in LAYOUTS.items():
        yield f"  data.sets.NAME.layout: {name}: {layout.__doc__}"
    owners: dict[str, list[str]] = {}
    fields = {}
    for name, layout in LAYOUTS.items():
        for field in dataclasses.fields(layout):
            owners.setdefault(field.name, []).append(name)
            fields[field.name] = field
    for name, field in fields.items():
        if name != "layout":
            some = "" if len(owners[name]) == len(LAYOUTS) else f" ({', '.join(owners[name])})"
            yield f"  data.sets.NAME.{name}{_default_text(field.default)}: {field.metadata['description']}{some}"


def _default_text(value: Any) -> str:
    if value is dataclasses.MISSING:
        return " (must be given)"
    return f" = {'none' if value is None else list(value) if isinstance(value, tuple) else value}"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "" if field.default_factory else " (must be given)"
    return _default_text(field.default)
