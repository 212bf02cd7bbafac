"""Detectors that fail in typical ways, and one that logs every step that it trains."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
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


class Spoils(_Faulty):
    """Detector that changes what belongs to its whole process, as far as its own trial survives that."""

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        torch.set_flush_denormal(True)
        torch.set_num_threads(2)
        torch.set_float32_matmul_precision("medium")
        torch._C._set_mkldnn_enabled(False)
        torch.use_deterministic_algorithms(True)
        nn.ConvTranspose2d.forward = nn.Conv2d.forward  # type: ignore[assignment,method-assign]  # no state tells it
        os.umask(0o777)
        os.environ["OMP_NUM_THREADS"] = "2"
        torch.set_grad_enabled(False)
        return {"loss": batch.mean()}


class LeavesChildren(_Faulty):
    """Detector that starts a process in a session of its own, and appends its id to the file CHILDREN."""

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        with open(os.environ["CHILDREN"], "a") as file:
            file.write(f"{child.pid}\n")
        return {"loss": batch.mean()}


class ClosesFiles(_Faulty):
    """Detector that closes the standard output and errors of its process."""

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        for descriptor in (1, 2):
            with suppress(OSError):
                os.close(descriptor)
        return {"loss": batch.mean()}


class Floods(_Faulty):
    """Detector that prints FLOOD_BYTES, and appends the bytes that its launch has on the disk to the file FLOODED."""

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        line = b"x" * 999 + b"\n"
        for _ in range(int(os.environ["FLOOD_BYTES"]) // len(line)):
            os.write(1, line)
        taken = sum(file.stat().st_blocks * 512 for file in Path(os.environ["SWEEP_SCRATCH"]).rglob("*.out*"))
        with open(os.environ["FLOODED"], "a") as file:
            file.write(f"{taken}\n")
        return {"loss": batch.mean()}


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
