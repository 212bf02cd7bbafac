"""Catalog of detectors: names, variants, revisions and estimates of their cost.

This module imports the standard library alone, so that planning a sweep does not load torch.  The code of a detector is
in the module that its `implementation` names.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from models import cost, pretrained
from models.defaults import (
    AnoGANHyperparameters,
    AutoencoderHyperparameters,
    DeepSVDDHyperparameters,
    EGBADHyperparameters,
    FeatureHyperparameters,
    FeatureKNNHyperparameters,
    GANomalyHyperparameters,
    IsolationForestHyperparameters,
    KNNHyperparameters,
    OCSVMHyperparameters,
    PCAHyperparameters,
    SkipGANomalyHyperparameters,
    VAEHyperparameters,
)
from models.hyperparameters import (
    ANY_SIZE,
    PUBLISHED_SIDE,
    NoHyperparameters,
    Scalar,
    describe,
    nearest_first,
    resolve_values,
)
from models.info import DetectorInfo, Variant

SCORING_REVISION = 1  # must be raised whenever the computation or combination of components, or the metrics, change


class UnknownDetector(ValueError):
    """No detector has this name; the message lists the legal names, the nearest first."""


UNTRAINED = {"epochs": 0}
PLAIN = {"plain": Variant(doc="the only variant", sizes=ANY_SIZE)}
READ_ONLY = cost.Cost(cost.pass_over_pixels, cost.pass_over_pixels)
ON_FEATURES = {
    "pca": Variant(
        doc="on codes of PCA", sizes=ANY_SIZE, fixed={"weights": "", "resolution": FeatureHyperparameters.resolution}
    ),
    "pretrained": Variant(
        doc="on features of a network that was trained on ImageNet",
        sizes=ANY_SIZE,
        overrides={"weights": pretrained.BUILT_IN},
        fixed={"components": FeatureHyperparameters.components},
    ),
}


def _reference(
    name: str,
    class_name: str,
    estimate: cost.Cost,
    hyperparameters: type[Any] = NoHyperparameters,
    variants: Mapping[str, Variant] = PLAIN,
    deterministic: bool = True,
    doc: str = "",
    paper: str = "",
) -> DetectorInfo:
    """Return the entry of a detector that trains no network on the dataset."""
    implementation = f"models.references.{name}:{class_name}"
    return DetectorInfo(
        name,
        implementation,
        1,
        hyperparameters,
        variants,
        estimate,
        deterministic,
        reference=True,
        doc=doc,
        paper=paper,
    )


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
                on={"cifar10": {"epochs": 25}, "uba": {"epochs": 25}},  # the text gives no number for FFOB
            ),
            "untrained": Variant(lam=0.0, doc="initial weights, never trained", fixed=UNTRAINED),
        },
        cost=cost.Cost(cost.ganomaly_training, cost.ganomaly_scoring),
        doc="encoder-decoder-encoder; its score is the distance between the two codes",
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
                doc="the code of November 2018: noisy input, D trained on features, score from features alone",
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
        doc="U-Net and discriminator; its score is a distance in pixels and features",
        paper="Akcay, Atapour-Abarghouei, Breckon: Skip-GANomaly, IJCNN 2019, arXiv:1901.08954",
    ),
    DetectorInfo(
        name="anogan",
        implementation="models.anogan:AnoGAN",
        revision=1,
        hyperparameters=AnoGANHyperparameters,
        variants={
            "dcgan": Variant(lam=0.9, doc="the paper's method (no official code exists) on GANomaly's DCGAN blocks"),
            "untrained": Variant(lam=0.9, doc="initial weights, never trained; the search is made", fixed=UNTRAINED),
        },
        cost=cost.Cost(cost.anogan_training, cost.anogan_scoring),
        doc="GAN; its score is the distance, in pixels and features, to the nearest generated image found by a search",
        paper="Schlegl, Seeböck, Waldstein, Schmidt-Erfurth, Langs: AnoGAN, IPMI 2017, arXiv:1703.05921",
    ),
    DetectorInfo(
        name="egbad",
        implementation="models.egbad:EGBAD",
        revision=1,
        hyperparameters=EGBADHyperparameters,
        variants={
            "dcgan": Variant(
                lam=0.9,
                doc="the published code's losses and optimisers on GANomaly's DCGAN blocks, for any size",
                stored="repo",
            ),
            "repo": Variant(
                lam=0.9,
                doc="the published code, with its networks for 28 x 28 images",
                fixed={"width": 64},
                sizes=(PUBLISHED_SIDE,),
                stored="published",
            ),
            "untrained": Variant(lam=0.9, doc="initial weights, never trained", fixed=UNTRAINED),
        },
        cost=cost.Cost(cost.egbad_training, cost.egbad_scoring),
        doc="BiGAN; its score is the distance, in pixels and features, to the image decoded from the image's code",
        paper="Zenati, Foo, Lecouat, Manek, Chandrasekhar: EGBAD, 2018, arXiv:1802.06222",
    ),
    DetectorInfo(
        name="autoencoder",
        implementation="models.autoencoder:Autoencoder",
        revision=1,
        hyperparameters=AutoencoderHyperparameters,
        variants={
            "plain": Variant(doc="trained on the reconstruction loss alone"),
            "untrained": Variant(doc="initial weights, never trained", fixed=UNTRAINED),
        },
        cost=cost.Cost(cost.autoencoder_training, cost.autoencoder_scoring),
        doc="GANomaly's encoder and decoder without a discriminator; its score is a distance in pixels",
    ),
    DetectorInfo(
        name="vae",
        implementation="models.vae:VAE",
        revision=1,
        hyperparameters=VAEHyperparameters,
        variants={
            "plain": Variant(lam=0.5, doc="scores by the negative ELBO"),
            "untrained": Variant(lam=0.5, doc="initial weights, never trained", fixed=UNTRAINED),
        },
        cost=cost.Cost(cost.vae_training, cost.autoencoder_scoring),
        doc="variational autoencoder; its score is the negative ELBO at the mean code",
        paper="Kingma, Welling: Auto-Encoding Variational Bayes, ICLR 2014, arXiv:1312.6114",
    ),
    DetectorInfo(
        name="deep_svdd",
        implementation="models.deep_svdd:DeepSVDD",
        revision=1,
        hyperparameters=DeepSVDDHyperparameters,
        variants={
            "repo": Variant(doc="the published code's one-class objective, without pretraining by an autoencoder"),
            "untrained": Variant(doc="initial weights, never trained; the centre is 0", fixed=UNTRAINED),
        },
        cost=cost.Cost(cost.deep_svdd_training, cost.deep_svdd_scoring),
        doc="network that maps normal images near to one point; its score is the squared distance to it",
        paper="Ruff, Vandermeulen, Görnitz, Deecke, Siddiqui, Binder, Müller, Kloft: Deep One-Class Classification, "
        "ICML 2018",
    ),
    _reference("constant", "Constant", READ_ONLY, doc="the same score for every image, hence an AUROC of 0.5 by ties"),
    _reference(
        "total_variation", "TotalVariation", READ_ONLY,
        doc="mean difference of neighbouring pixels, a measure of an image's complexity",
    ),
    _reference("pixel_mean", "PixelMean", READ_ONLY, doc="squared distance to the mean training image"),
    _reference(
        "pca", "PCA", cost.Cost(cost.pca_fitting, cost.pca_scoring), PCAHyperparameters,
        doc="squared distance to the span of the leading principal components",
    ),
    _reference(
        "knn", "KNN", cost.Cost(cost.pass_over_pixels, cost.knn_scoring), KNNHyperparameters,
        doc="mean distance to the nearest training images",
    ),
    _reference(
        "mahalanobis", "Mahalanobis", cost.Cost(cost.feature_fitting, cost.feature_fitting),
        FeatureHyperparameters, ON_FEATURES,
        doc="Mahalanobis distance of codes or features to a Gaussian",
        paper="Rippel, Mertens, Merhof: Modeling the Distribution of Normal Data, ICPR 2020, arXiv:2005.14140",
    ),
    _reference(
        "ocsvm", "OCSVM", cost.Cost(cost.ocsvm_fitting, cost.ocsvm_scoring), OCSVMHyperparameters, ON_FEATURES,
        doc="one-class support vector machine on codes or features",
        paper="Schölkopf et al.: Estimating the Support of a High-Dimensional Distribution, Neural Computation, 2001",
    ),
    _reference(
        "isolation_forest", "IsolationForest",
        cost.Cost(cost.isolation_forest_fitting, cost.isolation_forest_scoring),
        IsolationForestHyperparameters, ON_FEATURES, deterministic=False,
        doc="number of random splits of codes or features until an image is alone",
        paper="Liu, Ting, Zhou: Isolation Forest, ICDM 2008",
    ),
    _reference(
        "feature_knn", "FeatureKNN", cost.Cost(cost.feature_knn_fitting, cost.feature_knn_scoring),
        FeatureKNNHyperparameters,
        doc="mean cosine distance to the nearest training images, on features of a network trained on ImageNet",
        paper="Bergman, Cohen, Hoshen: Deep Nearest Neighbor Anomaly Detection, 2020, arXiv:2002.10445",
    ),
)  # fmt: skip


WITHOUT_EXTRA = tuple(name for name, info in DETECTORS.items() if not info.saw_imagenet(info.default_variant))
"""Detectors that `all` means in a study: those whose default variant needs no optional package."""


_STORED = {(d.name, name): v.stored for d in DETECTORS.values() for name, v in d.variants.items() if v.stored}
_OF_STORED = {(name, stored): variant for (name, variant), stored in _STORED.items()}


def stored_variant(name: str, variant: str) -> str:
    """Return the name of a variant in keys and records.

    A variant that was renamed keeps its old name there, so that its results stay valid.  Up to 2026-11, EGBAD's
    `dcgan` was called `repo`, and there was no variant with the published networks.
    """
    return _STORED.get((name, variant), variant)


def variant_of_stored(name: str, stored: str) -> str:
    """Return the name in the catalog of a variant in a record."""
    return _OF_STORED.get((name, stored), stored)


def is_own(name: str) -> bool:
    """Return True if a name means a user's own detector, `package.module:Class`."""
    return ":" in name


