"""Adam as one fused kernel a step.

The kernel is torch's (`torch.optim.Adam(..., fused=True)` calls the same, and the two give equal bits).
Around it stand these lines instead of `torch.optim`, whose first step imports torch.compile's machinery:
2 s of every process, as long as torch itself takes, for what nobody here asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor


def linear_decay(epoch: int, epochs: int) -> float:
    """Share of the initial learning rate in one epoch: 1 for the first half, then linearly towards 0.

    The schedule "lambda" of pix2pix, as many epochs constant as decaying: of 15 epochs the first 8
    have 1, the others 7/8, 6/8, ..., 1/8; zero is what would come next.

    Args:
        epoch: 0, 1, ...
        epochs: how many there are.

    Returns:
        in [0, 1].
    """
    decaying = epochs // 2
    return max(0.0, 1 - max(0, epoch + 1 - (epochs - decaying)) / (decaying + 1))


class Adam:
    """Kingma and Ba, ICLR 2015 (arXiv:1412.6980), algorithm 1; epsilon 1e-8, no weight decay.

    Args:
        parameters: float32 tensors; one without a gradient is left alone.
        lr: learning rate; may be changed between steps.
        betas: decay of the two moments.

    Attributes:
        moments: of each parameter that was stepped, by its place: step count, first and second moment.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self.parameters = list(parameters)
        self.lr, self.betas = lr, betas
        self.moments: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter against its gradient."""
        active = [(place, p, p.grad) for place, p in enumerate(self.parameters) if p.grad is not None]
        for place, p, _ in active:
            if place not in self.moments:  # only now are device and layout the final ones
                count = torch.zeros((), dtype=torch.float32, device=p.device)
                self.moments[place] = (count, torch.zeros_like(p), torch.zeros_like(p))
        if not active:
            return
        counts, first, second = (
            list(column) for column in zip(*(self.moments[place] for place, *_ in active), strict=True)
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
        """Moments by place and learning rate, not copied."""
        return {"lr": self.lr, "moments": dict(self.moments)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`; its tensors are moved to the parameters' devices."""
        self.lr = state["lr"]
        self.moments = {}
        for place, (count, first, second) in state["moments"].items():
            device = self.parameters[place].device
            self.moments[place] = (count.to(device), first.to(device), second.to(device))
