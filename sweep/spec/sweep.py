"""Everything a YAML may say: typed, frozen, validated; problems are reported all at once.

`load` reads a file, lays `--set` over it, fills in named studies and returns a `Sweep` in which
nothing is implicit but what depends on the machine (resolved by `sweep.plan.expand`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)

from data import catalog
from data.catalog import DatasetInfo
from data.sources.layouts import Contents
from sweep.spec.cluster import Cluster, Local, Section
from sweep.spec.own_datasets import OwnSet, name_faults, size_of
from sweep.spec.study import Study

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
        problems = name_faults(value)
        if problems:
            raise ValueError("\n".join(problems))
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
        data = info.data.get("data")  # missing where it has problems of its own
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
