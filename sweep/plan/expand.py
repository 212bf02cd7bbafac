"""Expand a sweep into its trials and searches.

`launch` runs what `plan` shows.  The trials of a search are known only after Optuna has chosen its candidates.  Until
then a plan counts how many trials the search may still run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data.catalog import DatasetInfo
from models import catalog as detectors
from models.info import DetectorInfo
from models.scoring import LAMBDAS
from sweep.errors import UserError
from sweep.plan.platform import Platform
from sweep.plan.search import SearchSpec, holds
from sweep.spec.study import LAMBDA, Study, settings
from sweep.spec.study_sections import MoreSeeds
from sweep.spec.sweep import Sweep
from sweep.spec.trial import Numerics, Scalar, Timing, TrialSpec, Validation
from sweep.store.records import KEY_LENGTH, canonical_json

WARMUP_SHARE = 10  # timed batches for each batch that is scored before them as warm-up
MOST_TRIALS = 500_000  # a plan of as many takes minutes, and gigabytes of memory
CELL = ("study", "detector", "variant", "setting", "dataset", "protocol", "abnormal")
"""Fields of `Planned` that name a cell: trials that differ in their seeds only."""


@dataclass(frozen=True)
class Planned:
    """One trial as part of a study.

    Attributes:
        study, kind: name and kind of the study.
        detector, variant, dataset, protocol, abnormal, split_seed, seed: fields of the trial.
        setting: distinguishes configurations of one variant: "" for the default, "nz=32" for a value of a grid,
            "searched" for the choice of a search.
        lam: lambda that combines the score components; None if the score has one component.
        spec: spec of the trial.
        objective: for a search: "transfer", or "labelled" for supervised choices.
        axis, value: for a grid: the varied hyperparameter, and its value.
        centre: for a grid: True if the value is also the study's value while another axis is varied.
        first_seeds: number of first seeds that decide about more; None if the number of seeds is fixed.
        reported: False for candidates of a search, which no leaderboard shows.  Trials of a runtime study are
            reported in their own table.
    """

    study: str
    kind: str
    detector: str
    variant: str
    setting: str
    dataset: str
    protocol: str
    abnormal: str
    split_seed: int
    seed: int
    lam: float | None
    spec: TrialSpec
    objective: str | None = None
    axis: str | None = None
    value: Scalar | None = None
    centre: bool = False
    first_seeds: int | None = None
    reported: bool = True

    @property
    def key(self) -> str:
        return self.spec.key

    @property
    def cell(self) -> tuple[str, ...]:
        """Identity of the cell, whose trials are averaged over seeds."""
        return (
            self.study,
            self.detector,
            self.variant,
            self.setting,
            self.dataset,
            self.protocol,
            self.abnormal,
        )


@dataclass(frozen=True)
class PlannedSearch:
    """One Optuna study: candidates over tuning instances, then the chosen candidate over new seeds.

    Attributes:
        study: name of the sweep's study.
        spec: spec of the Optuna study.
        tuning: trials of one candidate in order of instances, with the default hyperparameters.
        reports: trials that are reported, with the default hyperparameters.
    """

    study: str
    spec: SearchSpec
    tuning: tuple[Planned, ...]
    reports: tuple[Planned, ...]

    def instance(self, params: Mapping[str, Scalar], number: int) -> Planned:
        """Return the trial of one instance of a candidate.

        Args:
            params: hyperparameters of the candidate.
            number: number of the instance.
        """
        return _with(self.tuning[number], params, self.tuning[number].lam)

    def reported_trials(self, frozen: tuple[Mapping[str, Scalar], float | None]) -> tuple[Planned, ...]:
        """Return the trials that are reported, given the chosen hyperparameters and lambda."""
        return tuple(_with(report, *frozen) for report in self.reports)


@dataclass(frozen=True)
class Growing:
    """One line whose first seeds decide how many more it gets.

    Attributes:
        first: trials of the first seeds.
        further: trials of all seeds that may follow, by seed.
        rule: decides how many of them follow.
    """

    first: tuple[Planned, ...]
    further: tuple[Planned, ...]
    rule: MoreSeeds

    @property
    def name(self) -> tuple[str, ...]:
        """Cell without the class."""
        return self.first[0].cell[:-1]


@dataclass(frozen=True)
class Work:
    """All trials and searches of a sweep on a platform, its datasets by name, and lines that may get more trials."""

    fixed: tuple[Planned, ...]
    searches: tuple[PlannedSearch, ...]
    datasets: Mapping[str, DatasetInfo]
    growing: tuple[Growing, ...] = ()


def expand(sweep: Sweep, platform: Platform, most: int = MOST_TRIALS) -> Work:
    """Return every trial of every study, fully resolved, and every search.

    Args:
        sweep: the sweep.
        platform: resources of its trials.
        most: number of trials above which the plan is refused; instances of a search count once.

    Raises:
        UserError: the sweep has more trials.
    """
    fixed: list[Planned] = []
    searches: list[PlannedSearch] = []
    growing: list[Growing] = []

    def count() -> None:
        if len(fixed) + sum(len(search.tuning) + len(search.reports) for search in searches) > most:
            raise UserError(f"sweep.studies: more than {most:,} trials in all; use fewer, or several sweeps")

    def add(trials: Iterable[Planned]) -> None:
        for number, trial in enumerate(trials):
            fixed.append(trial)
            if number % 1000 == 0:
                count()

    datasets = {name: sweep.dataset(name) for study in sweep.studies for name in study.datasets}
    for study in sweep.studies:
        for dataset in study.datasets:
            for detector in study.detectors:
                info = detectors.detector(detector)
                for variant in study.variants_of(info):
                    base = _Base(study, platform, datasets[dataset], sweep.preparation(dataset), info, variant)
                    if study.kind == "search":
                        searches += _searches(base)
                    elif study.kind == "grid":
                        add(_grid(base))
                    elif study.kind == "runtime":
                        add(_runtime(base))
                    else:
                        add(base.trials())
                        growing += base.growing()
                    count()
    return Work(tuple(fixed), tuple(searches), datasets, tuple(growing))


def union(works: Iterable[Work]) -> Work:
    """Return the trials and searches of several launches; of a search that two launches have, the later version."""
    fixed: dict[tuple[object, ...], Planned] = {}
    searches: dict[str, PlannedSearch] = {}
    datasets: dict[str, DatasetInfo] = {}
    growing: dict[tuple[str, ...], Growing] = {}
    for work in works:
        fixed |= {(*planned.cell, planned.key): planned for planned in work.fixed}
        searches |= {search.spec.id: search for search in work.searches}
        datasets |= work.datasets
        growing |= {line.name: line for line in work.growing}
    return Work(tuple(fixed.values()), tuple(searches.values()), datasets, tuple(growing.values()))


@dataclass(frozen=True)
class _Base:
    """One detector and variant on one dataset in one study."""

    study: Study
    platform: Platform
    dataset: DatasetInfo
    preparation: str
    info: DetectorInfo
    variant: str

    def trials(self, given: Mapping[str, Any] | None = None, **fields: Any) -> list[Planned]:
        """Return the trials over the study's classes and seeds; `given` overrides hyperparameters."""
        hyperparameters, lam = self.settings(given)
        return [
            self.planned(hyperparameters, lam, abnormal, seed, first_seeds=self.first_seeds, **fields)
            for seed in self.seeds()
            for abnormal in self.classes()
        ]

    @property
    def first_seeds(self) -> int | None:
        return None if self.study.more_seeds is None or len(self.seeds()) < 2 else len(self.seeds())

    def growing(self) -> list[Growing]:
        """Return the line, if its first seeds decide about more; a deterministic detector needs no more."""
        rule, first = self.study.more_seeds, tuple(self.trials())
        if rule is None or self.first_seeds is None or not first:
            return []
        hyperparameters, lam = self.settings()
        further = (
            self.planned(hyperparameters, lam, abnormal, seed, first_seeds=self.first_seeds)
            for seed in range(self.first_seeds, rule.most)
            for abnormal in self.classes()
        )
        return [Growing(first, tuple(further), rule)]

    def settings(self, given: Mapping[str, Any] | None = None) -> tuple[dict[str, Scalar], float | None]:
        here = self.info.variant(self.variant).on.get(self.dataset.name, {})
        return settings(self.info, self.variant, {**here, **self.study.given(self.info), **(given or {})})

    def seeds(self) -> tuple[int, ...]:
        """Return the seeds; a deterministic detector runs once for each split."""
        once = self.info.deterministic and self.study.split_seed != "follow"
        return self.study.seeds[:1] if once else self.study.seeds

    def classes(self) -> tuple[str, ...]:
        return tuple(c for c in self.study.abnormal if c in self.dataset.huntable(self.study.protocol))

    def numerics(self, hyperparameters: Mapping[str, Scalar]) -> Numerics:
        """Return the arithmetic of the platform, without a choice of precision if nothing is trained."""
        if self.info.trains_by_epoch and hyperparameters.get("epochs"):
            return self.platform.numerics
        return replace(self.platform.numerics, precision=Numerics().precision, units="")

    def planned(
        self,
        hyperparameters: Mapping[str, Scalar],
        lam: float | None,
        abnormal: str,
        seed: int,
        *,
        tuning: bool = False,
        timing: Timing | None = None,
        validation: Validation | None = None,
        setting: str = "",
        **fields: Any,
    ) -> Planned:
        study, info = self.study, self.info
        held_out = validation or (study.validation.frozen() if study.validation else None)
        if held_out is not None and not hyperparameters.get("early_stopping"):
            held_out = replace(held_out, stop_on=Validation.stop_on)  # it has no effect: the key stays the same
        protocol = (study.protocol or self.dataset.default_protocol) + ("v" if held_out else "")
        split_seed = seed if study.split_seed == "follow" else study.split_seed
        judged = not tuning and timing is None
        spec = TrialSpec(
            detector=info.name,
            revision=info.revision,
            variant=self.variant,
            hyperparameters=hyperparameters,
            dataset=self.dataset.name,
            preparation=self.preparation,
            protocol=protocol,
            protocol_revision=self.dataset.protocol_revision(protocol),
            scoring_revision=detectors.SCORING_REVISION,
            abnormal=abnormal,
            split_seed=split_seed,
            seed=seed,
            validation=held_out,
            evaluations=study.evaluations if judged else (),
            eval_every=0 if not judged else info.eval_every if study.eval_every is None else study.eval_every,
            numerics=self.numerics(hyperparameters),
            device=self.platform.device,
            timing=timing,
        )
        return Planned(
            study=study.name, kind=study.kind, detector=info.name, variant=self.variant, setting=setting,
            dataset=self.dataset.name, protocol=spec.protocol, abnormal=abnormal, split_seed=split_seed, seed=seed,
            lam=lam, spec=spec, reported=not tuning, **fields,
        )  # fmt: skip


