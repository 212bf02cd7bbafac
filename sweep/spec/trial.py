"""The spec of one trial, and its key.

A trial is a pure function of its `TrialSpec`.  Its key is a hash of that spec, and is its name
everywhere: in the store, in a table, on the command line.  This module needs only the standard
library and the catalog of detectors, so that a bare GPU machine can run trials without the rest of the application.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from models.catalog import stored_variant, variant_of_stored
from sweep.errors import UserError
from sweep.spec.bf16_units import NO_UNITS, UNITS
from sweep.store.records import key_of

EVALUATIONS = ("clean", "legacy_ordered", "legacy_shuffled")
"""Ways to score test samples.  clean: BatchNorm in evaluation mode.  legacy_ordered: as in the published code,
with BatchNorm in training mode and batches of 64, normals first.  legacy_shuffled: the same in a random order."""

SELECTIONS = ("last", "val", "val_normal", "oracle")
"""Ways to choose the epoch: the last; the best AUROC on validation, which takes labels of the abnormal class; the
lowest loss of the normal validation samples alone; the best on the test set itself."""

HEADLINE = ("last", "clean")
"""Selection and evaluation of the numbers that a board shows first."""

SHOWN_KEYS = 3  # of those that begin alike, in a message

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Numerics:
    """Arithmetic of a trial; it is set when the trial is planned, never by a running trial.

    Attributes:
        precision: precision of training, "float32", "tf32" or "bf16" (`models.components.numerics`);
            "float32" if nothing is trained by steps.
        threads: CPU threads inside one operation.  Another number of threads orders sums differently, so it
            makes another trial.
        layout: layout of images and weights in memory, "channels_last" or "contiguous"; other layouts use
            other kernels, whose last digits differ.
        units: what multiplies numbers in bfloat16 on a CPU (`sweep.spec.bf16_units`); "" on a GPU and with another
            precision, and then it is not part of the key.
    """

    precision: str = "float32"
    threads: int = 1
    layout: str = "channels_last"
    units: str = ""

    def __str__(self) -> str:
        """Return text such as "float32, 1 thread" or "bf16 (amx_bf16), 1 thread"."""
        units = f" ({self.units})" if self.units else ""
        return f"{self.precision}{units}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Validation:
    """Shares that the split seed holds out for choosing the epoch and for search; they are never tested on.

    Attributes:
        normal: share of the training normals.
        abnormal: share of the abnormals of the test set.
        stop_on: what ends a training with early stopping: "auroc", when the validation AUROC falls, which takes labels
            of the abnormal class; "loss", when the validation loss rises, which takes normal samples alone.  It is
            part of the key if it is "loss".
    """

    normal: float = 0.1
    abnormal: float = 0.2
    stop_on: str = "auroc"


@dataclass(frozen=True)
class Timing:
    """Numbers of batches with which a trial of a runtime study times scoring.

    Attributes:
        batch_sizes: numbers of images that are scored at once; each size is timed separately.
        warmup: batches of each size that are scored before the first timed one.
        repetitions: batches of each size that are timed.
    """

    batch_sizes: tuple[int, ...] = (1, 64)
    warmup: int = 10
    repetitions: int = 100


@dataclass(frozen=True)
class TrialSpec:
    """Everything on which the metrics of one trial depend.

    Attributes:
        detector: catalog name, or `package.module:Class` for the user's own.
        revision: revision of the detector's numerics; raised whenever its numbers change.
        variant: name of one variant of the detector, for example "repo_head".
        hyperparameters: every training hyperparameter, resolved.  Those of the score alone (lambda) are not
            here, because they cost no training.
        dataset, preparation: name of the dataset and id of how its images were prepared.
        protocol: rule that splits samples into training and test, for example "M0"; its validated form is
            "M0v".
        protocol_revision, scoring_revision: revisions of the code for splitting and for metrics.
        validation: shares held out for validation; None for none.
        abnormal: class that is held out of training and counts as abnormal in the test.
        split_seed: draws the split, and nothing else.
        seed: draws initial weights, batches and every other random number of the training.
        evaluations: how test samples are scored, for example ("clean",).  It is empty for trials of a search,
            which see no test sample, and for those of a runtime study, which compute no metrics.
        eval_every: epochs between evaluations; 0 evaluates after the last epoch only.
        numerics: arithmetic.
        device: kind of the device, "cpu" or the name of a GPU.
        timing: batches of a runtime study; None for every other trial, and then it is not part of the key.
    """

    detector: str
    revision: int
    variant: str
    hyperparameters: Mapping[str, Scalar]
    dataset: str
    preparation: str
    protocol: str
    protocol_revision: int
    scoring_revision: int
    abnormal: str
    split_seed: int = 0
    seed: int = 0
    validation: Validation | None = None
    evaluations: tuple[str, ...] = ("clean",)
    eval_every: int = 1
    numerics: Numerics = field(default_factory=Numerics)
    device: str = "cpu"
    timing: Timing | None = None

    @property
    def size(self) -> int:
        """Side of the images in pixels, which is the first part of the preparation's id."""
        return int(self.preparation.split("-")[0].removeprefix("s"))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready form: only dicts, lists, strings, numbers, booleans and None."""
        found = {name: getattr(self, name) for name in FIELDS}  # asdict makes deep copies, which takes 4 times as long
        found["hyperparameters"] = dict(self.hyperparameters)
        if self.validation is not None:
            found["validation"] = dict(vars(self.validation))
            if self.validation.stop_on == Validation.stop_on:
                del found["validation"]["stop_on"]
        found["variant"] = stored_variant(self.detector, self.variant)
        found["evaluations"] = list(self.evaluations)
        found["numerics"] = dict(vars(self.numerics))
        if not self.numerics.units:
            del found["numerics"]["units"]
        if self.timing is None:
            del found["timing"]
        else:
            found["timing"] = {**vars(self.timing), "batch_sizes": list(self.timing.batch_sizes)}
        return found

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> TrialSpec:
        """Build a spec from the form of `to_dict`.

        Raises:
            ValueError: it is not of this form.
        """
        try:
            validation, timing = found["validation"], found.get("timing")
            sizes = {} if timing is None else {"batch_sizes": tuple(timing["batch_sizes"])}
            return cls(
                **{
                    **found,
                    "hyperparameters": dict(found["hyperparameters"]),
                    "variant": variant_of_stored(found["detector"], found["variant"]),
                    "evaluations": tuple(found["evaluations"]),
                    "validation": None if validation is None else Validation(**validation),
                    "numerics": Numerics(**found["numerics"]),
                    "timing": None if timing is None else Timing(**{**timing, **sizes}),
                }
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the spec of a trial of this version: {error}") from None

    @cached_property
    def key(self) -> str:
        """Content hash: equal specs have equal keys on every machine and Python version.

        Raises:
            ValueError: if a hyperparameter is NaN or infinite: JSON has no such numbers, and NaN does not even
                equal itself.
        """
        return key_of(self.to_dict())


def older_keys(spec: TrialSpec) -> Iterator[str]:
    """Yield the keys that this trial had under older revisions of its detector, protocol or scoring."""
    for same in (spec, *_other_arithmetic(spec)):
        for name in ("revision", "protocol_revision", "scoring_revision"):
            for revision in range(1, getattr(spec, name)):
                yield replace(same, **{name: revision}).key  # type: ignore[arg-type]


def other_arithmetic_keys(spec: TrialSpec) -> Iterator[str]:
    """Yield the keys of this trial on other kinds of CPU, if their results differ."""
    yield from (same.key for same in _other_arithmetic(spec))


def _other_arithmetic(spec: TrialSpec) -> Iterator[TrialSpec]:
    """Yield the specs of this trial on other kinds of CPU; before 2026-12 a spec in bf16 did not name the kind."""
    if spec.numerics.units:
        for units in ("", NO_UNITS, *UNITS):
            if units != spec.numerics.units:
                yield replace(spec, numerics=replace(spec.numerics, units=units))


FIELDS = tuple(found.name for found in fields(TrialSpec))


def find_key(prefix: str, keys: Iterable[str]) -> str | None:
    """Return the key that begins with `prefix`; None if no key does.

    Raises:
        UserError: several keys do.
    """
    matches = sorted({key for key in keys if prefix and key.startswith(prefix)})
    if len(matches) > 1:
        first = ", ".join(matches[:SHOWN_KEYS])
        raise UserError(f"{len(matches):,} keys begin with {prefix} ({first}, ...): give more digits")
    return matches[0] if matches else None
