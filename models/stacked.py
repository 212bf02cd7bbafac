"""Several detectors that differ in their seeds alone, trained as one: the seeds of one cell.

A small network keeps no GPU busy: launching its kernels takes longer than running them.  Here k networks
are one, whose every tensor has a dimension more, the first, and whose every kernel does the work of k.

A detector's own `step` runs, as it is written, on batches [k, B, C, S, S]:

- its networks are replaced by `StackedNetwork`s, which torch.vmap maps over the stack, so convolutions
  become grouped ones and BatchNorm normalises each detector by its own batch;
- methods that reduce over images give a loss for each detector, [k], again by torch.vmap;
- methods that draw random numbers or decide by a value are called on each detector alone, with a random
  state of its own;
- Adam works number by number, and needs no change.

No number of one detector meets one of another, so each learns what it would learn alone, up to the rounding
of other kernels.  Meanwhile every detector's weights and buffers are slices of the stack: it may be scored
at any time, but not trained alone before `StackedDetectors.split`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from models.autoencoder import Autoencoder
from models.components.adam import Adam
from models.components.convolution import Conv2d, ConvTranspose2d
from models.components.numerics import arithmetic
from models.detector import Detector
from models.ganomaly import GANomaly
from models.skip_ganomaly import SkipGANomaly


@dataclass(frozen=True)
class Methods:
    """Which methods of a detector's step take more than networks and arithmetic number by number.

    Attributes:
        mapped: reduce over the images of a batch; tensors to tensors.
        alone: draw random numbers or decide by a value; of one argument.
    """

    mapped: tuple[str, ...]
    alone: tuple[str, ...] = ()


STACKABLE: dict[type[Detector], Methods] = {
    GANomaly: Methods(
        mapped=("adversarial_loss", "generator_losses", "discriminator_losses"),
        alone=("renew_discriminator",),
    ),
    SkipGANomaly: Methods(
        mapped=("latent_loss", "generator_losses", "discriminator_losses"),
        alone=("add_noise", "renew_discriminator"),
    ),
    Autoencoder: Methods(mapped=("reconstruction_loss",)),
}


class StackedDetectors:
    """k detectors of one class, shape, variant and set of hyperparameters, trained together.

    Attributes:
        detectors: in the order of the stack; score them at any time.
    """

    def __init__(self, detectors: Sequence[Detector], random_states: Sequence[RandomState]) -> None:
        """Take over the tensors of the detectors.

        Args:
            detectors: on one device, trained for equally many steps or not at all.
            random_states: one for each, as it was after the detector was built or last trained.

        Raises:
            ValueError: the detectors differ in more than their seeds, or are of a class that cannot be stacked.
        """
        _check(detectors)
        self.detectors = list(detectors)
        self.random_states = list(random_states)
        first = self.detectors[0]
        stacked = copy.deepcopy(first)  # takes the steps
        for name, _ in first.named_children():
            setattr(stacked, name, StackedNetwork.of([getattr(detector, name) for detector in detectors]))
        twins: dict[int, Tensor] = dict(zip(map(id, first.parameters()), stacked.parameters(), strict=True))
        for name in _optimisers(first):
            setattr(stacked, name, _stack_optimisers([getattr(detector, name) for detector in detectors], twins))
        methods = STACKABLE[type(first)]
        for name in methods.mapped:
            setattr(stacked, name, torch.vmap(getattr(stacked, name)))
        for name in methods.alone:
            setattr(stacked, name, self._alone(name))
        self.stacked = stacked

    @classmethod
    def build(
        cls, make: Callable[[], Detector], seeds: Sequence[int], device: torch.device | None = None
    ) -> StackedDetectors:
        """A detector for each seed, exactly as `torch.manual_seed(seed)` and `make()` give one alone."""
        device = device or torch.device("cpu")
        detectors, states = [], []
        for seed in seeds:
            state = RandomState(device)
            with state.used():
                torch.manual_seed(seed)
                detectors.append(make().to(device))
            states.append(state)
        return cls(detectors, states)

    def begin_epoch(self, epoch: int) -> None:
        """As `Detector.begin_epoch`."""
        self.stacked.begin_epoch(epoch)

    def normalise(self, images: Tensor) -> Tensor:
        """As `Detector.normalise`, of uint8 [k, B, channels, size, size]."""
        return self.stacked.normalise(images.flatten(0, 1)).view(images.shape)

    def train_step(self, batches: Tensor) -> dict[str, Tensor]:
        """One optimiser step of every detector, each on its own batch.

        Args:
            batches: float32 [k, B, channels, size, size] as `normalise` gives it.

        Returns:
            losses [k] by name, detached.

        Raises:
            ValueError: on another dtype or shape.
        """
        first = self.detectors[0]
        shape = (len(self.detectors), first.channels, first.size, first.size)
        found = (batches.shape[0], *batches.shape[2:])
        if batches.dtype != torch.float32 or found != shape or not batches.shape[1]:
            raise ValueError(
                f"{shape[0]} stacked detectors take float32 images [{shape[0]}, B, {', '.join(map(str, shape[1:]))}]"
                f" with B >= 1, got {batches.dtype} {list(batches.shape)}"
            )
        self.stacked.train()
        with arithmetic(first.precision, batches.device.type):
            return {name: loss.detach() for name, loss in self.stacked.step(batches).items()}

    def split(self) -> list[Detector]:
        """The detectors, each with tensors and optimisers of its own; ends the stack."""
        for place, detector in enumerate(self.detectors):
            for tensor in (*detector.parameters(), *detector.buffers()):
                tensor.data = tensor.data.clone()
            for name, optimiser in _optimisers(detector).items():
                of_all: Adam = getattr(self.stacked, name)
                optimiser.lr = of_all.lr
                optimiser.moments = {
                    parameter: (count.clone(), first[place].clone(), second[place].clone())
                    for parameter, (count, first, second) in of_all.moments.items()
                }
        detectors, self.detectors = self.detectors, []
        return detectors

    def _alone(self, name: str) -> Callable[[Any], Any]:
        """A method called on each detector alone; tensors of argument and result are [k, ...]."""

        def call(argument: Any) -> Tensor | None:
            results = []
            for place, (detector, state) in enumerate(zip(self.detectors, self.random_states, strict=True)):
                own = tree_map(lambda tensor, place=place: tensor[place], argument)
                with state.used():
                    results.append(getattr(detector, name)(own))
            return None if results[0] is None else torch.stack(results)

        return call


class StackedNetwork(nn.Module):
    """k networks alike as one: inputs and outputs are those of one network with k as a first dimension.

    Args:
        layers: a network of which all parameters and buffers are [k, ...].
    """

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        self.state = {**dict(layers.named_parameters()), **dict(layers.named_buffers())}

    @classmethod
    def of(cls, networks: Sequence[nn.Module]) -> StackedNetwork:
        """Stack the networks' tensors, and make those of the networks slices of the stack."""
        layers = copy.deepcopy(networks[0])
        for path, layer in layers.named_modules():
            alike = [network.get_submodule(path) for network in networks]
            for name, parameter in layer.named_parameters(recurse=False):
                layer.register_parameter(name, nn.Parameter(_stack(alike, name), parameter.requires_grad))
            for name, _ in layer.named_buffers(recurse=False):
                layer.register_buffer(name, _stack(alike, name))
            if type(layer) in PLAIN:
                layer.__class__ = PLAIN[type(layer)]
        return cls(layers)

    @property
    def features(self) -> StackedNetwork:
        """Of stacked `networks.Discriminator`s: their features alone."""
        part = self.layers.features
        assert isinstance(part, nn.Module)
        return StackedNetwork(part)

    def forward(self, *inputs: Tensor) -> Any:
        """Inputs [k, B, ...] to outputs [k, B, ...]."""
        return torch.vmap(lambda state, *inputs: functional_call(self.layers, state, inputs))(self.state, *inputs)


