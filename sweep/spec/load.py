"""Reading of a YAML file into a `Sweep`: `--set`, named studies, and one message for every problem."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from data.sources.layouts import LAYOUTS
from models.hyperparameters import PUBLISHED_SIDE
from sweep.errors import UserError, shown, unknown
from sweep.spec import yamlfile
from sweep.spec.cluster import PROVIDERS, Price
from sweep.spec.named_studies import (
    NARROWING,
    NamedStudy,
    leave_out_private,
    leave_out_unknown,
    named_studies,
    narrow_replication,
    read_named,
)
from sweep.spec.own_datasets import describe
from sweep.spec.study import Study
from sweep.spec.sweep import Budget, Data, Sweep, TrialOptions

_TOP = ("cluster", "budget", "storage", "data", "trial", "sweep")
_SWEEP_ONLY = ("name", "study", "studies")
PLACEHOLDER = "EDIT-THIS"


def load(path: Path, assignments: Sequence[str] = ()) -> Sweep:
    """Return the sweep that a YAML file and `--set` assignments describe.

    Raises:
        UserError: contains every problem at once, each with its key, the legal values and the fix.
    """
    return resolve(yamlfile.override(yamlfile.read(path), assignments), stem=path.stem, source=str(path))


def resolve(raw: Mapping[str, Any], *, stem: str = "sweep", source: str = "") -> Sweep:
    """Return the sweep that the contents of a YAML describe.

    Args:
        raw: contents of the YAML.
        stem: first part of the sweep's default id.
        source: name of the file for the error's heading; "" to use `stem`.

    Raises:
        UserError: as `load`.
    """
    problems = [unknown("key", key, _TOP) for key in raw if key not in _TOP]
    body = raw.get("sweep")
    if not isinstance(body, Mapping):
        problems.append("sweep: must be given, e.g. sweep: {study: quickstart}")
        body = {}
    notes: list[str] = []
    studies, places, trial = _studies(raw, body, problems, notes)
    storage = raw.get("storage")
    if not storage or not isinstance(storage, str):
        problems.append("storage: must be a folder or s3://bucket/prefix, e.g. storage: ./results")
        storage = "./invalid"
    label = body.get("study") or "studies"
    name = body.get("name")
    if name is None and storage.startswith("s3://"):
        problems.append("sweep.name: must be given on S3, where a bucket is shared, e.g. sweep.name: my-table-1")
    problems += _needed_elsewhere(raw, storage)
    fields = {key: raw[key] for key in ("cluster", "budget", "data", "trial") if raw.get(key) is not None}
    if trial and isinstance(fields.get("trial", {}), Mapping):
        fields["trial"] = yamlfile.merge(trial, fields.get("trial", {}))
    fields |= {"name": name or f"{stem}-{label}", "storage": storage, "studies": studies}
    fields |= _describe_data(fields, problems)
    try:
        sweep = Sweep.model_validate(fields)
    except ValidationError as error:
        problems += _readable(error, places)
    if problems:
        raise UserError(problems, heading=f"{source or stem}: {len(set(problems))} to fix")
    return sweep.with_notes(notes)


def load_recorded(fields: Mapping[str, Any], storage: str) -> Sweep:
    """Return the sweep that was recorded as JSON, with its store at another address.

    Raises:
        UserError: contains every problem.  Another version may have written the record, with other keys.
    """
    try:
        return Sweep.model_validate({**rename_variants(fields), "storage": storage})
    except ValidationError as error:
        raise UserError(_readable(error, ())) from None
    except (TypeError, ValueError, RecursionError):
        raise UserError(f"sweep: must be keys and values, is {shown(fields)}") from None


def rename_variants(fields: Any) -> Any:
    """Return a recorded sweep with today's names of variants.

    EGBAD's `repo` was today's `dcgan` in records of before 2026-12.  These have no images of 28 x 28, without which
    today's `repo` is refused.
    """
    if not isinstance(fields, Mapping):
        return fields  # reported as a problem
    data, studies = fields.get("data"), fields.get("studies")
    if not isinstance(data, Mapping) or not isinstance(studies, list) or f": {PUBLISHED_SIDE}" in json.dumps(data):
        return fields

    def renamed(study: Any) -> Any:
        variants = study.get("variants") if isinstance(study, Mapping) else None
        if not isinstance(variants, list) or "repo" not in variants:
            return study
        return {**study, "variants": list(dict.fromkeys("dcgan" if name == "repo" else name for name in variants))}

    return {**fields, "studies": [renamed(study) for study in studies]}


def _needed_elsewhere(raw: Mapping[str, Any], storage: str) -> list[str]:
    """Return the problems of keys that only providers other than this machine need."""
    cluster, budget = raw.get("cluster"), raw.get("budget")
    provider = cluster.get("provider", "local") if isinstance(cluster, Mapping) else "local"
    if not isinstance(provider, str) or provider not in PROVIDERS or PROVIDERS[provider].runs_here:
        return []
    section, problems = PROVIDERS[provider], []
    if not section.shares_folder and not storage.startswith("s3://"):
        problems.append(
            f"storage: must be s3://bucket/prefix on {provider}, whose machines share no folder, is {shown(storage)}"
        )
    elif not storage.startswith(("s3://", "/")):
        problems.append(
            f"storage: must be s3://bucket/prefix on {provider}, or an absolute folder that this machine and all "
            f"others can use, such as one on NFS; is {shown(storage)}"
        )
    if section.needs_max_hours and (not isinstance(budget, Mapping) or budget.get("max_hours") is None):
        problems.append(
            f"budget.max_hours: must be given on {provider}, where it sets when machines power off, e.g. max_hours: 12"
        )
    return problems


def _describe_data(fields: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return the section `data`, with the contents of those own datasets that studies name."""
    try:
        data = Data.model_validate(fields.get("data", {}))
        budget = Budget.model_validate(fields.get("budget", {}))
    except ValidationError:
        return {}  # reported with all other problems
    named = {str(name) for study in fields["studies"] if isinstance(study, Mapping)
             for name in _as_list(study.get("datasets"))}  # fmt: skip
    chosen = {name: layout for name, layout in data.sets.items() if name in named}
    found, unknown_sets = describe(chosen, data.size, fields["storage"], budget.outage_seconds)
    problems += unknown_sets
    return {"data": data.model_copy(update={"found": found})}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _studies(
    raw: Mapping[str, Any], body: Mapping[str, Any], problems: list[str], notes: list[str]
) -> tuple[list[Any], list[dict[str, str]], Mapping[str, Any]]:
    """Return raw studies, updated with the sweep's own keys, where each of their keys is, and defaults of `trial`.

    Args:
        raw: contents of the YAML.
        body: its section `sweep`.
        problems: receives a line for each problem.
        notes: receives a line for whatever the sweep leaves out of its studies.
    """
    over = {key: value for key, value in body.items() if key not in _SWEEP_ONLY}
    detectors = over.get("detectors")
    named, given = body.get("study"), body.get("studies")
    bases: list[Any] = []
    file: NamedStudy | None = None
    trial: Mapping[str, Any] = {}
    origin = "sweep.studies"
    if (named is None) == (given is None):
        problems.append("sweep: needs either study: NAME or studies: [...], not both")
    elif named is not None:
        paths = named_studies()
        if not isinstance(named, str) or named not in paths:
            problems.append(f"sweep.study: {unknown('study', named, paths)}")
        else:
            origin, file = f"study {named}", read_named(named)
            trial, bases, known = file.trial, list(file.studies), len(problems)
            if "datasets" not in over:
                bases = list(leave_out_private(bases, raw, notes))
            if file.replicates:
                bases = list(narrow_replication(file, bases, over, problems, notes))
                over = {key: value for key, value in over.items() if key not in NARROWING or value == "all"}
            if len(problems) > known:
                return [], [], trial
    elif not isinstance(given, list) or not given:
        problems.append("sweep.studies: must be a list of at least one study")
    else:
        bases = given
    narrowed = [found for base in bases if (found := leave_out_unknown(base, detectors, notes)) is not None]
    if notes and not narrowed:
        problems += [f"sweep: no study is left: {note}" for note in notes]
        return [], [], trial
    notes += file.notes if file is not None else ()
    studies, places = [], []
    for index, base in enumerate(narrowed):
        if isinstance(base, Mapping):
            studies.append(yamlfile.merge(base, over))
            places.append({**{k: f"{origin}[{index}].{k}" for k in base}, **{k: f"sweep.{k}" for k in over}})
        else:
            studies.append(base)
            places.append({})
    if not studies and over:  # check these keys anyway, so that their problems are reported too
        studies.append({"name": "unnamed", "kind": "error_bars", **over})
        places.append({k: f"sweep.{k}" for k in over})
    return studies, places, trial


