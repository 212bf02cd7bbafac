"""Construction of the detector that a trial's spec names."""

from __future__ import annotations

import torch

from models.build import build
from models.detector import Detector
from models.pretrained import MissingWeights
from sweep.errors import UserError
from sweep.spec.trial import TrialSpec

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def build_detector(spec: TrialSpec, channels: int, size: int) -> Detector:
    """Build the detector of a trial on the CPU, in the layout of its spec; seed torch first.

    Raises:
        UserError: it looks at features of a pretrained network whose weights are not on this machine.
        ValueError: the spec does not fit the images; the message lists the legal values.
    """
    try:
        made = build(
            spec.detector,
            channels=channels,
            size=size,
            hyperparameters=spec.hyperparameters,
            variant=spec.variant,
            dataset=spec.dataset,
            precision=spec.numerics.precision,
        )
    except MissingWeights as problem:
        raise UserError(f"trial {spec.key}, {spec.detector}: {problem}") from None
    return made.to(memory_format=LAYOUTS[spec.numerics.layout])
