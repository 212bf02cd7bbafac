"""Everything a YAML may say: typed, frozen, validated; faults are reported all at once.

`load` reads a file, lays `--set` over it, fills in named studies and returns a `Sweep` in which
nothing is implicit but what depends on the machine (resolved by `sweep.plan`).
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from data import catalog
from data.catalog import DatasetInfo
from data.layouts import LAYOUTS, Contents
from sweep import yamlfile
from sweep.faults import UserError, unknown
from sweep.providers import PROVIDERS, SHARED_NOTHING, Cluster, Local, Price, Section
from sweep.sets import OwnSet, describe, name_faults, size_of
from sweep.study import Study

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("must be letters, digits, '.', '_' and '-', at most 100, a letter or digit first")
    return value


class Budget(Section):
    """What may be spent before everything is stopped, resumable."""

    max_hours: Annotated[float, Field(gt=0)] | None = Field(
        None, description="hours a launch may take; on aws it must be given, since machines power themselves off by it"
    )
    max_usd: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="dollars that a launch may cost, by estimated prices: on aws, on local by cluster.usd_per_hour; "
        "no other provider knows any",
    )


class Data(Section):
    """Where images come from, and at which size."""

    root: str | None = Field(None, description="folder of downloaded datasets, as torchvision lays them out")
    size: Literal[16, 32, 64, 128, 256] | None = Field(
        None, description="side of the square images in pixels; none: the dataset's own default"
    )
    cache: str | None = Field(None, description="folder for prepared images of this node; none: the user's cache")
    cache_gb: Annotated[float, Field(gt=0)] = Field(
        50.0, description="GB that this folder may have; the least recently used sets that no trial has open go first"
    )
    on_bad: Literal["fail", "skip"] = Field(
        "fail", description="images that cannot be read: fail: an error; skip: counted, and listed in the manifest"
    )
    sets: Mapping[str, OwnSet] = Field(
        {},
        description="your own image folders by a name of yours, e.g. {bottles: {layout: mvtec, root: FOLDER}}; below",
    )
    found: Mapping[str, Contents] = Field(
        {}, repr=False, description="filled in: what own sets hold, as stored or listed"
    )

    @field_validator("sets")
    @classmethod
    def _names_are_free(cls, value: Mapping[str, OwnSet]) -> Mapping[str, OwnSet]:
        faults = name_faults(value)
        if faults:
            raise ValueError("\n".join(faults))
        return value

    def datasets(self) -> dict[str, DatasetInfo | None]:
        """Built-in datasets and the user's own by name; None for one of which it is not known what it holds."""
        own = {
            name: catalog.own(name, layout, self.found[name]) if name in self.found else None
            for name, layout in self.sets.items()
        }
        return {**catalog.DATASETS, **own}


class TrialOptions(Section):
    """What one trial is given, and what it leaves behind."""

    gpus: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto", description="share of a GPU for one trial; auto: 1 where the cluster has GPUs, else 0"
    )
    cpus: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="CPU cores for one trial; auto: 1, because two such trials beat one with 2 cores"
    )
    precision: Literal["auto", "float32", "tf32", "bf16"] = Field(
        "auto",
        description="arithmetic of training; auto: bf16 where CPU or GPU has units for it, else float32; part of a "
        "trial's key; scores are float32",
    )
    checkpoint_seconds: Annotated[float, Field(gt=0)] = Field(
        60.0, description="least seconds between two writes of a trial's resume state"
    )
    keep: Literal["best", "all", "none"] = Field(
        "best",
        description="final weights, figures.npz that stay: of each cell's best validated (else first) seed, all, none",
    )
    retries: Annotated[int, Field(ge=0)] = Field(2, description="further tries of a trial that fails")
    hang_seconds: Annotated[float, Field(gt=0)] = Field(
        1800.0, description="seconds without progress after which a trial counts as hung"
    )
    stop_after_failures: Annotated[int, Field(ge=0)] = Field(
        3, description="stop when so many different trials fail alike before any succeeds; 0: never"
    )