def _runtime(base: _Base) -> Iterator[Planned]:
    """Yield one trial: the scoring time does not depend on class, seed or training."""
    repetitions = base.study.repetitions
    timing = Timing(warmup=math.ceil(repetitions / WARMUP_SHARE), repetitions=repetitions)
    hyperparameters, lam = base.settings({"epochs": 0} if base.info.trains_by_epoch else None)
    for abnormal in base.classes()[:1]:
        yield base.planned(hyperparameters, lam, abnormal, base.seeds()[0], timing=timing)


def _grid(base: _Base) -> Iterator[Planned]:
    """Yield the trials of each axis: its values and the default, with the defaults of all other hyperparameters."""
    for axis, values in base.study.axes.items():
        default, lam = base.settings()
        centre = lam if axis == LAMBDA else default.get(axis)
        if centre is None:
            continue  # this detector does not have the hyperparameter
        for value in dict.fromkeys(_at(base, axis, value) for value in (*values, centre)):
            yield from base.trials(
                {axis: value}, setting=f"{axis}={value}", axis=axis, value=value, centre=value == centre
            )


def _at(base: _Base, axis: str, value: Scalar) -> Scalar:
    """Return a value of an axis in the detector's type: YAML reads `2e-4` as text, and 2 may mean 2.0."""
    resolved, lam = base.settings({axis: value})
    return resolved[axis] if axis != LAMBDA else float(lam or 0.0)


