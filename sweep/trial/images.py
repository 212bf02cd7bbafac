"""A trial's images, batch by batch: on a GPU where they fit there, else out of the node's shared pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

HELD_SHARE = 0.25  # of a GPU's free memory, that one set of images may take

Indices = npt.NDArray[np.int64]


class Images:
    """Some images of a dataset, in some order; a slice of them is a tensor on the trial's device.

    A GPU holds all of them as long as they take at most `HELD_SHARE` of its free memory.  In all other
    cases a batch is copied when it is asked for, from the mapped cache, whose pages all trials of the
    node share and which may be larger than memory: nobody ever holds a copy of all images.  Both ways
    give the same tensors.
    """

    def __init__(self, pages: npt.NDArray[np.uint8], positions: Indices, device: torch.device) -> None:
        """
        Args:
            pages: uint8 [N, C, S, S], mapped.
            positions: which of them, [n].
            device: where batches are wanted.
        """
        self._pages = pages.view(np.ndarray)  # a memmap makes an object of its own for every batch
        self._positions = positions
        self._device = device
        self._held = self.whole() if _fits(len(positions) * self._pages[:1].nbytes, device) else None
        self._order: Tensor | None = None

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, chosen: slice) -> Tensor:
        """uint8 [B, C, S, S]."""
        if self._held is not None:
            return self._held[chosen] if self._order is None else self._held[self._order[chosen]]
        return torch.from_numpy(self._pages[self._positions[chosen]]).to(self._device)

    def reorder(self, order: npt.NDArray[Any]) -> Images:
        """The same images in another order, none copied.

        Args:
            order: a permutation of n.
        """
        arranged = object.__new__(Images)
        arranged.__dict__.update(self.__dict__)
        if self._held is not None:
            chosen = torch.from_numpy(order).to(self._device)
            arranged._order = chosen if self._order is None else self._order[chosen]
        arranged._positions = self._positions[order]
        return arranged

    def whole(self) -> Tensor:
        """All of them at once, uint8 [n, C, S, S], copied: for detectors that learn from all at once."""
        return torch.from_numpy(self._pages[self._positions]).to(self._device)


def _fits(size: int, device: torch.device) -> bool:
    return device.type == "cuda" and size <= HELD_SHARE * torch.cuda.mem_get_info(device)[0]