def _readable(error: ValidationError, places: Sequence[Mapping[str, str]]) -> list[str]:
    """Return one line per problem: key in the file, what is wrong, legal values, nearest name."""
    lines = []
    for problem in error.errors():
        path = [str(part) for part in problem["loc"] if not _is_union_branch(str(part))]
        provider = path.pop(1) if path[:1] == ["cluster"] and len(path) > 1 else "local"
        legal = _keys_at(path, provider)
        if path[:2] == ["data", "sets"] and len(path) > 4:
            del path[3]  # the layout, which pydantic adds to the path of a dataset's key
        if len(path) >= 2 and path[0] == "studies":
            index, rest = int(path[1]), path[2:]
            known = places[index] if index < len(places) else {}
            head = known.get(rest[0], f"sweep.studies[{index}].{rest[0]}") if rest else f"sweep.studies[{index}]"
            place = ".".join([head, *rest[1:]])
        else:
            place = ".".join(path)
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            parent, _, key = place.rpartition(".")
            own = _SWEEP_ONLY if parent == "sweep" else ()
            lines.append(f"{parent}: {unknown('key', key, {*legal, *own})}")
        elif problem["type"] == "union_tag_invalid" and path == ["cluster"]:
            lines.append(f"{place}.provider: {unknown('provider', problem['ctx']['tag'], PROVIDERS)}")
        elif problem["type"] == "union_tag_not_found" and path == ["cluster"]:
            lines.append(f"{place}: must be keys and values, e.g. {{provider: local}}, is {shown(problem['input'])}")
        elif problem["type"].startswith("union_tag"):
            layout = problem["input"].get("layout") if isinstance(problem["input"], Mapping) else None
            lines.append(
                f"{place}.layout: "
                + (unknown("layout", layout, LAYOUTS) if layout else f"must be given, one of {', '.join(LAYOUTS)}")
            )
        elif problem["type"] == "missing":
            lines.append(f"{place}: must be given")
        else:
            for message in str(problem["msg"]).removeprefix("Value error, ").splitlines():
                given = "" if problem["type"] == "value_error" else f", is {shown(problem['input'])}"
                text = f"{message[:1].lower()}{message[1:]}"
                if given and lines and lines[-1].startswith(f"{place}: ") and lines[-1].endswith(given):
                    lines[-1] = f"{lines[-1].removesuffix(given)}, or {text.removeprefix('input should be ')}{given}"
                else:
                    lines.append(f"{place}: {text}{given}" if place else text)
    return lines


