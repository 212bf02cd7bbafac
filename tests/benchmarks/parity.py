"""Does the fast step learn what the published one learns?  AUROC of both, seed by seed.

Both renderings begin with equal weights and see equal batches in equal order: `tests/published.py`
contiguous with torch's own arithmetic, `Detector.train_step` channels-last with ours.  Both are scored in
evaluation mode.  Rounding alone parts them, and adversarial training makes much of it: what counts is
whether the mean difference over seeds is zero within a margin of 0.02.

Needs MNIST/raw and cifar10/*.parquet (columns image, label) under --root; what is missing is skipped.
"""

from __future__ import annotations

import argparse
import io
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from measure import arguments, figure, header
from published import PUBLISHED
from torch import Tensor
from torch.nn import functional

from models.catalog import detector as find_detector
from models.catalog import resolve
from models.detector import Detector, build
from models.scoring import combine
from sweep.metrics import auroc

MARGIN = 0.02
T95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}  # by n, n - 1 degrees
Labelled = tuple[Tensor, npt.NDArray[np.int64]]


def main() -> None:
    options = arguments(
        __doc__,
        ("root", "/work/shared/datasets", "folder of the real data"),
        ("seeds", 5, "paired seeds, 2 to 10"),
        ("epochs", 2, "epochs"),
        ("train", 2560, "training images"),
        ("test", 2000, "images scored"),
        ("width", 16, "channels of the outermost layer"),
        ("abnormal", 2, "class left out of training"),
    )
    header()
    torch.set_num_threads(1)
    for dataset, read in (("mnist", mnist), ("cifar10", cifar10)):
        try:
            train, test = (read(Path(options.root), part, 4 * options.train) for part in ("train", "test"))
        except FileNotFoundError as missing:
            print(f"{dataset} skipped: {missing}")
            continue
        for name in ("ganomaly", "skip_ganomaly"):
            compare(name, dataset, train, test, options)


def compare(name: str, dataset: str, train: Labelled, test: Labelled, options: argparse.Namespace) -> None:
    """Train both renderings under each seed, and print the mean difference with its interval."""
    images = train[0][torch.from_numpy(train[1] != options.abnormal)][: options.train]
    labels = (test[1][: options.test] == options.abnormal).astype(np.int8)
    pairs = [
        both(name, dataset, images, test[0][: options.test], labels, seed, options) for seed in range(options.seeds)
    ]
    differences = np.array([fast - plain for plain, fast in pairs])
    half = T95[len(pairs)] * float(differences.std(ddof=1)) / math.sqrt(len(pairs))
    low, high = differences.mean() - half, differences.mean() + half
    within = "equal" if low > -MARGIN and high < MARGIN else "DIFFERENT" if low > 0 or high < 0 else "undecided"
    plain, fast = np.mean(pairs, 0)
    figure(
        f"{name} on {dataset}, {options.epochs} epochs of {len(images)}, width {options.width}",
        f"fast {fast:.4f}, difference {differences.mean():+.4f} [{low:+.4f}, {high:+.4f}], n={len(pairs)}",
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
    """AUROC of the plain rendering and of the fast one."""
    torch.manual_seed(seed)
    info = find_detector(name)
    values = resolve(info, info.default_variant, {"width": options.width})
    made = build(
        name, channels=images.shape[1], size=32, hyperparameters=values, variant=info.default_variant, dataset=dataset
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
    made.get_submodule("generator").load_state_dict(plain.g.state_dict())
    made.get_submodule("discriminator").load_state_dict(plain.d.state_dict())
    return scored(made, test, labels), fast


def scored(made: Detector, test: Tensor, labels: npt.NDArray[np.int8]) -> float:
    parts = [made.score(made.normalise(part)) for part in torch.split(test, 256)]
    info = find_detector({"GANomaly": "ganomaly"}.get(type(made).__name__, "skip_ganomaly"))
    whole = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
    return float(auroc(labels, combine(whole, info.variants[info.default_variant].lam)))


def mnist(root: Path, part: str, count: int) -> Labelled:
    """The first images, enlarged to 32x32."""
    stem = root / "MNIST" / "raw" / ("train" if part == "train" else "t10k")
    pixels = np.fromfile(f"{stem}-images-idx3-ubyte", np.uint8, 16 + count * 784)[16:].reshape(-1, 1, 28, 28)
    labels = np.fromfile(f"{stem}-labels-idx1-ubyte", np.uint8, 8 + count)[8:]
    images = functional.interpolate(torch.from_numpy(pixels).float(), size=32, mode="bilinear")
    return images.round().to(torch.uint8), labels.astype(np.int64)


def cifar10(root: Path, part: str, count: int) -> Labelled:
    """The first images as they are."""
    import pyarrow.parquet
    from PIL import Image

    rows = pyarrow.parquet.read_table(root / "cifar10" / f"{part}.parquet", columns=["image", "label"])[:count]
    images = np.stack([np.asarray(Image.open(io.BytesIO(image.as_py())).convert("RGB")) for image in rows["image"]])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), np.array(rows["label"].to_pylist(), np.int64)


if __name__ == "__main__":
    main()
