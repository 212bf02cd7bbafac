"""Source of `digits`: scikit-learn's bundled handwritten digits, 1,797 images of 8 x 8 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.sources.base import Sample, Source

WHITE = 16  # largest value of a pixel: the original images count inked pixels in blocks of 4 x 4


def read(root: Path | None = None) -> Source:  # noqa: ARG001 (all sources have this parameter)
    """Open all digits, in scikit-learn's order.

    Args:
        root: not used; the images come with the package scikit-learn.
    """
    import sklearn
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * (255 / WHITE)).astype(np.uint8).reshape(-1, 1, 8, 8)

    def samples(first: int, stop: int) -> Iterator[Sample]:
        for position in range(first, stop):
            yield Sample(
                pixels[position], int(labels[position]), "sklearn.datasets.load_digits", "all", f"{position:04d}"
            )

    return Source(len(labels), samples, identity=f"scikit-learn {sklearn.__version__}")
