"""Image sheet: the most anomalous of new images, with their reconstructions by the detector."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from sweep.console import printable
from sweep.report.figures.networks import GAP, mosaic
from sweep.report.figures.style import WIDTH, Drawing, canvas, save

COLUMNS = 8
LETTERS = 15  # maximum length of a file's name below its image
ROWS = ("original", "reconstruction", "difference")


def most_anomalous(
    files: Sequence[str],
    scores: npt.NDArray[np.float64],
    images: npt.NDArray[np.uint8],
    made: npt.NDArray[np.uint8] | None,
    detector: str,
    count: int,
) -> Drawing:
    """Draw the image sheet; call within `use_style`.

    Args:
        files: names of the K images, the most anomalous first.
        scores: float64 [K] or longer, in the order of `files`.
        images: uint8 [K, C, S, S].
        made: reconstructions by the detector, uint8 [K, C, S, S]; None if it does not reconstruct.
        detector: description of the detector for the caption.
        count: number of images that were scored.
    """
    strips = -(-len(files) // COLUMNS)
    shown = ROWS if made is not None else ROWS[:1]
    tall = 0.6 + strips * (0.42 + len(shown) * WIDTH * 0.87 / COLUMNS)
    figure, panels = canvas(strips, 1, WIDTH, tall)
    pitch, side = images.shape[-1] + GAP, images.shape[-1]
    for strip, (axes,) in enumerate(panels):
        chosen = slice(strip * COLUMNS, (strip + 1) * COLUMNS)
        axes.imshow(
            mosaic(images[chosen], None if made is None else made[chosen]), interpolation="nearest", aspect="equal"
        )
        axes.set_xlim(-0.5, COLUMNS * pitch - GAP - 0.5)  # keeps the size of the images in a strip that is not full
        names = [f"{strip * COLUMNS + n + 1}: {scores[strip * COLUMNS + n]:.4g}\n{_short(file)}"
                 for n, file in enumerate(files[chosen])]  # fmt: skip
        axes.set_xticks([pitch * n + side / 2 for n in range(len(names))], names, fontsize=6)
        axes.set_yticks([pitch * n + side / 2 for n in range(len(shown))], shown, fontsize=7)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
    title = f"The {len(files)} most anomalous of {count:,} images"
    caption = f"Scored by {detector}.  Below each image: its rank, score and name."
    if made is not None:
        caption += "  Difference: absolute, mean over channels, from dark (0) to bright (half of the range or more)."
    figure.suptitle(title, x=0.01, ha="left", fontsize=9)
    figure.supxlabel(textwrap.fill(printable(caption), 125), x=0.01, ha="left", fontsize=7)
    return save("most_anomalous", title, caption, figure)


def _short(file: str) -> str:
    name = printable(PurePosixPath(file).name)
    return name if len(name) <= LETTERS else f"…{name[1 - LETTERS :]}"
