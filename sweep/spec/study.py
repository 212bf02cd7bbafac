"""A study: which settings are varied, and over which seeds results are averaged.

Every name is checked here against the catalogs of detectors and datasets, field by field.  So one
reading of a file finds all of its problems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from data import catalog
from data.catalog import DatasetInfo
from data.sources.layouts import ANY
from models import catalog as detectors
from models.info import DetectorInfo
from models.scoring import LAMBDAS
from sweep.errors import shown, unknown
from sweep.spec.cluster import MANY, Section
from sweep.spec.study_sections import FIRST_TUNING_SEED, Fractions, MoreSeeds, Range
from sweep.spec.trial import EVALUATIONS, Scalar

TRANSFER_CLASSES = 4  # fewest abnormal classes at which objective auto tunes on one half and reports the other
SEEDS = 2**32  # numpy takes no greater seed
Kind = Literal["error_bars", "search", "grid", "runtime"]
ONLY = {  # keys that belong to one kind of study only
    "search": ("space", "candidates", "parallel", "tuning_seeds", "objective", "per"),
    "runtime": ("repetitions",),
}
FEWEST_REPETITIONS = 3  # fewer times have no quartiles
LAMBDA = "lambda"
DEFAULT_SPACE = ("nz", "w_adv", "w_con", "w_enc", "w_lat", LAMBDA)  # the papers vary these; lambda is the score's


class Study(Section):
    """One study: settings that are varied, and seeds over which results are averaged."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = Field(
        description="name within the sweep: letters, digits, '.', '_' and '-'"
    )
    kind: Kind = Field(
        description="error_bars: fixed settings over seeds; search: Optuna chooses; grid: one value at a time; "
        "runtime: milliseconds to score an image, in batches of 1 and 64.  A runtime study times each detector once, "
        "untrained, on the first class and seed.  Nothing else may run meanwhile, so its sweep has runtime studies only"
    )
    datasets: tuple[str, ...] = Field(description="names of datasets, for example [digits]")
    protocol: str | None = Field(
        None, description="rule that splits samples into training and test; none: each dataset's default"
    )
    validation: Fractions | None = Field(
        None, description="shares held out for choosing the epoch; none: nothing is held out, except in a search"
    )
    abnormal: tuple[str, ...] = Field(
        ("all",),
        validate_default=True,
        description="classes to detect as abnormal, each in its own trials; all: every class; with protocol O1, "
        "`not cat` means every class but cat",
    )
    detectors: tuple[str, ...] = Field(
        description="names of detectors, package.module:Class for your own, or all: every detector but feature_knn, "
        "which needs the extra `pretrained`"
    )
    variants: tuple[str, ...] = Field(("default",), description="variants to run, of each detector that has them")
    hyperparameters: Mapping[str, Mapping[str, Any]] = Field(
        {}, description="values by detector, or under `all` for every detector that has the key; also lambda"
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=FIRST_TUNING_SEED)], ...] = Field(
        (0, 1, 2),
        description="training seeds: a count, or a list; or {first: 3, width: 0.02, most: 20}, where the first ones "
        "decide how many more a line gets, see more_seeds",
    )
    more_seeds: MoreSeeds | None = Field(
        None, description="error_bars: rule for further seeds; written as seeds: {first: 3, width: 0.02, most: 20}"
    )
    split_seed: Annotated[int, Field(ge=0, lt=SEEDS)] | Literal["follow"] = Field(
        0, description="seed of the split; follow: the same as the training seed"
    )
    evaluations: tuple[str, ...] = Field(
        ("clean",), description="how test samples are scored: clean; legacy_ordered, legacy_shuffled: as published code"
    )
    eval_every: Annotated[int, Field(ge=0, le=MANY)] | None = Field(
        None, description="epochs between evaluations; 0: only after the last; none: 1, or 0 if scoring takes long"
    )
    space: tuple[str, ...] | Mapping[str, Range] | None = Field(
        None,
        description="search: hyperparameters to choose, by name or with ranges; none: nz, loss weights, lambda",
    )
    candidates: Annotated[int, Field(ge=1, le=MANY)] = Field(20, description="search: candidates of each Optuna study")
    parallel: Annotated[int, Field(ge=1, le=MANY)] = Field(
        2, description="search: candidates that run at once; candidate n learns from candidates up to n - parallel"
    )
    tuning_seeds: tuple[Annotated[int, Field(ge=FIRST_TUNING_SEED, lt=SEEDS)], ...] = Field(
        (1000, 1001, 1002), description="search: training seeds of candidates: a count, or a list of seeds from 1000"
    )
    objective: Literal["auto", "transfer", "labelled"] = Field(
        "auto",
        description="search: transfer: tune on half of the classes, report the others; labelled: tune and report the "
        f"same classes; auto: transfer if there are at least {TRANSFER_CLASSES}",
    )
    per: Literal["fold", "cell"] = Field("fold", description="search: one Optuna study per fold, or one per cell")
    axes: Mapping[str, tuple[bool | int | float | str, ...]] = Field(
        {}, description="grid: values by hyperparameter, varied one at a time around the default"
    )
    repetitions: Annotated[int, Field(ge=FEWEST_REPETITIONS, le=MANY)] = Field(
        100, description="runtime: timed batches of each size, after a tenth as many untimed ones"
    )

    @model_validator(mode="before")
    @classmethod
    def _first_and_more_seeds(cls, value: Any) -> Any:
        """Read `seeds: {first: 3, width: 0.02}` as the first seeds and a rule for more."""
        if not isinstance(value, Mapping) or not isinstance(value.get("seeds"), Mapping):
            return value
        rule = dict(value["seeds"])
        first = rule.pop("first", 3)
        return {**value, "seeds": first, "more_seeds": rule}

    @field_validator("seeds", "tuning_seeds", mode="before")
    @classmethod
    def _count_or_list(cls, value: Any, info: ValidationInfo) -> Any:
        first = FIRST_TUNING_SEED if info.field_name == "tuning_seeds" else 0
        if isinstance(value, int) and not isinstance(value, bool):
            if value > FIRST_TUNING_SEED:
                raise ValueError(f"must be at most {FIRST_TUNING_SEED} seeds, is {value}")
            value = range(first, first + value)
        return _some(value, "a count of at least 1, or a list of seeds")

    @field_validator("datasets", mode="before")
    @classmethod
    def _known_datasets(cls, value: Any, info: ValidationInfo) -> Any:
        known = _datasets(info)
        names = _some(value, f"a list of {', '.join(known or catalog.DATASETS)}")
        if known is not None:
            _raise(unknown("dataset", name, known) for name in names if name not in known)
        return names

    @field_validator("protocol")
    @classmethod
    def _known_protocol(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            _raise(
                f"{dataset.name} has {unknown('protocol', value, dataset.protocols)}"
                for dataset in _known_datasets(info)
                if value not in dataset.protocols
            )
        return value

    @field_validator("abnormal", mode="before")
    @classmethod
    def _known_classes(cls, value: Any, info: ValidationInfo) -> Any:
        sets, protocol = _known_datasets(info), info.data.get("protocol")
        if value in ("all", ("all",), ["all"]):
            return tuple(dict.fromkeys(name for dataset in sets for name in dataset.abnormal(protocol)))
        names = tuple(str(name) for name in _some(value, "all, or a list of class names"))
        # A class need not exist in every dataset of the study, just as `all` includes the classes of each dataset.
        anywhere = {name for dataset in sets for name in dataset.huntable(protocol)}
        _raise(
            f"{dataset.name} has {unknown('class', name, dataset.huntable(protocol))}"
            for dataset in sets
            for name in names
            if name not in anywhere or not set(names) & set(dataset.huntable(protocol))
        )
        return names

    @field_validator("detectors", mode="before")
    @classmethod
    def _known_detectors(cls, value: Any) -> Any:
        if value == "all":
            return detectors.WITHOUT_EXTRA
        names = _some(value, "all, or a list of names")
        problems = []
        for name in names:
            try:
                detectors.detector(str(name))
            except ValueError as error:
                problems.append(str(error))
        _raise(problems)
        return names

    @field_validator("variants", mode="before")
    @classmethod
    def _known_variants(cls, value: Any, info: ValidationInfo) -> Any:
        names = _some(value, "a list of variants, e.g. [repo_head]")
        legal = {v for d in info.data.get("detectors", ()) for v in detectors.detector(d).variants}
        if legal:
            _raise(unknown("variant", name, {*legal, "default"}) for name in names if name not in {*legal, "default"})
        return names

    @field_validator("evaluations", mode="before")
    @classmethod
    def _known_evaluations(cls, value: Any) -> Any:
        names = _some(value, f"a list of {', '.join(EVALUATIONS)}")
        _raise(unknown("evaluation", str(name), EVALUATIONS) for name in names if name not in EVALUATIONS)
        return tuple(name for name in EVALUATIONS if name in names or name == "clean")  # clean is always included

    @field_validator("hyperparameters")
    @classmethod
    def _known_hyperparameters(cls, value: Any, info: ValidationInfo) -> Any:
        infos = [detectors.detector(name) for name in info.data.get("detectors", ())]
        every = {name for d in infos for name in tunable(d)}
        problems = []
        for owner, values in value.items():
            if owner != "all" and owner not in detectors.DETECTORS and ":" not in owner:
                problems.append(f"{owner}: {unknown('detector', owner, [*detectors.DETECTORS, 'all'])}")
                continue
            if owner == "all" and infos:
                problems += [f"all: {unknown('hyperparameter', k, every)}" for k in values if k not in every]
            for d in infos:
                if owner in ("all", d.name):
                    problems += _illegal(d, values, every if owner == "all" else set(tunable(d)), owner)
        _raise(problems)
        return value

    @field_validator("space")
    @classmethod
    def _known_space(cls, value: Any, info: ValidationInfo) -> Any:
        infos = [detectors.detector(name) for name in info.data.get("detectors", ())]
        if value is not None and infos:
            every = {name for d in infos for name in tunable(d)}
            problems = [unknown("hyperparameter", name, every) for name in value if name not in every]
            if not isinstance(value, Mapping):
                ranged = {n for d in infos for n in searchable(d)}
                problems += [
                    f"{n} has no default range: give one, e.g. space: {{{n}: {{low: 1, high: 9}}}}"
                    for n in value
                    if n in every - ranged
                ]
            else:
                for d in infos:
                    for name in set(value) & set(tunable(d)):
                        for end in (value[name].low, value[name].high, *value[name].choices):
                            problems += [] if end is None else _illegal(d, {name: end}, every, "")
            _raise(problems or ([] if value else ["must name at least one hyperparameter"]))
        return value

    @field_validator("axes")
    @classmethod
    def _known_axes(cls, value: Any, info: ValidationInfo) -> Any:
        infos = [detectors.detector(name) for name in info.data.get("detectors", ())]
        every = {name for d in infos for name in tunable(d)}
        problems = [unknown("hyperparameter", name, every) for name in value if infos and name not in every]
        problems += [f"{name}: must have at least one value" for name, values in value.items() if not values]
        for d in infos:
            for name in set(value) & set(tunable(d)):
                for v in value[name]:
                    problems += _illegal(d, {name: v}, every, "")
        _raise(problems)
        return value

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Study:
        problems = []
        fields = type(self).model_fields
        for kind, keys in ONLY.items():
            given = [key for key in keys if self.kind != kind and getattr(self, key) != fields[key].default]
            problems += [f"{key}: only a study of kind {kind} has this key" for key in given]
        if self.kind == "runtime":
            problems += self._runtime_problems()
        if self.more_seeds is not None:
            problems += self.more_seeds.problems(self.kind, self.seeds)
        if self.kind == "search":
            if any(self.space_of(detectors.detector(d)) for d in self.detectors):
                problems += self._lambda_problems()
            else:
                problems.append("detectors: none of them has a hyperparameter of the search space")
        if self.kind == "grid" and not self.axes:
            problems.append("axes: must be given, e.g. axes: {nz: [16, 64]}")
        if self.kind != "grid" and self.axes:
            problems.append("axes: only a study of kind grid has this key")
        if self.objective == "transfer" and len(self.abnormal) < 2:
            problems.append("objective: transfer needs at least 2 abnormal classes; use objective: labelled")
        if self.kind == "search" and ANY in self.abnormal and self.resolved_objective() == "transfer":
            problems.append(
                f"abnormal: {ANY} is every class, so none is left that is not used for tuning; name classes"
            )
        _raise(problems)
        return self

    def _runtime_problems(self) -> list[str]:
        """Return the problems of a runtime study, which times scoring in evaluation mode with initial weights."""
        problems = []
        if self.evaluations != ("clean",):
            problems.append("evaluations: a study of kind runtime times only clean scoring; leave the key out")
        if self.validation is not None:
            problems.append("validation: a study of kind runtime computes no metrics; leave the key out")
        if any("epochs" in values for values in self.hyperparameters.values()):
            problems.append("hyperparameters: epochs: a study of kind runtime does not train; leave the key out")
        return problems

    def _lambda_problems(self) -> list[str]:
        """Return the problems of lambdas at which no trial records a score, so that a search cannot compare there."""
        problems = []
        for info in map(detectors.detector, self.detectors):
            lam = self.given(info).get(LAMBDA)
            if lam is not None and LAMBDA not in self.space_of(info) and lam not in LAMBDAS:
                problems.append(f"hyperparameters: lambda {lam} of {info.name}: a search accepts only {LAMBDAS}")
        return problems

    def variants_of(self, info: DetectorInfo) -> list[str]:
        """Return the variants of a detector that this study runs; its default if it has none of the named ones."""
        names = [info.default_variant if v == "default" else v for v in self.variants]
        return list(dict.fromkeys(v for v in names if v in info.variants)) or [info.default_variant]

    def given(self, info: DetectorInfo) -> dict[str, Any]:
        """Return the values that this study sets for a detector's hyperparameters, lambda included."""
        shared = {k: v for k, v in self.hyperparameters.get("all", {}).items() if k in tunable(info)}
        return {**shared, **self.hyperparameters.get(info.name, {})}

    def space_of(self, info: DetectorInfo) -> dict[str, dict[str, Any]]:
        """Return the ranges from which a search chooses for a detector: {"low", "high", "log"} or {"choices"}."""
        own = searchable(info)
        if self.space is None:
            return {name: own[name] for name in DEFAULT_SPACE if name in own}
        if isinstance(self.space, Mapping):
            given = {k: r.model_dump(exclude_defaults=True) for k, r in self.space.items() if k in tunable(info)}
            return {k: own[k] if k == LAMBDA and k in own else r for k, r in given.items()}
        return {name: own[name] for name in self.space if name in own}

    def resolved_objective(self) -> str:
        """Return "transfer" or "labelled"; the objective "auto" depends on the number of classes."""
        if self.objective != "auto":
            return self.objective
        return "transfer" if len(self.abnormal) >= TRANSFER_CLASSES else "labelled"


def _datasets(info: ValidationInfo) -> Mapping[str, DatasetInfo | None] | None:
    """Return the datasets by name, None for one of unknown contents; None if own datasets have problems."""
    known: Mapping[str, DatasetInfo | None] | None = (info.context or {"datasets": catalog.DATASETS})["datasets"]
    return known


def _known_datasets(info: ValidationInfo) -> list[DatasetInfo]:
    """Return the datasets of a study whose contents are known; the others are already reported as problems."""
    known = _datasets(info) or catalog.DATASETS
    return [found for name in info.data.get("datasets", ()) if (found := known.get(name)) is not None]


def tunable(info: DetectorInfo) -> tuple[str, ...]:
    """Return the names that a study may set for a detector: its training hyperparameters, and lambda."""
    has_lambda = any(variant.lam is not None for variant in info.variants.values())
    return (*(f.name for f in info.fields), *((LAMBDA,) if has_lambda else ()))


def searchable(info: DetectorInfo) -> dict[str, dict[str, Any]]:
    """Return the hyperparameters of a detector that have a search range, with that range."""
    ranges = {f.name: dict(f.search) for f in info.fields if f.search}
    if ranges and LAMBDA in tunable(info):
        ranges[LAMBDA] = {"low": 0.0, "high": 1.0}
    return ranges


def _illegal(info: DetectorInfo, values: Mapping[str, Any], known: set[str], owner: str) -> list[str]:
    """Return the problems of values for a detector.  Names in `known` that the detector lacks are ignored."""
    own = {name: value for name, value in values.items() if name in tunable(info) or name not in known}
    problems = []
    lam = own.pop(LAMBDA, None)
    if lam is not None and not (isinstance(lam, int | float) and not isinstance(lam, bool) and 0 <= lam <= 1):
        problems.append(f"{LAMBDA}={shown(lam)} is not legal: must be a number from 0 to 1")
    for name, value in own.items():
        if owner == "all" and name not in tunable(info):
            continue
        try:
            detectors.resolve(info, info.default_variant, {name: value})
        except ValueError as error:
            problems.append(str(error))
    return [f"{owner}: {problem}" if owner else problem for problem in problems]


def _some(value: Any, wanted: str) -> tuple[Any, ...]:
    """Return a list of at least one name or number, without duplicates, as a tuple."""
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence | range) or not value:
        raise ValueError(f"must be {wanted}, is {shown(value)}")
    odd = [v for v in value if not isinstance(v, str | int | float)]
    if odd:
        raise ValueError(f"must be {wanted}, contains {shown(odd[0])}")
    doubled = sorted(str(v) for v, count in Counter(value).items() if count > 1)
    if doubled:
        raise ValueError(f"names {', '.join(doubled)} more than once")
    return tuple(value)


def _raise(problems: Any) -> None:
    lines = list(dict.fromkeys(problems))
    if lines:
        raise ValueError("\n".join(lines))


def settings(info: DetectorInfo, variant: str, given: Mapping[str, Any]) -> tuple[dict[str, Scalar], float | None]:
    """Return training hyperparameters and lambda of a variant, with the values that a study gives."""
    own = dict(given)
    lam = own.pop(LAMBDA, info.variant(variant).lam)
    return detectors.resolve(info, variant, own), None if lam is None else float(lam)
