"""Adam as one fused kernel per step.

The kernel is torch's own: `torch.optim.Adam(..., fused=True)` calls the same kernel and gives the same bits.  This
module calls it without `torch.optim`, because the first step there imports torch.compile.  That import is not needed
here, and takes 2 s in every process, as long as the import of torch itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def linear_decay(epoch: int, epochs: int) -> float:
    """Return the share of the initial learning rate in an epoch: 1 in the first half, then linear decay towards 0.

    This is the schedule "lambda" of pix2pix with as many constant as decaying epochs.  Of 15 epochs, the
    first 8 have 1, the others 7/8, 6/8, ..., 1/8; the next epoch would have 0.

    Args:
        epoch: number of the epoch: 0, 1, ...
        epochs: number of epochs in all.

    Returns:
        the share, in [0, 1].
    """
    decaying = epochs // 2
    return max(0.0, 1 - max(0, epoch + 1 - (epochs - decaying)) / (decaying + 1))


class Adam:
    """Adam optimiser: Kingma and Ba, ICLR 2015 (arXiv:1412.6980), algorithm 1; epsilon 1e-8, no weight decay.

    Args:
        parameters: float32 tensors; a step does not change those without a gradient.
        lr: learning rate; it may be changed between steps.
        betas: decay rates of the two moments.

    Attributes:
        moments: step count, first and second moment of each parameter that was changed, by its position.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.parameters = list(parameters)
        self.lr, self.betas = lr, betas
        self.moments: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Make one step on every parameter that has a gradient."""
        active = [(position, p, p.grad) for position, p in enumerate(self.parameters) if p.grad is not None]
        for position, p, _ in active:
            if position not in self.moments:  # made here because device and layout may change before the first step
                count = torch.zeros((), dtype=torch.float32, device=p.device)
                self.moments[position] = (count, torch.zeros_like(p), torch.zeros_like(p))
        if not active:
            return
        counts, first, second = (
            list(column) for column in zip(*(self.moments[position] for position, *_ in active), strict=True)
        )
        torch._foreach_add_(counts, 1.0)
        torch._fused_adam_(
            [p for _, p, _ in active],
            [gradient for *_, gradient in active],
            first,
            second,
            [],
            counts,
            lr=self.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the learning rate and the moments; the tensors are not copied."""
        return {"lr": self.lr, "moments": dict(self.moments)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`; its tensors are moved to the parameters' devices.

        Raises:
            ValueError: a moment has another shape or type than its parameter; the kernel would not check it.
        """
        self.lr = float(state["lr"])
        self.moments = {}
        for position, (count, first, second) in state["moments"].items():
            parameter = self.parameters[position]
            fit = [moment.shape == parameter.shape and moment.dtype == parameter.dtype for moment in (first, second)]
            if not all(fit) or count.shape or count.dtype != torch.float32:
                raise ValueError(f"the moments of parameter {position} do not fit its shape {list(parameter.shape)}")
            device = self.parameters[position].device
            self.moments[position] = (count.to(device), first.to(device), second.to(device))
