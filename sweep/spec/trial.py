"""What one trial is, and its name.

A trial is a pure function of its `TrialSpec`; its key is a hash of that spec and its name
everywhere: in the store, in a table, on the command line.  The standard library alone is needed
here, so that a bare GPU machine can run trials without the rest of the application.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from sweep.store.ledger import canonical_json

EVALUATIONS = ("clean", "legacy_ordered", "legacy_shuffled")
"""How test samples are scored: BatchNorm in evaluation mode; as published code does, which leaves it in
training mode and tests in batches of 64, normals first; the same in a random order."""

SELECTIONS = ("last", "val", "oracle")
"""How the epoch is chosen: the last; the best on validation; the best on the test set itself."""

KEY_LENGTH = 20  # hexadecimal digits: 80 bits, no collision among a billion trials in practice

Scalar = bool | int | float | str


@dataclass(frozen=True)
class Numerics:
    """Which arithmetic a trial runs; resolved when it is planned, never chosen by a running trial.

    Attributes:
        precision: of training, "float32", "tf32" or "bf16" (`models.components.numerics`); "float32" where
            nothing is trained by steps.
        threads: CPU threads inside one operation.  Sums over threads are ordered differently,
            so another number of threads is another trial.
        layout: of images and weights in memory, "channels_last" or "contiguous"; other layouts run
            other kernels, whose last digits differ.
    """

    precision: str = "float32"
    threads: int = 1
    layout: str = "channels_last"

    def __str__(self) -> str:
        """E.g. "float32, 1 thread"."""
        return f"{self.precision}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Validation:
    """Shares carved out, by the split seed, for epoch selection and for search; never tested on.

    Attributes:
        normal: share of the training normals.
        abnormal: share of the test's abnormals.
    """

    normal: float = 0.1
    abnormal: float = 0.2


@dataclass(frozen=True)
class Timing:
    """How a trial of a runtime study times scoring.

    Attributes:
        batch_sizes: images that are scored at once, each size timed apart.
        warmup: batches of each size that are scored before the first timed one.
        repetitions: batches of each size that are timed.
    """

    batch_sizes: tuple[int, ...] = (1, 64)
    warmup: int = 10
    repetitions: int = 100


@dataclass(frozen=True)
class TrialSpec:
    """Everything that the metrics of one trial depend on.

    Attributes:
        detector: catalog name, or `package.module:Class` of a user's own.
        revision: of the detector's numerics; raised whenever its numbers change.
        variant: named rendering of the detector, e.g. "repo_head".
        hyperparameters: every training hyperparameter, resolved; score-only ones (lambda) are not
            here, because they cost no training.
        dataset, preparation: name of the dataset and id of how its images were prepared.
        protocol: who is trained and tested on, e.g. "M0"; its validated form is "M0v".
        protocol_revision, scoring_revision: of the splitting and of the metrics' code.
        validation: shares held out for validation, None for none.
        abnormal: class held out of training and hunted at test time.
        split_seed: draws the split, and nothing else.
        seed: draws initial weights, batches and every other random number of the training.
        evaluations: how test samples are scored, e.g. ("clean",); empty for trials of a search,
            which see no test row, and of a runtime study, which judge none.
        eval_every: epochs between evaluations; 0 evaluates after the last epoch alone.
        numerics: arithmetic.
        device: kind of the device, "cpu" or the name of a GPU.
        timing: of a runtime study; None for every other trial, whose key knows nothing of it.
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
        """Side of the images in pixels, with which the id of a preparation begins."""
        return int(self.preparation.split("-")[0].removeprefix("s"))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form: only dicts, lists, strings, numbers, booleans and None."""
        found = {name: getattr(self, name) for name in FIELDS}  # asdict copies deeply, at 4 times the cost
        found["hyperparameters"] = dict(self.hyperparameters)
        found["validation"] = None if self.validation is None else dict(vars(self.validation))
        found["evaluations"] = list(self.evaluations)
        found["numerics"] = dict(vars(self.numerics))
        if self.timing is None:
            del found["timing"]
        else:
            found["timing"] = {**vars(self.timing), "batch_sizes": list(self.timing.batch_sizes)}
        return found

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> TrialSpec:
        """Inverse of `to_dict`."""
        validation, timing = found["validation"], found.get("timing")
        return cls(
            **{
                **found,
                "hyperparameters": dict(found["hyperparameters"]),
                "evaluations": tuple(found["evaluations"]),
                "validation": None if validation is None else Validation(**validation),
                "numerics": Numerics(**found["numerics"]),
                "timing": None if timing is None else Timing(**{**timing, "batch_sizes": tuple(timing["batch_sizes"])}),
            }
        )

    @cached_property
    def key(self) -> str:
        """Content hash: equal specs have equal keys on every machine and Python version.

        Raises:
            ValueError: if a hyperparameter is NaN or infinite, which equals nothing, not even
                itself.
        """
        return hashlib.sha256(canonical_json(self.to_dict()).encode()).hexdigest()[:KEY_LENGTH]


def older_keys(spec: TrialSpec) -> Iterator[str]:
    """Keys that this trial had under older revisions of its detector, protocol or scoring."""
    for name in ("revision", "protocol_revision", "scoring_revision"):
        for revision in range(1, getattr(spec, name)):
            yield replace(spec, **{name: revision}).key  # type: ignore[arg-type]


FIELDS = tuple(found.name for found in fields(TrialSpec))