class Sweep(Section):
    """One complete run: cluster + storage + budget + studies."""

    name: Annotated[str, AfterValidator(_name)] = Field(description="id of the sweep in its store")
    storage: str = Field(description="where results live: a folder, or s3://bucket/prefix")
    cluster: Cluster = Field(Local(), description="where trials run")
    budget: Budget = Field(Budget(), description="what may be spent")
    data: Data = Field(Data(), description="where images come from")
    trial: TrialOptions = Field(TrialOptions(), description="what one trial is given")
    studies: tuple[Study, ...] = Field(description="what is varied, and what is averaged")

    @field_validator("studies", mode="wrap")
    @classmethod
    def _of_these_datasets(cls, value: Any, handler: Any, info: ValidationInfo) -> tuple[Study, ...]:  # noqa: ARG003
        data = info.data.get("data")  # missing where it has faults of its own
        return _STUDIES.validate_python(value, context={"datasets": None if data is None else data.datasets()})

    def dataset(self, name: str) -> DatasetInfo:
        """A dataset of a study of this sweep."""
        found = self.data.datasets()[name]
        assert found is not None, f"studies of {name} were validated"
        return found

    def preparation(self, name: str) -> str:
        """Id of how the images of such a dataset are prepared."""
        info = self.dataset(name)
        return info.preparation(size_of(info, self.data.size))

    @model_validator(mode="after")
    def _study_names_differ(self) -> Sweep:
        names = [study.name for study in self.studies]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"studies need names of their own; used twice: {', '.join(doubled)}")
        return self

    @model_validator(mode="after")
    def _runtimes_stand_alone(self) -> Sweep:
        others = [study.name for study in self.studies if study.kind != "runtime"]
        if self.exclusive and others:
            timed = [study.name for study in self.studies if study.kind == "runtime"]
            raise ValueError(
                f"studies of kind runtime ({', '.join(timed)}) are timed with nothing beside them: "
                f"give the others ({', '.join(others)}) a sweep of their own"
            )
        return self

    @property
    def exclusive(self) -> bool:
        """Whether its trials run one at a time, nothing beside them: those of runtime studies."""
        return any(study.kind == "runtime" for study in self.studies)

    @property
    def usd_per_hour(self) -> float | None:
        """Price of this machine, where it is the cluster and its price is known."""
        return self.cluster.usd_per_hour if isinstance(self.cluster, Local) else None


_STUDIES = TypeAdapter(tuple[Study, ...])
_TOP = ("cluster", "budget", "storage", "data", "trial", "sweep")
_SWEEP_ONLY = ("name", "study", "studies")


def named_studies() -> dict[str, Path]:
    """The studies that come with the package, by name."""
    folder = Path(str(importlib.resources.files("sweep"))) / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load(path: Path, assignments: Sequence[str] = ()) -> Sweep:
    """The sweep that a YAML file and `--set` assignments describe.

    Raises:
        UserError: naming every fault at once, each with its place, the legal values and the mend.
    """
    return resolve(yamlfile.override(yamlfile.read(path), assignments), stem=path.stem, source=str(path))


