"""Folders of generated images, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

MVTEC = {"train/good": 24, "test/good": 6, "test/hole": 5, "test/crack": 4}
PUBLISHED = {"train/0.normal": 12, "test/0.normal": 4, "test/1.abnormal": 3}
ANIMALS = {"cat": 10, "dog": 12, "eel": 14}


def write_images(root: Path, counts: Mapping[str, int], side: int = 9, seed: int = 0) -> Path:
    """Write the given number of different PNGs of noise into each folder below the root; return the root."""
    random = np.random.RandomState(seed)
    for number, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for image in range(count):
            noise = random.randint(0, 128, (side, side + image % 2, 3), np.uint8) + np.uint8(20 * number % 128)
            Image.fromarray(noise).save(root / folder / f"{image:03d}.png")
    return root
