"""Anomaly scores from score components, and the values of lambda that are evaluated.

The components that `models.detector.Detector.score` returns are stored unchanged, so that lambda can be chosen, and any
metric computed again, without training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Validation AUROC is recorded at these values, so that a search can choose lambda without training again.
# They are dense at both ends, because the two components have different scales.
LAMBDAS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)


def combine(components: Mapping[str, npt.ArrayLike], lam: float | None) -> npt.NDArray[np.float64]:
    """Compute the anomaly score A = lambda R + (1 - lambda) L of each image, in float64.

    A component of weight zero is left out, because its NaN or infinity would make the score NaN.

    Args:
        components: "reconstruction" R and "latent" L, or a single "score"; [N] each.
        lam: lambda in [0, 1]; None for a single "score".

    Returns:
        float64 [N]; higher is more abnormal.

    Raises:
        ValueError: if lambda does not fit the components.
    """
    import numpy as np

    parts = {name: np.asarray(values, dtype=np.float64) for name, values in components.items()}
    if lam is None and set(parts) == {"score"}:
        return parts["score"]
    if lam is None or set(parts) != {"reconstruction", "latent"} or not 0 <= lam <= 1:
        raise ValueError(
            f"lambda={lam} does not fit the components {sorted(parts)}: 'reconstruction' and 'latent' need a number"
            " from 0 to 1, a single 'score' needs none"
        )
    if lam == 0:
        return parts["latent"]
    if lam == 1:
        return parts["reconstruction"]
    return lam * parts["reconstruction"] + (1 - lam) * parts["latent"]
