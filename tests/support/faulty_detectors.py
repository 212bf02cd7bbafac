"""Detectors that fail in typical ways, and one that logs every step that it trains."""

from __future__ import annotations

import ctypes
import hashlib
import os
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.detector import Detector


@dataclass(frozen=True)
class Brief:
    """Hyperparameters of a detector that will fail."""

    epochs: int = 2
    batch_size: int = 64


class _Faulty(Detector):
    Hyperparameters = Brief

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        return {"score": batch.mean((1, 2, 3))}


class Raises(_Faulty):
    """Detector that raises an exception in its first step."""

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        raise ArithmeticError("this detector fails on purpose")


class Dies(_Faulty):
    """Detector that ends its process in its first step."""

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        os._exit(7)


class Segfaults(_Faulty):
    """Detector that reads an invalid address, which kills its process."""

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        ctypes.string_at(0)
        raise AssertionError("unreachable")


class RunsOutOfMemory(_Faulty):
    """Detector that allocates more memory than any machine has."""

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        return {"loss": torch.empty(1 << 58).sum()}


class Hangs(_Faulty):
    """Detector whose first step never returns."""

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        while True:
            time.sleep(0.05)


class Hoards(_Faulty):
    """Detector that allocates HOARD_BYTES of memory in small pieces, until it is stopped."""

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        hoard: list[bytes] = []
        while len(hoard) * 50_000_000 < int(os.environ["HOARD_BYTES"]):
            hoard.append(b"x" * 50_000_000)
            time.sleep(0.02)
        time.sleep(60)
        raise AssertionError("it was not stopped")


class Logged(Detector):
    """A tiny autoencoder that appends a line to the file TRAINED_LOG for every step that it trains.

    A line is `identity step`.  The identity is a hash of the trial's first batch and initial weights.  It is
    stored in the resume state, so that the lines of one trial can be found even if several processes trained it.
    """

    @dataclass(frozen=True)
    class Hyperparameters:
        epochs: int = 4
        batch_size: int = 64
        nz: int = 4
        pause: float = 0.0

    identity: Tensor
    steps: Tensor

    def __init__(self, channels: int, size: int, hyperparameters: Any, **where: Any) -> None:
        super().__init__(channels, size, hyperparameters, **where)
        pixels = channels * size * size
        self.encode, self.decode = (
            nn.Linear(pixels, hyperparameters.nz),
            nn.Linear(hyperparameters.nz, pixels),
        )
        self.optimiser = torch.optim.Adam(self.parameters(), lr=1e-2)
        self.register_buffer("identity", torch.zeros((), dtype=torch.int64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: Tensor) -> Tensor:
        restored: Tensor = self.decode(self.encode(batch.flatten(1)))
        return restored.view_as(batch)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        if not self.steps:
            digest = hashlib.sha256(batch.numpy().tobytes() + self.encode.weight.detach().numpy().tobytes())
            self.identity.fill_(int.from_bytes(digest.digest()[:7], "big"))
        self.steps += 1
        loss = (self(batch + 0.1 * torch.randn_like(batch)) - batch).square().mean()
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        time.sleep(self.hyperparameters.pause)
        if path := os.environ.get("TRAINED_LOG"):
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, f"{int(self.identity)} {int(self.steps)}\n".encode())
            os.close(descriptor)
        return {"loss": loss}

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        return {"score": (self(batch) - batch).square().mean((1, 2, 3))}