def resolve(raw: Mapping[str, Any], *, stem: str = "sweep", source: str = "") -> Sweep:
    """`load` for what the YAML holds; `stem` goes into the sweep's default id."""
    faults = [unknown("key", key, _TOP) for key in raw if key not in _TOP]
    body = raw.get("sweep")
    if not isinstance(body, Mapping):
        faults.append("sweep: must be given, e.g. sweep: {study: quickstart}")
        body = {}
    studies, places = _studies(body, faults)
    storage = raw.get("storage")
    if not storage or not isinstance(storage, str):
        faults.append("storage: must be a folder or s3://bucket/prefix, e.g. storage: ./results")
        storage = "./invalid"
    label = body.get("study") or "studies"
    name = body.get("name")
    if name is None and storage.startswith("s3://"):
        faults.append("sweep.name: must be given on S3, where a bucket is shared, e.g. sweep.name: my-table-1")
    faults += _needed_elsewhere(raw, storage)
    fields = {key: raw[key] for key in ("cluster", "budget", "data", "trial") if raw.get(key) is not None}
    fields |= {"name": name or f"{stem}-{label}", "storage": storage, "studies": studies}
    fields |= _described(fields, faults)
    try:
        sweep = Sweep.model_validate(fields)
    except ValidationError as error:
        faults += _readable(error, places)
    if faults:
        raise UserError(faults, heading=f"{source or stem}: {len(set(faults))} to mend")
    return sweep


def recorded(fields: Mapping[str, Any], storage: str) -> Sweep:
    """The sweep that was dumped to JSON, with its store at another address.

    Raises:
        UserError: naming every fault: another version may have written it, with other keys.
    """
    try:
        return Sweep.model_validate({**fields, "storage": storage})
    except ValidationError as error:
        raise UserError(_readable(error, ())) from None
    except TypeError:
        raise UserError(f"sweep: must be keys and values, is {fields!r}") from None


def _needed_elsewhere(raw: Mapping[str, Any], storage: str) -> list[str]:
    """What may be left out, or be otherwise, on this machine."""
    cluster, budget = raw.get("cluster"), raw.get("budget")
    provider = cluster.get("provider", "local") if isinstance(cluster, Mapping) else "local"
    if provider == "local" or provider not in PROVIDERS:
        return []
    faults = []
    if provider in SHARED_NOTHING and not storage.startswith("s3://"):
        faults.append(
            f"storage: must be s3://bucket/prefix on {provider}, where machines share no folder, is {storage!r}"
        )
    elif not storage.startswith(("s3://", "/")):
        faults.append(
            f"storage: must be s3://bucket/prefix on {provider}, or an absolute folder that all machines and this one "
            f"see, such as one on NFS; is {storage!r}"
        )
    if provider == "aws" and (not isinstance(budget, Mapping) or budget.get("max_hours") is None):
        faults.append(
            "budget.max_hours: must be given on aws: every machine powers itself off by it, e.g. max_hours: 12"
        )
    return faults


def _described(fields: Mapping[str, Any], faults: list[str]) -> dict[str, Any]:
    """The section `data` with what those own sets hold that studies name."""
    try:
        data = Data.model_validate(fields.get("data", {}))
    except ValidationError:
        return {}  # told with all other faults
    named = {str(name) for study in fields["studies"] if isinstance(study, Mapping)
             for name in _listed(study.get("datasets"))}  # fmt: skip
    chosen = {name: layout for name, layout in data.sets.items() if name in named}
    found, unknown_sets = describe(chosen, data.size, fields["storage"])
    faults += unknown_sets
    return {"data": data.model_copy(update={"found": found})}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _studies(body: Mapping[str, Any], faults: list[str]) -> tuple[list[Any], list[dict[str, str]]]:
    """Raw studies with the sweep's own keys laid over each, and where each of their keys stands."""
    over = {key: value for key, value in body.items() if key not in _SWEEP_ONLY}
    named, given = body.get("study"), body.get("studies")
    bases: list[Any] = []
    origin = "sweep.studies"
    if (named is None) == (given is None):
        faults.append("sweep: needs either study: NAME or studies: [...], and not both")
    elif named is not None:
        paths = named_studies()
        if not isinstance(named, str) or named not in paths:
            faults.append(f"sweep.study: {unknown('study', named, paths)}")
        else:
            origin = f"study {named}"
            bases = yamlfile.read(paths[named])["studies"]
    elif not isinstance(given, list) or not given:
        faults.append("sweep.studies: must be a list of at least one study")
    else:
        bases = given
    studies, places = [], []
    for index, base in enumerate(bases):
        if isinstance(base, Mapping):
            studies.append(yamlfile.merged(base, over))
            places.append({**{k: f"{origin}[{index}].{k}" for k in base}, **{k: f"sweep.{k}" for k in over}})
        else:
            studies.append(base)
            places.append({})
    if not studies and over:  # say what is wrong with these keys all the same
        studies.append({"name": "unnamed", "kind": "error_bars", **over})
        places.append({k: f"sweep.{k}" for k in over})
    return studies, places


