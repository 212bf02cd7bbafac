"""PCA: squared distance to the plane of the leading principal components.

The linear autoencoder.  What a deep one adds, it must show against this.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.defaults import PCAHyperparameters
from models.detector import Detector

LARGEST = 3072  # pixels or images whose products with each other are decomposed: 32 * 32 * 3
CHUNK = 4096  # images held in floating point at once


class PCA(Detector):
    """Scores the mean squared residual over pixels in [-1, 1], after projection.

    Up to 3072 pixels the covariance of all training images is decomposed.  Beyond, the products of
    at most 3072 training images, evenly spaced, with each other: the same plane where there are no
    more.  Fewer images than components leave fewer components.
    """

    Hyperparameters = PCAHyperparameters
    average: Tensor
    basis: Tensor

    def __init__(
        self,
        channels: int,
        size: int,
        hyperparameters: PCAHyperparameters,
        variant: str = "plain",
        dataset: str = "",
    ) -> None:
        super().__init__(channels, size, hyperparameters, variant, dataset)
        pixels = channels * size * size
        self.register_buffer("average", torch.zeros(pixels, dtype=torch.float64))
        self.register_buffer("basis", torch.zeros(0, pixels, dtype=torch.float64))

    def fit(self, images: Tensor) -> None:
        """Mean and basis of [N, C, S, S], in float64."""
        self.check_images(images)
        pixels = images[0].numel()
        if pixels > LARGEST:
            images = images[:: -(-len(images) // LARGEST)]
        total = images.sum(0, dtype=torch.int64).flatten()
        self.average = total.to(torch.float64) / len(images) / 127.5 - 1
        components = min(self.hyperparameters.components, len(images) - 1, pixels)
        if pixels > LARGEST:
            self.basis = self._basis_from_products(images, components)
        else:
            self.basis = self._basis_from_covariance(images, components)

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Mean squared residual, [B]."""
        centred = self._center(batch)
        residual = centred - (centred @ self.basis.T) @ self.basis
        return {"score": residual.square().mean(1).to(torch.float32)}

    def reconstruction(self, batch: Tensor) -> Tensor:
        """The projection onto the plane."""
        projected = (self._center(batch) @ self.basis.T) @ self.basis + self.average
        return projected.to(batch.dtype).view_as(batch)

    def _basis_from_covariance(self, images: Tensor, components: int) -> Tensor:
        """Leading eigenvectors of the pixels' covariance, [components, pixels]."""
        covariance = self.average.new_zeros(len(self.average), len(self.average))
        for part in torch.split(images, CHUNK):
            centred = self._center(self.normalise(part))
            covariance.addmm_(centred.T, centred)
        _, vectors = torch.linalg.eigh(covariance)
        leading: Tensor = vectors[:, len(vectors) - components :]
        return leading.T.contiguous()

    def _basis_from_products(self, images: Tensor, components: int) -> Tensor:
        """The same from the images' products with each other, of which there are fewer."""
        centred = self._center(self.normalise(images))
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        kept = vectors[:, values > values[-1] * 1e-12][:, -components:] if components else vectors[:, :0]
        return functional.normalize(kept.T @ centred, dim=1)

    def _center(self, batch: Tensor) -> Tensor:
        return batch.flatten(1).to(torch.float64) - self.average
