"""Base class of all detectors: construction, training, scoring and state.

To add a detector of your own, write a subclass of `Detector` and name it in a sweep as `package.module:Class`:

- If it has a hyperparameter `epochs`, it is trained batch by batch: write `step`, and `begin_epoch` if
  epochs differ.
- If it has none, it gets all training images at once: write `fit`.
- In both cases write `components`, which returns the components of its anomaly score.
- Optionally write `discriminator_features` and `reconstruction`, from which figures are drawn.

Weights, buffers and every optimiser that is an attribute (`models.components.adam.Adam`, or torch's) are saved and
resumed without more code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from models.components.adam import Adam
from models.components.numerics import use_precision
from models.hyperparameters import CHANNELS, SIZES, NoHyperparameters


class Detector(nn.Module):
    """An anomaly detector for images [B, channels, size, size].

    Seed torch before building one, because the constructor draws initial weights.

    Attributes:
        sizes: legal heights and widths of images in pixels; `ANY_SIZE` for a detector that 28 x 28 fits, too.
        Hyperparameters: frozen dataclass; fields of type bool, int, float or str with defaults.
        revision, lam, deterministic: for a user's own detector, the values that built-in detectors have in
            `models.info.DetectorInfo` and `models.info.Variant`.  `lam` is lambda, the share of
            "reconstruction" in the score; None if `components` returns a single "score".
        score_batch: number of images that are scored at once; it does not change scores.  It is smaller for
            detectors that need seconds per image.
        mean, std: mean and deviation of pixels in [0, 1], for `normalise`; 0.5 and 0.5 give [-1, 1].
        precision: arithmetic of `train_step`, one of `models.components.numerics.PRECISIONS`.
    """

    sizes: ClassVar[tuple[int, ...]] = SIZES
    Hyperparameters: ClassVar[type[Any]] = NoHyperparameters
    revision: ClassVar[int] = 1
    lam: ClassVar[float | None] = None
    deterministic: ClassVar[bool] = False
    score_batch: int = 256
    mean: float = 0.5
    std: float = 0.5
    precision: str = "float32"

    def __init__(
        self, channels: int, size: int, hyperparameters: Any, variant: str = "plain", dataset: str = ""
    ) -> None:
        """Check and store the arguments.

        Args:
            channels: 1 or 3.
            size: height and width in pixels, one of `sizes`.
            hyperparameters: instance of `Hyperparameters`.
            variant: variant of the detector.
            dataset: catalog name of the dataset, for variants that treat one dataset differently.

        Raises:
            ValueError: if channels or size are not legal; the message lists the legal values.
        """
        super().__init__()
        problems = []
        if channels not in CHANNELS:
            problems.append(f"channels={channels} is not legal: use one of {', '.join(map(str, CHANNELS))}")
        if size not in self.sizes:
            problems.append(f"size={size} is not legal: use one of {', '.join(map(str, self.sizes))}")
        if problems:
            raise ValueError("; ".join(problems))
        self.channels = channels
        self.size = size
        self.hyperparameters = hyperparameters
        self.variant = variant
        self.dataset = dataset

    def normalise(self, images: Tensor) -> Tensor:
        """Scale pixels to the range that the networks expect.

        Args:
            images: uint8 [B, channels, size, size], on any device.

        Returns:
            float32 of the same shape on the same device: (pixel / 255 - mean) / std.

        Raises:
            ValueError: if the images have another dtype or shape.
        """
        self.check_images(images)
        return images.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)

    def check_images(self, images: Tensor) -> None:
        """Raise a ValueError unless the images are uint8 [B, channels, size, size] with B >= 1."""
        self._check(images, torch.uint8)

    def fit(self, images: Tensor) -> None:
        """Learn from all training images at once, in detectors without the hyperparameter `epochs`.

        Args:
            images: uint8 [N, channels, size, size], N >= 1.
        """
        raise NotImplementedError(f"{type(self).__name__} is trained by epochs: call train_step")

    def begin_epoch(self, epoch: int) -> None:
        """Prepare for an epoch, for example set its learning rate; the base class does nothing.

        The training loop calls it before the first step of every epoch, and again when it resumes in
        the middle of an epoch.  So all that it sets must depend on the epoch and the hyperparameters alone.

        Args:
            epoch: number of the epoch: 0, 1, ...
        """

    def train_step(self, batch: Tensor) -> dict[str, Tensor]:
        """Make one training step, in detectors with the hyperparameter `epochs`.

        The call does not wait for the device.

        Args:
            batch: float32 [B, channels, size, size], as `normalise` returns it.

        Returns:
            scalar losses by name, detached, on the batch's device.

        Raises:
            ValueError: if the batch has another dtype or shape.
        """
        self._check(batch, torch.float32)
        self.train()
        with use_precision(self.precision, batch.device.type):
            return {name: loss.detach() for name, loss in self.step(batch).items()}

    def score(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute the score components of each image; higher is more abnormal.

        The detector is in evaluation mode and computes no gradients.  So the score of an image does not
        depend on the other images of the batch, and the detector does not change.

        Args:
            batch: float32 [B, channels, size, size], as `normalise` returns it, B >= 1.

        Returns:
            "reconstruction" and "latent", or a single "score"; float32 [B] each.

        Raises:
            ValueError: if the batch has another dtype or shape.
        """
        self._check(batch, torch.float32)
        with self.evaluating():
            return self.components(batch)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Switch to evaluation mode without gradients for the `with` block, then restore every module's mode."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def score_in_training_mode(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute scores as published code does: BatchNorm normalises by the batch and updates its statistics.

        Dropout stays off.  A score depends on the other images of the batch, and the call changes the
        detector, so call it on a copy.

        Args, Returns, Raises:
            as `score`.
        """
        self._check(batch, torch.float32)
        self.eval()
        for module in self._batch_norms():
            module.train()
        with torch.no_grad():
            return self.components(batch)

    @property
    def normalises_by_batch(self) -> bool:
        """True if the detector has BatchNorm, so that `score_in_training_mode` differs from `score`."""
        return any(True for _ in self._batch_norms())

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute losses and gradients and make the optimiser steps of `train_step`; each detector implements it.

        The detector is in training mode.

        Args:
            batch: float32 [B, channels, size, size], as `normalise` returns it.

        Returns:
            scalar losses by name.
        """
        raise NotImplementedError(f"{type(self).__name__} has no training step: call fit")

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """Compute the components that `score` returns; each detector implements it, without drawing random numbers.

        Args, Returns:
            as `score`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no components to score by")

    def discriminator_features(self, batch: Tensor) -> Tensor | None:
        """Return the discriminator's features, float32 [B, F]; None for a detector without a discriminator.

        Figures are drawn from them.  Call it inside `evaluating`; it must not draw random numbers.

        Args:
            batch: float32 [B, channels, size, size], as `normalise` returns it.
        """
        return None

    def reconstruction(self, batch: Tensor) -> Tensor | None:
        """Return reconstructed images with the batch's shape and scale; None for a detector that makes none.

        Figures are drawn from them.  Call it inside `evaluating`; it must not draw random numbers.

        Args:
            batch: float32 [B, channels, size, size], as `normalise` returns it.
        """
        return None

    def counters(self) -> dict[str, int]:
        """Return counts of events since the start of training, each a column of the history; waits for the device."""
        return {}

    def training_state(self) -> dict[str, Any]:
        """Return a copy of everything on which the next step depends, except torch's global random state.

        Returns:
            nested dicts of tensors and plain values, which `torch.load(..., weights_only=True)` can read.
        """
        optimisers = {name: _copy(optimiser.state_dict()) for name, optimiser in self._optimisers().items()}
        return {"weights": _copy(dict(self.state_dict())), "optimisers": optimisers}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore a `training_state`, so that training continues bit for bit.

        The detector must be built with the same arguments as the one that gave the state.
        """
        self.load_weights(state["weights"])
        for name, optimiser in self._optimisers().items():
            optimiser.load_state_dict(_copy(state["optimisers"][name]))

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Load the `state_dict` of a detector that was built with the same arguments, for example to score with it.

        Raises:
            RuntimeError: if the weights belong to another network; the message names each difference.
        """
        for name, buffer in self.named_buffers():
            if name in weights and not buffer.numel() and buffer.dim() == weights[name].dim():
                buffer.data = buffer.new_empty(weights[name].shape)  # empty until `fit`, which decides the shape
        self.load_state_dict(weights)

    def _batch_norms(self) -> Iterator[nn.Module]:
        return (module for module in self.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))

    def _optimisers(self) -> dict[str, Adam | torch.optim.Optimizer]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Adam | torch.optim.Optimizer)}

    def _check(self, images: Tensor, dtype: torch.dtype) -> None:
        shape = (self.channels, self.size, self.size)
        if images.dtype != dtype or images.dim() != 4 or tuple(images.shape[1:]) != shape or not len(images):
            raise ValueError(
                f"{type(self).__name__} needs {dtype} images [B, {self.channels}, {self.size}, {self.size}]"
                f" with B >= 1, but got {images.dtype} {list(images.shape)}"
            )


def _copy(state: Any) -> Any:
    """Return a copy of nested state with every tensor cloned, so that further training does not change it."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: _copy(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_copy(value) for value in state)
    return state
