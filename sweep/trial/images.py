"""Images of a trial, batch by batch: held on the GPU if they fit there, otherwise read from the node's shared cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

HELD_SHARE = 0.25  # share of a GPU's free memory that one set of images may take

Indices = npt.NDArray[np.int64]


class Images:
    """Some images of a dataset, in some order.  A slice of them is a tensor on the trial's device.

    A GPU holds all of them if they take at most `HELD_SHARE` of its free memory.  Otherwise each batch is
    copied on request from the memory-mapped cache.  All trials of the node share the pages of that cache,
    which may be larger than memory, and no trial ever holds a copy of all images.  Both ways give the same
    tensors.
    """

    def __init__(self, pages: npt.NDArray[np.uint8], positions: Indices, device: torch.device) -> None:
        """
        Args:
            pages: uint8 [N, C, S, S], memory-mapped.
            positions: positions of the images in `pages`, [n].
            device: device on which batches are wanted.
        """
        self._pages = pages.view(np.ndarray)  # as a memmap, every batch would be a new memmap object
        self._positions = positions
        self._device = device
        self._held = self.whole() if _fits(len(positions) * self._pages[:1].nbytes, device) else None
        self._order: Tensor | None = None

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, chosen: slice) -> Tensor:
        """Return the images of a slice, uint8 [B, C, S, S], on the device."""
        if self._held is not None:
            return self._held[chosen] if self._order is None else self._held[self._order[chosen]]
        return torch.from_numpy(self._pages[self._positions[chosen]]).to(self._device)

    def reorder(self, order: npt.NDArray[Any]) -> Images:
        """Return the same images in another order, without copying them.

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
        """Return a copy of all images, uint8 [n, C, S, S], on the device: for detectors that learn from all at once."""
        return torch.from_numpy(self._pages[self._positions]).to(self._device)


def _fits(size: int, device: torch.device) -> bool:
    return device.type == "cuda" and size <= HELD_SHARE * torch.cuda.mem_get_info(device)[0]
