"""The detectors by name: variants, revisions, cost hints.

Standard library only: planning a sweep imports this and no torch.  The code of a detector lives in
the module that its `implementation` names.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models import cost
from models.defaults import (
    AnoGANHyperparameters,
    AutoencoderHyperparameters,
    EGBADHyperparameters,
    GANomalyHyperparameters,
    KNNHyperparameters,
    PCAHyperparameters,
    SkipGANomalyHyperparameters,
)
from models.hyperparameters import Hyperparameter, NoHyperparameters, Scalar, describe, nearest_first, resolve_values

SCORING_REVISION = 1  # of how components are made, combined and judged; raised when scores change


class UnknownDetector(ValueError):
    """No such detector; the message lists those that exist, the nearest name first."""


@dataclass(frozen=True)
class Variant:
    """A named rendering of one detector.

    Attributes:
        lam: lambda, the share of the reconstruction term in the score; None where the score has
            one component.
        doc: one line.
        overrides: hyperparameters whose default differs here; a study may say otherwise.
        on: the same, by dataset, where the source has values for each.
        fixed: hyperparameters that make this variant what it is; a study's values do not reach them.
    """

    lam: float | None = None
    doc: str = ""
    overrides: Mapping[str, Scalar] = field(default_factory=dict)
    on: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    fixed: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class DetectorInfo:
    """What the rest of the application knows of a detector without loading torch.

    Attributes:
        name: catalog name, or `package.module:Class`.
        implementation: `package.module:Class` of its code.
        revision: raised whenever its numbers change.
        hyperparameters: frozen dataclass of the training hyperparameters.
        variants: by name; the first is the default.
        deterministic: the seed changes nothing, one run per split says all.
        eval_every: epochs between evaluations unless a study says otherwise; 0, after the last alone, where
            scoring takes longer than training.
        trivial: a baseline that learns next to nothing, always on the board.
        cost: seconds on one CPU core: `cost.epoch(...)` and `cost.score(...)`.
        doc: one line.
        paper: where it comes from.
    """

    name: str
    implementation: str
    revision: int
    hyperparameters: type[Any]
    variants: Mapping[str, Variant]
    cost: cost.Cost
    deterministic: bool = False
    eval_every: int = 1
    trivial: bool = False
    doc: str = ""
    paper: str = ""

    @property
    def default_variant(self) -> str:
        return next(iter(self.variants))

    @property
    def trains_by_epoch(self) -> bool:
        """Whether it trains batch by batch over epochs; else it is fitted to all images at once."""
        return any(parameter.name == "epochs" for parameter in self.fields)

    @property
    def fields(self) -> tuple[Hyperparameter, ...]:
        return describe(self.hyperparameters)

    def variant(self, name: str) -> Variant:
        """The variant of that name.

        Raises:
            ValueError: listing the variants there are.
        """
        if name not in self.variants:
            raise ValueError(f"{self.name} has no variant {name}: {nearest_first(name, self.variants)}")
        return self.variants[name]

    def default(self, variant: str, name: str) -> Scalar | None:
        """Value of a hyperparameter, or of lambda, that no study touches; None where datasets differ in it, or without.

        Raises:
            ValueError: as `variant`.
        """
        chosen = self.variant(variant)
        defaults = {parameter.name: parameter.default for parameter in self.fields}
        differing: dict[str, None] = dict.fromkeys(name for own in chosen.on.values() for name in own)
        return {"lambda": chosen.lam, **defaults, **chosen.overrides, **differing, **chosen.fixed}.get(name)


UNTRAINED = {"epochs": 0}
PLAIN = {"plain": Variant(doc="as it stands")}


def _catalog(*infos: DetectorInfo) -> dict[str, DetectorInfo]:
    return {info.name: info for info in infos}


DETECTORS = _catalog(
    DetectorInfo(
        name="ganomaly",
        implementation="models.ganomaly:GANomaly",
        revision=3,
        hyperparameters=GANomalyHyperparameters,
        variants={
            "repo_head": Variant(lam=0.0, doc="the published code's last state"),
            "repo_2018": Variant(lam=0.0, doc="the published code of May to October 2018, the paper's time"),
            "paper": Variant(
                lam=0.0,
                doc="the paper's equations and training details",
                overrides={"lr": 2e-3},
                on={"cifar10": {"epochs": 25}, "uba": {"epochs": 25}},  # of FFOB the text does not speak
            ),
            "untrained": Variant(lam=0.0, doc="initial weights, never trained", fixed=UNTRAINED),
        },
        cost=cost.Cost(cost.ganomaly_training, cost.ganomaly_scoring),
        doc="encoder-decoder-encoder; scores the distance between the two codes",
        paper="Akcay, Atapour-Abarghouei, Breckon: GANomaly, ACCV 2018, arXiv:1805.06725",
    ),
    DetectorInfo(
        name="skip_ganomaly",
        implementation="models.skip_ganomaly:SkipGANomaly",
        revision=3,
        hyperparameters=SkipGANomalyHyperparameters,
        variants={
            "repo_head": Variant(lam=0.9, doc="the published code's last state"),
            "repo_2018": Variant(
                lam=0.0,
                doc="the code of November 2018: noisy input, D trained by features, score of features alone",
                overrides={"w_con": 1.0},
            ),
            "paper": Variant(
                lam=0.9,
                doc="the paper's equations and training details",
                overrides={"lr": 2e-3, "w_con": 40.0, "early_stopping": True},
            ),
            "untrained": Variant(lam=0.9, doc="initial weights, never trained", fixed=UNTRAINED),
        },
        cost=cost.Cost(cost.skip_ganomaly_training, cost.skip_ganomaly_scoring),
        doc="U-Net and discriminator; scores pixel and feature distance",
        paper="Akcay, Atapour-Abarghouei, Breckon: Skip-GANomaly, IJCNN 2019, arXiv:1901.08954",
    ),
    DetectorInfo(
        name="anogan",
        implementation="models.anogan:AnoGAN",
        revision=1,
        hyperparameters=AnoGANHyperparameters,
        variants={
            "dcgan": Variant(lam=0.9, doc="the paper's method, without official code, on GANomaly's DCGAN blocks"),
            "untrained": Variant(lam=0.9, doc="initial weights, never trained; searched all the same", fixed=UNTRAINED),
        },
        cost=cost.Cost(cost.anogan_training, cost.anogan_scoring),
        doc="GAN; scores how near a search comes to the image in pixels and features",
        paper="Schlegl, Seeböck, Waldstein, Schmidt-Erfurth, Langs: AnoGAN, IPMI 2017, arXiv:1703.05921",
    ),
    DetectorInfo(
        name="egbad",
        implementation="models.egbad:EGBAD",
        revision=1,
        hyperparameters=EGBADHyperparameters,
        variants={
            "repo": Variant(lam=0.9, doc="the published code's losses and optimisers, networks for any size"),
            "untrained": Variant(lam=0.9, doc="initial weights, never trained", fixed=UNTRAINED),
        },
        cost=cost.Cost(cost.egbad_training, cost.egbad_scoring),
        doc="BiGAN; scores pixel and feature distance to the decoded code of the image",
        paper="Zenati, Foo, Lecouat, Manek, Chandrasekhar: EGBAD, 2018, arXiv:1802.06222",
    ),
    DetectorInfo(
        name="autoencoder",
        implementation="models.autoencoder:Autoencoder",
        revision=1,
        hyperparameters=AutoencoderHyperparameters,
        variants={
            "plain": Variant(doc="trained by the reconstruction loss alone"),
            "untrained": Variant(doc="initial weights, never trained", fixed=UNTRAINED),
        },
        cost=cost.Cost(cost.autoencoder_training, cost.autoencoder_scoring),
        doc="GANomaly's encoder and decoder without adversary; scores pixel distance",
    ),
    DetectorInfo(
        name="constant",
        implementation="models.constant:Constant",
        revision=1,
        hyperparameters=NoHyperparameters,
        variants=PLAIN,
        cost=cost.Cost(cost.pass_over_pixels, cost.pass_over_pixels),
        deterministic=True,
        trivial=True,
        doc="the same score for every image: what an AUROC of 0.5 by ties looks like",
    ),
    DetectorInfo(
        name="total_variation",
        implementation="models.total_variation:TotalVariation",
        revision=1,
        hyperparameters=NoHyperparameters,
        variants=PLAIN,
        cost=cost.Cost(cost.pass_over_pixels, cost.pass_over_pixels),
        deterministic=True,
        trivial=True,
        doc="mean difference of neighbouring pixels: how busy an image is",
    ),
    DetectorInfo(
        name="pixel_mean",
        implementation="models.pixel_mean:PixelMean",
        revision=1,
        hyperparameters=NoHyperparameters,
        variants=PLAIN,
        cost=cost.Cost(cost.pass_over_pixels, cost.pass_over_pixels),
        deterministic=True,
        trivial=True,
        doc="squared distance to the mean training image",
    ),
    DetectorInfo(
        name="pca",
        implementation="models.pca:PCA",
        revision=1,
        hyperparameters=PCAHyperparameters,
        variants=PLAIN,
        cost=cost.Cost(cost.pca_fitting, cost.pca_scoring),
        deterministic=True,
        trivial=True,
        doc="squared distance to the span of the leading principal components",
    ),
    DetectorInfo(
        name="knn",
        implementation="models.knn:KNN",
        revision=1,
        hyperparameters=KNNHyperparameters,
        variants=PLAIN,
        cost=cost.Cost(cost.pass_over_pixels, cost.knn_scoring),
        deterministic=True,
        trivial=True,
        doc="mean distance to the nearest training images",
    ),
)


def detector(name: str) -> DetectorInfo:
    """The detector of a catalog name, or of a user's own `package.module:Class`, which is imported.

    Raises:
        UnknownDetector: with what is wrong, and the legal names, nearest first.
    """
    if ":" in name:
        return _own_detector(name)
    if name not in DETECTORS:
        legal = nearest_first(name, DETECTORS)
        raise UnknownDetector(f"unknown detector {name}: {legal}, or your own as package.module:Class")
    return DETECTORS[name]


def resolve(info: DetectorInfo, variant: str, overrides: Mapping[str, object]) -> dict[str, Scalar]:
    """All training hyperparameters of a variant, `overrides` laid over its defaults.

    A variant's `fixed` values win over `overrides`: one study may set the epochs of every variant,
    and `untrained` stays untrained.

    Returns:
        every hyperparameter by name, coerced to its field's type.

    Raises:
        ValueError: listing all problems: unknown variant, unknown names, illegal values.
    """
    problems = []
    chosen = Variant()
    try:
        chosen = info.variant(variant)
    except ValueError as problem:
        problems.append(str(problem))
    values: dict[str, Scalar] = {}
    try:
        values = resolve_values(info.hyperparameters, {**chosen.overrides, **overrides, **chosen.fixed})
    except ValueError as problem:
        problems.append(f"{info.name}: {problem}")
    if problems:
        raise ValueError("; ".join(problems))
    return values


def load_class(implementation: str) -> Any:
    """Import `package.module:Class`.

    Raises:
        UnknownDetector: if there is no such module or no such class in it.
    """
    module, _, attribute = implementation.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as problem:
        raise UnknownDetector(
            f"cannot load detector {implementation}: {problem}; write package.module:Class"
        ) from problem


def _own_detector(name: str) -> DetectorInfo:
    loaded = load_class(name)
    from models.detector import Detector  # torch: only the user's own class needs it here

    if not (isinstance(loaded, type) and issubclass(loaded, Detector)):
        raise UnknownDetector(f"{name} is no detector: it must be a subclass of models.detector.Detector")
    try:
        describe(loaded.Hyperparameters)
    except ValueError as problem:
        raise UnknownDetector(f"{name}: {problem}") from problem
    return DetectorInfo(
        name=name,
        implementation=name,
        revision=loaded.revision,
        hyperparameters=loaded.Hyperparameters,
        variants={"plain": Variant(lam=loaded.lam)},
        cost=cost.Cost(cost.unknown_training, cost.unknown_scoring),
        deterministic=loaded.deterministic,
        doc=(loaded.__doc__ or "").strip().partition("\n")[0],
    )
