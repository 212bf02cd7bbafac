"""Source of `fashion_mnist`: four IDX files with MNIST's names, in torchvision's folder or downloaded by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from data.sources import mnist
from data.sources.base import Source

FASHION_MNIST = replace(
    mnist.MNIST, name="fashion_mnist", torchvision="FashionMNIST", folders=("FashionMNIST/raw",), foreign=""
)


def read(root: Path | None) -> Source:
    """Open Fashion-MNIST: its train split, then its test split, each in the order of its files.

    Args:
        root: folder that contains `FashionMNIST/raw/`, with plain or .gz files.  If it does not,
            torchvision downloads them into it.

    Raises:
        DataError: if there is no root, a file is damaged, or the download fails.
    """
    return mnist.read_idx_files(FASHION_MNIST, root)
