"""What every detector is: the base class, how one is built, what its state is.

A detector of your own subclasses `Detector` and goes into a sweep as `package.module:Class`:

- with an `epochs` hyperparameter it is trained batch by batch: write `step`, and `begin_epoch` if
  epochs differ;
- without, it is handed all training images once: write `fit`;
- either way write `components`, the parts of its anomaly score;
- where it has them, `discriminator_features` and `reconstruction`, which figures are drawn from.

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
from models.components.numerics import arithmetic
from models.hyperparameters import CHANNELS, SIZES, NoHyperparameters


class Detector(nn.Module):
    """An anomaly detector for images [B, channels, size, size].

    Seed torch before building one: initial weights are drawn in the constructor.

    Attributes:
        Hyperparameters: frozen dataclass; fields of type bool, int, float or str with defaults.
        revision, lam, deterministic: of a user's own detector, what `models.catalog.DetectorInfo` and
            its `Variant` say of the built-in ones.  `lam` is lambda, the share of "reconstruction"
            in the score, None where `components` gives a single "score".
        score_batch: images that are scored at once, which changes no score; fewer where one takes seconds.
        mean, std: of the pixels in [0, 1], for `normalise`; 0.5 and 0.5 give [-1, 1].
        precision: arithmetic of `train_step`, one of `models.components.numerics.PRECISIONS`.
    """

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
        """Check and keep what the networks are built from.

        Args:
            channels: 1 or 3.
            size: height and width in pixels: 16, 32, 64, 128 or 256.
            hyperparameters: instance of `Hyperparameters`.
            variant: which rendering of the detector.
            dataset: its catalog name, for variants that treat one dataset in a way of its own.

        Raises:
            ValueError: if channels or size are not legal, listing the legal ones.
        """
        super().__init__()
        problems = []
        if channels not in CHANNELS:
            problems.append(f"channels={channels} is not legal: one of {', '.join(map(str, CHANNELS))}")
        if size not in SIZES:
            problems.append(f"size={size} is not legal: one of {', '.join(map(str, SIZES))}")
        if problems:
            raise ValueError("; ".join(problems))
        self.channels = channels
        self.size = size
        self.hyperparameters = hyperparameters
        self.variant = variant
        self.dataset = dataset

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels as the networks take them.

        Args:
            images: uint8 [B, channels, size, size], on any device.

        Returns:
            float32 of the same shape on the same device: (pixel / 255 - mean) / std.

        Raises:
            ValueError: on another dtype or shape.
        """
        self.check_images(images)
        return images.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)

    def check_images(self, images: Tensor) -> None:
        """Refuse what is not uint8 [B, channels, size, size] with B >= 1, by a ValueError."""
        self._check(images, torch.uint8)

    def fit(self, images: Tensor) -> None:
        """Learn from all training images at once: detectors without an `epochs` hyperparameter.

        Args:
            images: uint8 [N, channels, size, size], N >= 1.
        """
        raise NotImplementedError(f"{type(self).__name__} is trained by epochs: call train_step")

    def begin_epoch(self, epoch: int) -> None:
        """Prepare for an epoch, such as by its learning rate; does nothing unless a detector says otherwise.

        The training loop calls it before the first step of every epoch, and again when it resumes
        within one: what it sets must depend on the epoch and the hyperparameters alone.

        Args:
            epoch: 0, 1, ...
        """

    def train_step(self, batch: Tensor) -> dict[str, Tensor]:
        """One optimiser step in training mode: detectors with an `epochs` hyperparameter.

        Args:
            batch: float32 [B, channels, size, size] as `normalise` gives it.

        Returns:
            scalar losses by name, detached, on the batch's device; nothing waits for the device.

        Raises:
            ValueError: on another dtype or shape.
        """
        self._check(batch, torch.float32)
        self.train()
        with arithmetic(self.precision, batch.device.type):
            return {name: loss.detach() for name, loss in self.step(batch).items()}

    def score(self, batch: Tensor) -> dict[str, Tensor]:
        """Score components of each image; higher is more abnormal.

        In evaluation mode and without gradients, so an image's score does not depend on its batch
        mates, and nothing in the detector changes.

        Args:
            batch: float32 [B, channels, size, size] as `normalise` gives it, B >= 1.

        Returns:
            float32 [B] each: "reconstruction" and "latent", or a single "score".

        Raises:
            ValueError: on another dtype or shape.
        """
        self._check(batch, torch.float32)
        with self.evaluating():
            return self.components(batch)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """In evaluation mode and without gradients; every module's mode is as before at the end."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def score_in_training_mode(self, batch: Tensor) -> dict[str, Tensor]:
        """`score` as published code takes it: BatchNorm normalises by the batch, and its statistics move.

        Scores depend on batch mates, and the detector is changed: for a copy.  Dropout stays off.

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
        """Whether `score_in_training_mode` differs from `score` at all."""
        return any(True for _ in self._batch_norms())

    def step(self, batch: Tensor) -> dict[str, Tensor]:
        """What `train_step` does, to be written by a detector: losses, gradients, optimiser steps."""
        raise NotImplementedError(f"{type(self).__name__} has no training step: call fit")

    def components(self, batch: Tensor) -> dict[str, Tensor]:
        """What `score` does, to be written by a detector; must draw no random number."""
        raise NotImplementedError(f"{type(self).__name__} has no components to score by")

    def discriminator_features(self, batch: Tensor) -> Tensor | None:
        """What the discriminator judges by, float32 [B, F]; None for a detector without one.

        For figures, within `evaluating`; must draw no random number.

        Args:
            batch: float32 [B, channels, size, size] as `normalise` gives it.
        """
        return None

    def reconstruction(self, batch: Tensor) -> Tensor | None:
        """What the detector makes of images, of the batch's shape and scale; None for one that makes none.

        For figures, within `evaluating`; must draw no random number.

        Args:
            batch: float32 [B, channels, size, size] as `normalise` gives it.
        """
        return None

    def counters(self) -> dict[str, int]:
        """Events worth a column in the history, counted since the start; waits for the device."""
        return {}

    def training_state(self) -> dict[str, Any]:
        """A copy of all that the next step depends on, except torch's global random state.

        Returns:
            nested dicts of tensors and plain values: `torch.load(..., weights_only=True)` reads it.
        """
        optimisers = {name: _copy(found.state_dict()) for name, found in self._optimisers().items()}
        return {"weights": _copy(dict(self.state_dict())), "optimisers": optimisers}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Go on where `training_state` was taken, bit for bit; the detector must be built alike."""
        self.load_weights(state["weights"])
        for name, optimiser in self._optimisers().items():
            optimiser.load_state_dict(_copy(state["optimisers"][name]))

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over the `state_dict` of a detector that was built alike, e.g. to score with it.

        Raises:
            RuntimeError: it is that of another network; names each difference.
        """
        for name, buffer in self.named_buffers():
            if name in weights and buffer.shape != weights[name].shape:
                buffer.data = buffer.new_empty(weights[name].shape)  # `fit` chose the shape
        self.load_state_dict(weights)

    def _batch_norms(self) -> Iterator[nn.Module]:
        return (module for module in self.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))

    def _optimisers(self) -> dict[str, Adam | torch.optim.Optimizer]:
        return {n: found for n, found in vars(self).items() if isinstance(found, Adam | torch.optim.Optimizer)}

    def _check(self, images: Tensor, dtype: torch.dtype) -> None:
        shape = (self.channels, self.size, self.size)
        if images.dtype != dtype or images.dim() != 4 or tuple(images.shape[1:]) != shape or not len(images):
            raise ValueError(
                f"{type(self).__name__} takes {dtype} images [B, {self.channels}, {self.size}, {self.size}]"
                f" with B >= 1, got {images.dtype} {list(images.shape)}"
            )


def _copy(state: Any) -> Any:
    """`state` with every tensor cloned, so that training on does not change it."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: _copy(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_copy(value) for value in state)
    return state
