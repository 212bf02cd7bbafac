"""Entry of a detector in the catalog: its variants, hyperparameters, revision and cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models import cost
from models.hyperparameters import (
    PUBLISHED_SIDE,
    SIZES,
    Hyperparameter,
    Scalar,
    describe,
    nearest_first,
)


@dataclass(frozen=True)
class Variant:
    """A named version of a detector, such as its paper or one state of its published code.

    Attributes:
        lam: lambda, the share of the reconstruction term in the score; None if the score has
            one component.
        doc: one line for users.
        overrides: hyperparameters with another default in this variant; a study may set other values.
        on: the same by dataset, if the paper or code has different values for some datasets.
        fixed: hyperparameters that define this variant; a study cannot change them.
        sizes: legal heights and widths of images in pixels.
        stored: name in keys and records, if it is not that in the catalog; see `stored_variant`.
    """

    lam: float | None = None
    doc: str = ""
    overrides: Mapping[str, Scalar] = field(default_factory=dict)
    on: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    fixed: Mapping[str, Scalar] = field(default_factory=dict)
    sizes: tuple[int, ...] = SIZES
    stored: str = ""


@dataclass(frozen=True)
class DetectorInfo:
    """Facts about a detector that are known without loading torch.

    Attributes:
        name: catalog name, or `package.module:Class`.
        implementation: `package.module:Class` of its code.
        revision: number that is raised whenever the detector's numbers change.
        hyperparameters: frozen dataclass of the training hyperparameters.
        variants: variants by name; the first is the default.
        deterministic: True if results do not depend on the seed, so that one trial per split is enough.
        eval_every: epochs between evaluations unless a study sets another number; 0 evaluates after the last
            epoch only, for detectors that score more slowly than they train.
        reference: True if it trains no network on the dataset; the board shows it in a section of its own.
        cost: seconds on one CPU core: `cost.epoch(...)` and `cost.score(...)`.
        doc: one line for users.
        paper: paper that describes the detector.
    """

    name: str
    implementation: str
    revision: int
    hyperparameters: type[Any]
    variants: Mapping[str, Variant]
    cost: cost.Cost
    deterministic: bool = False
    eval_every: int = 1
    reference: bool = False
    doc: str = ""
    paper: str = ""

    @property
    def default_variant(self) -> str:
        """Name of the first variant."""
        return next(iter(self.variants))

    @property
    def trains_by_epoch(self) -> bool:
        """True if it trains batch by batch over epochs; False if it is fitted to all images at once."""
        return any(parameter.name == "epochs" for parameter in self.fields)

    @property
    def fields(self) -> tuple[Hyperparameter, ...]:
        """All hyperparameters, with their ranges."""
        return describe(self.hyperparameters)

    def saw_imagenet(self, variant: str) -> bool:
        """Return True if a variant looks at features of a network that was trained on ImageNet.

        Its weights come with an optional package, unless a study names others.

        Raises:
            ValueError: as `variant`.
        """
        return bool(self.default(variant, "weights"))

    def variant(self, name: str) -> Variant:
        """Return the variant with this name.

        Raises:
            ValueError: if there is none; the message lists the variants.
        """
        if name not in self.variants:
            raise ValueError(f"{self.name} has no variant {name}: {nearest_first(name, self.variants)}")
        return self.variants[name]

    def size_problem(self, variant: str, size: int) -> str:
        """Return why a variant cannot use images of a size, and the fix; "" if it can.

        Args:
            variant: name of one of the variants.
            size: height and width of the images in pixels.
        """
        legal = self.variant(variant).sizes
        if size in legal:
            return ""
        if legal == (PUBLISHED_SIDE,):
            other = next((name for name, other in self.variants.items() if size in other.sizes), None)
            instead = f", or use the variant {other}" if other else ""
            return (
                f"{self.name} {variant} has the published networks, which are for {PUBLISHED_SIDE} x {PUBLISHED_SIDE} "
                f"images alone, not {size} x {size}: set data.size={PUBLISHED_SIDE}{instead}"
            )
        return (
            f"{self.name} {variant} cannot use images of {size} x {size}: set data.size to one of "
            f"{', '.join(map(str, legal))}, or leave it out"
        )

    def default(self, variant: str, name: str) -> Scalar | None:
        """Return the value of a hyperparameter, or of "lambda", in a variant if no study sets it.

        Returns:
            the value; None if it differs between datasets, or the detector has no such hyperparameter.

        Raises:
            ValueError: as `variant`.
        """
        chosen = self.variant(variant)
        defaults = {parameter.name: parameter.default for parameter in self.fields}
        differing: dict[str, None] = dict.fromkeys(name for values in chosen.on.values() for name in values)
        return {"lambda": chosen.lam, **defaults, **chosen.overrides, **differing, **chosen.fixed}.get(name)
