"""Construction of a detector from its name and hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping

from models.catalog import detector as find_detector
from models.catalog import load_class
from models.components.numerics import PRECISIONS
from models.detector import Detector
from models.hyperparameters import PUBLISHED_SIDE, SIZES, resolve_values
from models.info import DetectorInfo


def build(
    spec_detector: str,
    *,
    channels: int,
    size: int,
    hyperparameters: Mapping[str, object],
    variant: str,
    dataset: str = "",
    precision: str = "float32",
) -> Detector:
    """Build the detector that a trial's spec names, on the CPU.

    The caller seeds torch first, because initial weights are drawn here.

    Args:
        spec_detector: catalog name, or `package.module:Class`.
        channels: 1 or 3.
        size: height and width of the images in pixels, one of the variant's `sizes`.
        hyperparameters: values by name, as `models.catalog.resolve` returns them; defaults replace missing ones.
        variant: variant of the detector.
        dataset: catalog name of the dataset.
        precision: arithmetic of the training steps, one of `models.components.numerics.PRECISIONS`.

    Raises:
        ValueError: if an argument is not legal; the message lists the legal values.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is not legal: use one of {', '.join(PRECISIONS)}")
    info: DetectorInfo = find_detector(spec_detector)
    if problem := info.size_problem(variant, size) if size == PUBLISHED_SIDE or size in SIZES else "":
        raise ValueError(problem)
    values = info.hyperparameters(**resolve_values(info.hyperparameters, hyperparameters))
    made = load_class(info.implementation)(channels, size, values, variant=variant, dataset=dataset)
    assert isinstance(made, Detector)
    made.precision = precision
    return made
