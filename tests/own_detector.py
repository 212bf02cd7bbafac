"""Example of a user's own detector: a denoising autoencoder, `tests.own_detector:DenoisingAutoencoder`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.detector import Detector


class DenoisingAutoencoder(Detector):
    """Autoencoder that learns to remove noise from normal images; its score is the squared error of its output."""

    @dataclass(frozen=True)
    class Hyperparameters:
        epochs: int = 10
        batch_size: int = 64
        lr: float = 1e-3
        width: int = 16
        noise: float = 0.3

    def __init__(self, channels: int, size: int, hyperparameters: Hyperparameters, **where: Any) -> None:
        super().__init__(channels, size, hyperparameters, **where)
        width, self.noise = hyperparameters.width, hyperparameters.noise
        self.network = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, 2, 1), nn.Tanh(),
        )  # fmt: skip
        self.optimiser = torch.optim.Adam(self.parameters(), lr=hyperparameters.lr)

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        noisy = batch + self.noise * torch.randn_like(batch)
        loss = functional.mse_loss(self.network(noisy), batch)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        return {"loss": loss}

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        return {"score": (self.network(batch) - batch).square().flatten(1).mean(1)}