def _readable(error: ValidationError, places: Sequence[Mapping[str, str]]) -> list[str]:
    """One line a fault: place in the file, what is wrong, legal values, nearest name."""
    lines = []
    for fault in error.errors():
        path = [str(part) for part in fault["loc"] if not _is_union_branch(str(part))]
        provider = path.pop(1) if path[:1] == ["cluster"] and len(path) > 1 else "local"
        legal = _keys_at(path, provider)
        if path[:2] == ["data", "sets"] and len(path) > 4:
            del path[3]  # the layout, by which pydantic tells descriptions of sets apart
        if len(path) >= 2 and path[0] == "studies":
            index, rest = int(path[1]), path[2:]
            known = places[index] if index < len(places) else {}
            head = known.get(rest[0], f"sweep.studies[{index}].{rest[0]}") if rest else f"sweep.studies[{index}]"
            place = ".".join([head, *rest[1:]])
        else:
            place = ".".join(path)
        if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            parent, _, key = place.rpartition(".")
            own = _SWEEP_ONLY if parent == "sweep" else ()
            lines.append(f"{parent}: {unknown('key', key, {*legal, *own})}")
        elif fault["type"] == "union_tag_invalid" and path == ["cluster"]:
            lines.append(f"{place}.provider: {unknown('provider', fault['ctx']['tag'], PROVIDERS)}")
        elif fault["type"] == "union_tag_not_found" and path == ["cluster"]:
            lines.append(f"{place}: must be keys and values, e.g. {{provider: local}}, is {fault['input']!r}")
        elif fault["type"].startswith("union_tag"):
            layout = fault["input"].get("layout")
            lines.append(
                f"{place}.layout: "
                + (unknown("layout", layout, LAYOUTS) if layout else f"must be given, one of {', '.join(LAYOUTS)}")
            )
        elif fault["type"] == "missing":
            lines.append(f"{place}: must be given")
        else:
            for message in str(fault["msg"]).removeprefix("Value error, ").splitlines():
                shown = "" if fault["type"] == "value_error" else f", is {fault['input']!r}"
                said = f"{message[:1].lower()}{message[1:]}"
                if shown and lines and lines[-1].startswith(f"{place}: ") and lines[-1].endswith(shown):
                    lines[-1] = f"{lines[-1].removesuffix(shown)}, or {said.removeprefix('input should be ')}{shown}"
                else:
                    lines.append(f"{place}: {said}{shown}")
    return lines


def _is_union_branch(part: str) -> bool:
    """Whether a part of pydantic's path names an alternative of a type, which no file contains."""
    return "[" in part or part.startswith("constrained-") or part in {"int", "float", "str", "bool", "none", "literal"}


def _keys_at(path: Sequence[str], provider: str) -> list[str]:
    """Legal keys where a key at `path` stands."""
    if path[:2] == ["data", "sets"] and len(path) > 4:
        return [f.name for f in dataclasses.fields(LAYOUTS[path[3]])]
    if path[:2] == ["cluster", "prices"] and len(path) > 3:
        return list(Price.model_fields)
    sections: dict[str, type[BaseModel]] = {
        "cluster": PROVIDERS[provider], "budget": Budget, "data": Data, "trial": TrialOptions, "studies": Study
    }  # fmt: skip
    return list(sections.get(path[0], Sweep).model_fields) if len(path) > 1 else list(Sweep.model_fields)
