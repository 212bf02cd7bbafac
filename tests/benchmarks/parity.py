"""AUROC of the fast training step compared with the published one, seed by seed.

Both versions start with equal weights, and get equal batches in equal order.  The published one
(`tests/support/published.py`) is contiguous and in torch's own float32.  The fast one (`Detector.train_step`) is
channels-last, in the precision that a trial would have on this machine, or in --precision.  Both are scored in
float32 and evaluation mode.  Only rounding makes them differ, but adversarial training amplifies it.  So the result
is whether the mean difference over seeds is zero within a margin of 0.02.

The images are the real ones below --root, one folder for both datasets in torchvision's layout.  A dataset that is
missing there is skipped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.errors import DataError
from data.storage.loader import load
from data.storage.shards import put
from models.build import build
from models.catalog import detector as find_detector
from models.catalog import resolve
from models.detector import Detector
from models.scoring import combine
from sweep.leaderboard.stats import interval
from sweep.plan.platform import resolve_precision
from sweep.store import open_store
from sweep.trial.metrics import auroc
from tests.benchmarks.measure import arguments, figure, folder, header
from tests.support.published import PUBLISHED

MARGIN = 0.02
Labelled = tuple[Tensor, npt.NDArray[np.int64]]


def main() -> None:
    options = arguments(
        __doc__,
        ("root", "", "folder of the real data"),
        ("seeds", 5, "paired seeds, 2 at least"),
        ("epochs", 2, "epochs"),
        ("train", 2560, "training images"),
        ("test", 2000, "images scored"),
        ("width", 16, "channels of the outermost layer"),
        ("abnormal", 2, "class left out of training"),
        ("precision", "auto", "precision of the fast step: auto, float32 or bf16"),
    )
    header()
    options.precision = resolve_precision(options.precision, capability=None)
    print(f"fast in {options.precision}, plain in float32")
    torch.set_num_threads(1)
    for dataset in ("mnist", "cifar10"):
        try:
            train, test = images_of(dataset, Path(options.root) if options.root else None)
        except DataError as missing:
            print(f"{dataset} skipped: {missing}")
            continue
        for name in ("ganomaly", "skip_ganomaly"):
            compare(name, dataset, train, test, options)


def compare(name: str, dataset: str, train: Labelled, test: Labelled, options: argparse.Namespace) -> None:
    """Train both versions with each seed, and print the mean difference with its interval."""
    images = train[0][torch.from_numpy(train[1] != options.abnormal)][: options.train]
    labels = (test[1][: options.test] == options.abnormal).astype(np.int8)
    pairs = [
        both(name, dataset, images, test[0][: options.test], labels, seed, options) for seed in range(options.seeds)
    ]
    mean, _, half = interval([fast - plain for plain, fast in pairs])
    assert mean is not None and half is not None, "two seeds or more"
    low, high = mean - half, mean + half
    within = "equal" if low > -MARGIN and high < MARGIN else "DIFFERENT" if low > 0 or high < 0 else "undecided"
    plain, fast = np.mean(pairs, 0)
    figure(
        f"{name} on {dataset}, {options.epochs} epochs of {len(images)}, width {options.width}",
        f"fast {fast:.4f}, difference {mean:+.4f} [{low:+.4f}, {high:+.4f}], n={len(pairs)}",
        f"plain {plain:.4f}",
        f"margin {MARGIN}: {within}",
    )


def both(
    name: str,
    dataset: str,
    images: Tensor,
    test: Tensor,
    labels: npt.NDArray[np.int8],
    seed: int,
    options: argparse.Namespace,
) -> tuple[float, float]:
    """Return the AUROC of the plain version and of the fast one."""
    torch.manual_seed(seed)
    info = find_detector(name)
    values = resolve(info, info.default_variant, {"width": options.width})
    made = build(
        name,
        channels=images.shape[1],
        size=32,
        hyperparameters=values,
        variant=info.default_variant,
        dataset=dataset,
        precision=options.precision,
    )
    plain = PUBLISHED[name](made)
    made.to(memory_format=torch.channels_last)
    for epoch in range(options.epochs):
        order = torch.from_numpy(np.random.RandomState([seed, epoch]).permutation(len(images)))
        for batch in torch.split(order[: len(order) // 64 * 64], 64):
            x = made.normalise(images[batch])
            plain(x)
            made.train_step(x)
    fast = scored(made, test, labels)
    for part, network in plain.networks.items():
        made.get_submodule(part).load_state_dict(network.state_dict())
    return scored(made, test, labels), fast


def scored(made: Detector, test: Tensor, labels: npt.NDArray[np.int8]) -> float:
    parts = [made.score(made.normalise(part)) for part in torch.split(test, 256)]
    info = find_detector({"GANomaly": "ganomaly"}.get(type(made).__name__, "skip_ganomaly"))
    whole = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    return float(auroc(labels, combine(whole, info.variants[info.default_variant].lam)))


def images_of(dataset: str, root: Path | None) -> tuple[Labelled, Labelled]:
    """Return training and test images of the source's own split, as trials get them."""
    with folder() as scratch:
        store = open_store(str(scratch / "store"))
        manifest = put(store, dataset, size=32, root=root)
        found = load(store, dataset, manifest.preparation, scratch / "cache")
        sides = [np.flatnonzero(found.source_split == part) for part in ("train", "test")]
        train, test = ((torch.from_numpy(found.images[side]), found.labels[side]) for side in sides)
    return train, test


if __name__ == "__main__":
    main()
