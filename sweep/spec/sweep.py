"""The model of a YAML file: typed, frozen, validated; all problems are reported at once.

`load` reads a file, applies `--set`, fills in named studies and returns a `Sweep`.  After that nothing is
implicit except what depends on the machine, which `sweep.plan.expand` resolves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)

from data import catalog
from data.catalog import DatasetInfo
from data.sources.layouts import Contents
from models import catalog as detectors
from sweep.spec.cluster import DOLLARS, HOURS, MANY, Cluster, Local, Section
from sweep.spec.own_datasets import OwnDataset, name_problems, size_of
from sweep.spec.study import Study
from sweep.store.retry import OUTAGE_SECONDS

SECONDS = 10_000_000.0  # 115 days; a timer of Python takes no infinite time
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("must be letters, digits, '.', '_' and '-', at most 100, and start with a letter or digit")
    return value


class Budget(Section):
    """Limits at which a launch is stopped; it can be resumed."""

    max_hours: Annotated[float, Field(gt=0, le=HOURS)] | None = Field(
        None,
        description="hours that a launch may take; must be given on aws, where it also sets when machines power off",
    )
    max_usd: Annotated[float, Field(gt=0, le=DOLLARS)] | None = Field(
        None,
        description="dollars that a launch may cost, by estimated prices on aws and by cluster.usd_per_hour on local; "
        "the other providers have no prices",
    )
    outage_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        OUTAGE_SECONDS,
        description="seconds for which every call to a store in S3 is tried again before it fails; then a launch on "
        "this machine stops, and a head stops its trials and waits for the store until the other limits",
    )


class Data(Section):
    """Source of the images, and their size."""

    root: str | None = Field(None, description="folder of downloaded datasets, in torchvision's layout")
    size: Literal[16, 28, 32, 64, 128, 256] | None = Field(
        None, description="side of the square images in pixels; none: the dataset's default"
    )
    cache: str | None = Field(None, description="folder for prepared images on each node; none: the user's cache")
    cache_gb: Annotated[float, Field(gt=0, le=MANY)] = Field(
        50.0,
        description="most GB of this folder; datasets that no trial has open are deleted, least recently used first",
    )
    on_bad: Literal["fail", "skip"] = Field(
        "fail",
        description="images that cannot be read: fail: an error; skip: they are counted, and listed in the manifest",
    )
    sets: Mapping[str, OwnDataset] = Field(
        {},
        description="your own image folders by name, e.g. {bottles: {layout: mvtec, root: FOLDER}}; keys see below",
    )
    found: Mapping[str, Contents] = Field(
        {}, repr=False, description="filled in by the program: contents of own datasets"
    )

    @field_validator("sets")
    @classmethod
    def _names_are_free(cls, value: Mapping[str, OwnDataset]) -> Mapping[str, OwnDataset]:
        problems = name_problems(value)
        if problems:
            raise ValueError("\n".join(problems))
        return value

    def datasets(self) -> dict[str, DatasetInfo | None]:
        """Return built-in datasets and the user's own by name; None for one whose contents are unknown."""
        own = {
            name: catalog.own(name, layout, self.found[name]) if name in self.found else None
            for name, layout in self.sets.items()
        }
        return {**catalog.DATASETS, **own}


class TrialOptions(Section):
    """Resources of one trial, and what it stores."""

    gpus: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto", description="share of a GPU for one trial; auto: 1 if the cluster has GPUs, else 0"
    )
    cpus: Literal["auto"] | Annotated[int, Field(ge=1, le=MANY)] = Field(
        "auto", description="CPU cores for one trial; auto: 1, because two such trials are faster than one with 2 cores"
    )
    precision: Literal["auto", "float32", "tf32", "bf16"] = Field(
        "auto",
        description="arithmetic of training; auto: bf16 if CPU or GPU has units for it, else float32; part of a "
        "trial's key; scores are float32",
    )
    checkpoint_seconds: Annotated[float, Field(gt=0, le=SECONDS)] = Field(
        60.0, description="least time in seconds between two writes of a trial's resume state"
    )
    keep: Literal["best", "all", "none"] = Field(
        "best",
        description="final weights and figures.npz to keep: best: in each cell, of the seed with the best validation "
        "AUROC, or without validation of the first seed; all; none",
    )
    retries: Annotated[int, Field(ge=0, le=MANY)] = Field(2, description="further attempts of a trial that fails")
    hang_seconds: Annotated[float, Field(gt=0, le=SECONDS)] = Field(
        1800.0, description="seconds without progress after which a trial counts as hung"
    )
    stop_after_failures: Annotated[int, Field(ge=0, le=MANY)] = Field(
        3, description="stop when this many different trials fail with the same cause before any succeeds; 0: never"
    )