# Products written out for one network's batch, which torch cannot map: in a stack they are torch's own layers.
PLAIN: dict[type[nn.Module], type[nn.Module]] = {Conv2d: nn.Conv2d, ConvTranspose2d: nn.ConvTranspose2d}


class RandomState:
    """Torch's random state on the CPU and one device, in use only now and then."""

    def __init__(self, device: torch.device) -> None:
        """The state as it is now."""
        self.device = device
        self._keep()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Draw from this state, and leave torch's own as it was."""
        devices = [] if self.device.type == "cpu" else [self.device]
        with torch.random.fork_rng(devices, device_type=self.device.type):
            torch.set_rng_state(self._cpu)
            if self._accelerator is not None:
                torch.get_device_module(self.device).set_rng_state(self._accelerator, self.device)
            yield
            self._keep()

    def _keep(self) -> None:
        self._cpu = torch.get_rng_state()
        on_cpu = self.device.type == "cpu"
        self._accelerator = None if on_cpu else torch.get_device_module(self.device).get_rng_state(self.device)


def _check(detectors: Sequence[Detector]) -> None:
    if not detectors:
        raise ValueError("no detectors to stack")
    kind = type(detectors[0])
    if kind not in STACKABLE:
        legal = ", ".join(known.__name__ for known in STACKABLE)
        raise ValueError(f"{kind.__name__} cannot be stacked: one of {legal}")
    for name in ("__class__", "channels", "size", "hyperparameters", "variant", "dataset", "precision"):
        values = [getattr(detector, name) for detector in detectors]
        if any(value != values[0] for value in values):
            raise ValueError(f"stacked detectors differ in their seeds alone, these in {name.strip('_')}: {values}")
    if detectors[0].precision == "bf16":
        raise ValueError("stacked detectors compute in float32 or tf32: under torch.vmap autocast to bf16 does nothing")


def _stack(layers: Sequence[nn.Module], name: str) -> Tensor:
    """One tensor of each layer in a new dimension, the first; theirs become its slices."""
    tensors = [getattr(layer, name) for layer in layers]
    stacked = torch.stack([tensor.data for tensor in tensors])
    for tensor, part in zip(tensors, stacked, strict=True):
        tensor.data = part
    return stacked


def _optimisers(detector: Detector) -> dict[str, Adam]:
    return {name: found for name, found in vars(detector).items() if isinstance(found, Adam)}


def _stack_optimisers(optimisers: Sequence[Adam], twins: dict[int, Tensor]) -> Adam:
    """One Adam for all.

    Args:
        optimisers: each detector's own.
        twins: stacked parameter by id of the first detector's.
    """
    first = optimisers[0]
    steps = [{parameter: int(count) for parameter, (count, *_) in found.moments.items()} for found in optimisers]
    if any(of_one != steps[0] for of_one in steps):
        raise ValueError("stacked detectors have taken equally many steps, these have not")
    stacked = Adam([twins[id(parameter)] for parameter in first.parameters], first.lr, first.betas)
    for parameter in first.moments:
        counts, *moments = zip(*(optimiser.moments[parameter] for optimiser in optimisers), strict=True)
        stacked.moments[parameter] = (counts[0].clone(), torch.stack(moments[0]), torch.stack(moments[1]))
    return stacked
