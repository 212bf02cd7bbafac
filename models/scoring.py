"""Anomaly scores from score components, and the lambdas that are looked at.

What `models.detector.Detector.score` returns is stored raw, so that lambda can be chosen, and any
metric made again, without training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Where validation AUROC is recorded, so that a search can choose lambda without training again.
# Dense at both ends, because the two components are on scales of their own.
LAMBDAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)


def combine(components: Mapping[str, npt.ArrayLike], lam: float | None) -> npt.NDArray[np.float64]:
    """The anomaly score A = lambda R + (1 - lambda) L of each image, in float64.

    A part of weight zero is left out, so that its NaN or infinity cannot spoil the score.

    Args:
        components: [N] each: "reconstruction" R and "latent" L, or a single "score".
        lam: lambda in [0, 1]; None for a single "score".

    Raises:
        ValueError: if lambda and components do not go together.
    """
    import numpy as np

    parts = {name: np.asarray(values, dtype=np.float64) for name, values in components.items()}
    if lam is None and set(parts) == {"score"}:
        return parts["score"]
    if lam is None or set(parts) != {"reconstruction", "latent"} or not 0 <= lam <= 1:
        raise ValueError(
            f"lambda={lam} and components {sorted(parts)} do not go together: a number from 0 to 1 weighs"
            " 'reconstruction' against 'latent', none is for a single 'score'"
        )
    if lam == 0:
        return parts["latent"]
    if lam == 1:
        return parts["reconstruction"]
    return lam * parts["reconstruction"] + (1 - lam) * parts["latent"]