class Sweep(Section):
    """One complete run: cluster + storage + budget + studies."""

    name: Annotated[str, AfterValidator(_name)] = Field(description="id of the sweep in its store")
    storage: str = Field(description="store of the results: a folder, or s3://bucket/prefix")
    cluster: Cluster = Field(Local(), description="machines that run the trials")
    budget: Budget = Field(Budget(), description="limits of time and cost")
    data: Data = Field(Data(), description="source of the images")
    trial: TrialOptions = Field(TrialOptions(), description="resources of one trial, and what it stores")
    studies: tuple[Study, ...] = Field(description="settings to vary, and seeds to average over")
    _notes: tuple[str, ...] = PrivateAttr(())

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines for the reader of a plan: what was left out of a named study, and why.  They are not recorded."""
        return self._notes

    def with_notes(self, lines: Iterable[str]) -> Sweep:
        """Return this sweep with these notes."""
        self._notes = tuple(lines)
        return self

    @field_validator("studies", mode="wrap")
    @classmethod
    def _of_these_datasets(cls, value: Any, handler: Any, info: ValidationInfo) -> tuple[Study, ...]:  # noqa: ARG003
        data = info.data.get("data")  # missing if `data` itself has problems
        return _STUDIES.validate_python(value, context={"datasets": None if data is None else data.datasets()})

    def dataset(self, name: str) -> DatasetInfo:
        """Return the description of a dataset that a study of this sweep uses."""
        found = self.data.datasets()[name]
        assert found is not None, f"studies of {name} were validated"
        return found

    def preparation(self, name: str) -> str:
        """Return the id of how the images of a dataset of this sweep are prepared."""
        info = self.dataset(name)
        return info.preparation(size_of(info, self.data.size))

    @model_validator(mode="after")
    def _study_names_differ(self) -> Sweep:
        names = [study.name for study in self.studies]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"studies need different names; used twice: {', '.join(doubled)}")
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> Sweep:
        problems: dict[str, None] = {}
        known = self.data.datasets()
        for study in self.studies:
            found = (known.get(name) for name in study.datasets)
            sizes = {size_of(info, self.data.size) for info in found if info is not None}  # None: reported already
            for info in map(detectors.detector, study.detectors):
                for variant in study.variants_of(info):
                    problems |= dict.fromkeys(info.size_problem(variant, size) for size in sorted(sizes))
        problems.pop("", None)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @model_validator(mode="after")
    def _runtimes_stand_alone(self) -> Sweep:
        others = [study.name for study in self.studies if study.kind != "runtime"]
        if self.exclusive and others:
            timed = [study.name for study in self.studies if study.kind == "runtime"]
            raise ValueError(
                f"studies of kind runtime ({', '.join(timed)}) need a sweep in which nothing else runs: "
                f"move the others ({', '.join(others)}) to another sweep"
            )
        return self

    @property
    def exclusive(self) -> bool:
        """True if the trials run one at a time with nothing else running, as runtime studies need."""
        return any(study.kind == "runtime" for study in self.studies)

    @property
    def usd_per_hour(self) -> float | None:
        """Price of this machine in dollars per hour; None if it is not the cluster, or has no known price."""
        return self.cluster.machine_price


_STUDIES = TypeAdapter(tuple[Study, ...])
