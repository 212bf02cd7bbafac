"""PCA: squared distance to the subspace of the leading principal components.

PCA is the linear autoencoder: this baseline shows how much a deep autoencoder adds.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.defaults import PCAHyperparameters
from models.detector import Detector
from models.hyperparameters import ANY_SIZE

LARGEST = 3072  # largest side of a matrix that is decomposed: 32 * 32 * 3
CHUNK = 4096  # images that are in floating point at once


class PCA(Detector):
    """Baseline whose score is the mean squared residual after projection, over pixels in [-1, 1].

    For images of up to 3072 pixels, the covariance of the pixels over all training images is decomposed.
    For larger images, the products of at most 3072 training images, evenly spaced, with each other are
    decomposed; the subspace is the same if there are no more images than that.  If there are not more
    training images than components, there are fewer components.
    """

    sizes = ANY_SIZE
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
        """Compute mean and basis of images [N, C, S, S], in float64."""
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
        """Compute the mean squared residual, [B]."""
        centred = self._center(batch)
        residual = centred - (centred @ self.basis.T) @ self.basis
        return {"score": residual.square().mean(1).to(torch.float32)}

    def codes(self, batch: Tensor) -> Tensor:
        """Return the coordinates in the subspace, float64 [B, components]."""
        return self._center(batch) @ self.basis.T

    def reconstruction(self, batch: Tensor) -> Tensor:
        """Return the projection onto the subspace."""
        projected = (self._center(batch) @ self.basis.T) @ self.basis + self.average
        return projected.to(batch.dtype).view_as(batch)

    def _basis_from_covariance(self, images: Tensor, components: int) -> Tensor:
        """Return the leading eigenvectors of the pixels' covariance, [components, pixels]."""
        covariance = self.average.new_zeros(len(self.average), len(self.average))
        for part in torch.split(images, CHUNK):
            centred = self._center(self.normalise(part))
            covariance.addmm_(centred.T, centred)
        _, vectors = torch.linalg.eigh(covariance)
        leading: Tensor = vectors[:, len(vectors) - components :]
        return leading.T.contiguous()

    def _basis_from_products(self, images: Tensor, components: int) -> Tensor:
        """Return the same eigenvectors from the products of the images, a smaller matrix for large images."""
        centred = self._center(self.normalise(images))
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        kept = vectors[:, values > values[-1] * 1e-12][:, -components:] if components else vectors[:, :0]
        return functional.normalize(kept.T @ centred, dim=1)

    def _center(self, batch: Tensor) -> Tensor:
        return batch.flatten(1).to(torch.float64) - self.average
