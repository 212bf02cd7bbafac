"""Sections of a study: shares for validation, ranges of a search, and the rule for more seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sweep.spec.cluster import Section
from sweep.spec.trial import Validation

FIRST_TUNING_SEED = 1000  # first training seed of searches; seeds of reported trials are below it


class Fractions(Section):
    """Shares that are held out for validation, and what ends a training there."""

    normal: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="share of the training normals")
    abnormal: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="share of the abnormals of the test set")
    stop_on: Literal["auroc", "loss"] = Field(
        "auroc",
        description="what ends a training with early_stopping: auroc: a lower validation AUROC, which takes labels of "
        "the abnormal class; loss: a higher reconstruction loss of the validation normals, which takes none",
    )

    def frozen(self) -> Validation:
        """Return the shares in the form that a trial's spec contains."""
        return Validation(normal=self.normal, abnormal=self.abnormal, stop_on=self.stop_on)


class Range(Section):
    """Values that a search may try for one hyperparameter: a range, or choices."""

    low: float | None = Field(None, description="smallest value")
    high: float | None = Field(None, description="largest value")
    log: bool = Field(False, description="draw the logarithm uniformly")
    choices: tuple[bool | int | float | str, ...] = Field((), description="the only values")

    @model_validator(mode="after")
    def _is_a_range_or_choices(self) -> Range:
        bounded = self.low is not None and self.high is not None and self.low < self.high
        if bounded == bool(self.choices) or (self.log and not (self.low or 0) > 0):
            raise ValueError("must be {low: 1, high: 9}, also with log: true if low is above 0, or {choices: [...]}")
        return self


class MoreSeeds(Section):
    """Rule by which the first seeds of a line decide how many more it gets (Stein 1945).

    N = max(first, ceil((t s / width)^2)) seeds, where s is the standard deviation of the class mean over the first
    ones, and t has first - 1 degrees of freedom.  The 95 % interval of the class mean keeps t and s, so that it covers
    at least 95 % whatever the true spread is.
    """

    width: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        description="half-width of the 95 % interval of the class mean of AUROC that a line is to reach"
    )
    most: Annotated[int, Field(ge=2, le=FIRST_TUNING_SEED)] = Field(
        20, description="most seeds of a line; an interval is wider than asked for where they do not suffice"
    )
    until: Literal["width", "decided"] = Field(
        "width",
        description="width: every line reaches it; decided: only lines that the first seeds do not yet tell from the "
        "leader (p above 0.001, so that later tests keep their level)",
    )

    def problems(self, kind: str, first: Sequence[int]) -> list[str]:
        """Return what is wrong with this rule in a study of some kind with some first seeds."""
        problems = []
        if kind != "error_bars":
            problems.append("seeds: only in a study of kind error_bars do first seeds decide; give a count or a list")
        if len(first) < 2:
            problems.append("seeds: first must be at least 2, because a single seed shows no spread")
        if tuple(first) != tuple(range(len(first))):
            problems.append("seeds: first must be a count, e.g. {first: 3, width: 0.02, most: 20}")
        if self.most < len(first):
            problems.append(f"seeds: most must be at least first, which is {len(first)}")
        return problems