def _searches(base: _Base) -> Iterator[PlannedSearch]:
    study = base.study
    space = study.space_of(base.info)
    searched = {name: r for name, r in space.items() if name != LAMBDA}
    if not space:
        return
    default, lam = base.settings()
    types = {f.name: f.type.__name__ for f in base.info.fields}
    objective = study.resolved_objective()
    tuning_validation = (study.validation.frozen() if study.validation else None) or Validation()
    for tuned, reported in _folds(study, base.classes(), objective):
        tuning = tuple(
            base.planned(default, lam, c, seed, tuning=True, validation=tuning_validation)
            for seed in study.tuning_seeds
            for c in tuned
        )
        # If a class was used for tuning, its reported split must not test on the rows that were used for tuning.
        report_validation = tuning_validation if objective == "labelled" else None
        reports = tuple(
            base.planned(default, lam, c, seed, validation=report_validation, setting="searched", objective=objective)
            for seed in study.seeds
            for c in reported
        )
        lambdas = tuple(v for v in LAMBDAS if holds(space[LAMBDA], v)) if LAMBDA in space else (lam,)
        unsearched = [replace(t.spec, hyperparameters=_without(t.spec.hyperparameters, searched)) for t in tuning]
        identity = {
            "space": space,
            "objective": objective,
            "lambdas": lambdas,
            "default": {name: default[name] for name in searched},
            "instances": [spec.to_dict() for spec in unsearched],
        }
        digest = hashlib.sha256(canonical_json(identity).encode()).hexdigest()[: KEY_LENGTH // 2]
        yield PlannedSearch(
            study=study.name,
            spec=SearchSpec(
                id=f"{study.name}-{base.info.name.replace(':', '.')}-{base.dataset.name}-{digest}",
                space={name: {**r, "type": types[name]} for name, r in searched.items()},
                default={name: default[name] for name in searched},
                candidates=study.candidates if searched else 1,
                parallel=study.parallel,
                instances=len(tuning),
                lambdas=lambdas,
            ),
            tuning=tuning,
            reports=reports,
        )


def _folds(study: Study, classes: Sequence[str], objective: str) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Yield the tuned classes and the reported classes of each Optuna study."""
    if objective == "labelled":
        yield from ([((c,), (c,)) for c in classes] if study.per == "cell" else [(classes, classes)])
    elif study.per == "cell":
        yield from (([o for o in classes if o != c], (c,)) for c in classes)
    else:
        halves = classes[0::2], classes[1::2]
        yield halves
        yield halves[1], halves[0]


def _with(planned: Planned, params: Mapping[str, Scalar], lam: float | None) -> Planned:
    info = detectors.detector(planned.detector)
    given = {**planned.spec.hyperparameters, **params}
    try:
        hyperparameters = detectors.resolve(info, planned.variant, given)
    except ValueError as error:
        raise UserError(
            f"study {planned.study}: a candidate in the store does not fit this version: {error}; give the sweep "
            "another name, or delete the study's folder in the store, and launch again"
        ) from None
    return replace(planned, lam=lam, spec=replace(planned.spec, hyperparameters=hyperparameters))


def _without(hyperparameters: Mapping[str, Scalar], names: Mapping[str, Any]) -> dict[str, Scalar]:
    return {name: value for name, value in hyperparameters.items() if name not in names}
