"""What a source of images hands over: samples in its own order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Sample(NamedTuple):
    """One image as its source has it.

    Attributes:
        image: uint8 [C, H, W].
        label: index into the dataset's classes.
        source: file (or function) that it was read from.
        split: the source's own split: "train", "test", or "all" where it has none.
        sample_id: unique in the dataset.
    """

    image: npt.NDArray[np.uint8]
    label: int
    source: str
    split: str
    sample_id: str


@dataclass(frozen=True)
class Source:
    """All samples of a dataset.

    Attributes:
        count: number of samples, for progress.
        samples: in source order; can be walked once.
    """

    count: int
    samples: Iterator[Sample]