def _is_union_branch(part: str) -> bool:
    """Return True if a part of pydantic's path names an alternative of a type, which is not in the file."""
    return "[" in part or part.startswith("constrained-") or part in {"int", "float", "str", "bool", "none", "literal"}


def _keys_at(path: Sequence[str], provider: str) -> list[str]:
    """Return the legal keys of the mapping that contains `path`."""
    if path[:2] == ["data", "sets"] and len(path) > 4:
        return [f.name for f in dataclasses.fields(LAYOUTS[path[3]])]
    if path[:2] == ["cluster", "prices"] and len(path) > 3:
        return list(Price.model_fields)
    sections: dict[str, type[BaseModel]] = {
        "cluster": PROVIDERS[provider], "budget": Budget, "data": Data, "trial": TrialOptions, "studies": Study
    }  # fmt: skip
    return list(sections.get(path[0], Sweep).model_fields) if len(path) > 1 else list(Sweep.model_fields)


def find_placeholders(sweep: Sweep) -> dict[str, str]:
    """Return keys whose text still contains a placeholder of the shipped YAML, with that text."""
    raw = sweep.model_dump(mode="json", exclude={"studies"})
    return {place: text for key, value in raw.items() for place, text in _texts(key, value) if PLACEHOLDER in text}


def refuse_unedited(sweep: Sweep) -> None:
    """Refuse a sweep whose YAML still contains placeholders.

    Raises:
        UserError: contains all of them, with the fix.
    """
    problems = [
        f"{place}: {text} is a placeholder; {placeholder_fix(place)}"
        for place, text in find_placeholders(sweep).items()
    ]
    if problems:
        raise UserError(problems)


def placeholder_fix(place: str) -> str:
    """Return how to fix a placeholder."""
    example = ", e.g. s3://your-bucket/prefix" if place == "storage" else ""
    return f"edit that line of the YAML{example}, or give --set {place}=..."


def _texts(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield every text in a value, with its key."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(f"{place}.{key}", inner)
    elif isinstance(value, list):  # shown as one text, because --set replaces a list as a whole
        yield place, "[" + ", ".join(text for inner in value for _, text in _texts(place, inner)) + "]"
