"""Image files to arrays, with one rule for every kind of file, or a refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.faults import DataError
from data.layouts import ImageFiles
from data.source import Sample, Skipped


def sample(path: Path, layout: ImageFiles, skip_bad: bool, **fields: Any) -> Sample | Skipped:
    """The image of a file as a sample; a bad one is `Skipped` if the user chose so.

    Raises:
        DataError: for a bad one otherwise.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB" if layout.channels == 3 else "L"))
    except (OSError, ValueError) as error:
        if skip_bad:
            return Skipped(str(fields["source"]), str(error))
        raise DataError(f"{path}: {error}") from None
    planes = pixels.reshape(*pixels.shape[:2], layout.channels).transpose(2, 0, 1)
    return Sample(image=np.ascontiguousarray(planes), **fields)


def parameters(layout: ImageFiles) -> dict[str, Any]:
    """How images are read, for the manifest."""
    return {"channels": layout.channels, "fit": layout.fit}
