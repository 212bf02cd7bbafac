"""Make a detector from its name and hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping

from models.catalog import DetectorInfo, load_class
from models.catalog import detector as find_detector
from models.components.numerics import PRECISIONS
from models.detector import Detector
from models.hyperparameters import resolve_values


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
    """The detector that a trial's spec names, on the CPU; seed torch first.

    Args:
        spec_detector: catalog name, or `package.module:Class`.
        channels: 1 or 3.
        size: 16, 32, 64, 128 or 256.
        hyperparameters: by name, as `models.catalog.resolve` gives them; missing ones are defaults.
        variant: of the detector.
        dataset: catalog name of the dataset.
        precision: arithmetic of its training steps, one of `models.components.numerics.PRECISIONS`.

    Raises:
        ValueError: on anything that is not legal, with what is.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is not legal: one of {', '.join(PRECISIONS)}")
    info: DetectorInfo = find_detector(spec_detector)
    info.variant(variant)
    values = info.hyperparameters(**resolve_values(info.hyperparameters, hyperparameters))
    made = load_class(info.implementation)(channels, size, values, variant=variant, dataset=dataset)
    assert isinstance(made, Detector)
    made.precision = precision
    return made
