"""Example of an adapter for a detector of anomalib: PatchCore, `tests.anomalib_detector:PatchCore`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
from torch import Tensor
from torch.nn import functional

from models.detector import Detector


class PatchCore(Detector):
    """PatchCore of anomalib: distance of an image's patches to a memory of normal patches."""

    @dataclass(frozen=True)
    class Hyperparameters:
        backbone: str = "resnet18"
        pretrained: bool = True  # timm downloads the weights to every machine
        resolution: int = 224
        share: float = 0.1  # of the patches that stay in the memory
        neighbours: int = 9

    mean, std = 0.0, 1.0  # `normalise` gives pixels in [0, 1]
    score_batch = 32

    def __init__(self, channels: int, size: int, hyperparameters: Hyperparameters, **where: Any) -> None:
        super().__init__(channels, size, hyperparameters, **where)
        h = hyperparameters
        self.model = PatchcoreModel(["layer2", "layer3"], h.backbone, h.pretrained, h.neighbours)
        self.model.memory_bank = torch.empty(0, 0)

    def fit(self, images: Tensor) -> None:
        self.model.train()
        self.model.feature_extractor.eval()
        for batch in torch.split(images, self.score_batch):
            self.model(self.enlarge(self.normalise(batch)))
        np.random.seed(int(torch.randint(2**31, ())))  # anomalib draws from numpy, and the trial's seed is torch's
        self.model.subsample_embedding(self.hyperparameters.share)

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        return {"score": self.model(self.enlarge(batch)).pred_score}

    def enlarge(self, batch: Tensor) -> Tensor:
        scale = batch.new_tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
        side = self.hyperparameters.resolution
        return (functional.interpolate(batch.expand(-1, 3, -1, -1), side, mode="bilinear") - scale[0]) / scale[1]