def detector(name: str) -> DetectorInfo:
    """Return the detector of a catalog name, or import a user's own detector, `package.module:Class`.

    Raises:
        UnknownDetector: if there is no such detector, or the class is not a detector.  The message names the
            problem; for a catalog name it lists the legal names, the nearest first.
    """
    if is_own(name):
        return _own_detector(name)
    if name not in DETECTORS:
        legal = nearest_first(name, DETECTORS)
        raise UnknownDetector(f"unknown detector {name}: {legal}, or your own as package.module:Class")
    return DETECTORS[name]


def resolve(info: DetectorInfo, variant: str, overrides: Mapping[str, object]) -> dict[str, Scalar]:
    """Return all training hyperparameters of a variant: its defaults, with `overrides` applied.

    A variant's `fixed` values have priority over `overrides`: if a study sets the epochs of all variants,
    `untrained` still has 0 epochs.

    Returns:
        every hyperparameter by name, converted to its field's type.

    Raises:
        ValueError: if the variant or a name is unknown, or a value is not legal; the message lists all problems.
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
        UnknownDetector: if the module cannot be imported, or has no such class.
    """
    module, _, attribute = implementation.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as problem:
        kind = "" if isinstance(problem, ImportError | AttributeError | ValueError) else f"{type(problem).__name__}: "
        raise UnknownDetector(
            f"cannot load detector {implementation}: {kind}{problem}; write package.module:Class"
        ) from problem


def _own_detector(name: str) -> DetectorInfo:
    loaded = load_class(name)
    from models.detector import Detector  # imported here because it loads torch, which catalog names do not need

    if not (isinstance(loaded, type) and issubclass(loaded, Detector)):
        raise UnknownDetector(f"{name} is not a detector: it must be a subclass of models.detector.Detector")
    try:
        describe(loaded.Hyperparameters)
    except ValueError as problem:
        raise UnknownDetector(f"{name}: {problem}") from problem
    return DetectorInfo(
        name=name,
        implementation=name,
        revision=loaded.revision,
        hyperparameters=loaded.Hyperparameters,
        variants={"plain": Variant(lam=loaded.lam, sizes=loaded.sizes)},
        cost=cost.Cost(cost.unknown_training, cost.unknown_scoring),
        deterministic=loaded.deterministic,
        doc=(loaded.__doc__ or "").strip().partition("\n")[0],
    )
