"""Random weights of a small torchvision network, in a file that is named as torchvision names its own."""

from __future__ import annotations

import hashlib
import io
import tempfile
from functools import cache
from pathlib import Path

import torch

NETWORK = "mobilenet_v3_small"
FEATURES = 576


@cache
def folder() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that is removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="weights-")


@cache
def random_weights(network: str = NETWORK) -> str:
    """Write the weights if this process has not, and return the path of the file."""
    from torchvision.models import get_model  # it takes a second, and most tests do not need it

    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = get_model(network, weights=None)
        for module in made.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # statistics of the one pass below: else all features would be nearly 0
        with torch.no_grad():
            made.train()(torch.randn(32, 3, 64, 64))
    buffer = io.BytesIO()
    torch.save(made.state_dict(), buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:8]
    path = Path(folder().name, f"{network}-{digest}.pth")
    path.write_bytes(buffer.getvalue())
    return str(path)
