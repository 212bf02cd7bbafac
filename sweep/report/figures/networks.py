"""Figures of what networks compute from images: discriminator features by t-SNE, and reconstructions.

The data are figures.npz (`sweep.trial.figure_data`) of the trial whose files are kept in a cell.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from sweep.console import printable
from sweep.leaderboard.board import Board
from sweep.leaderboard.entry import NAME, Entry
from sweep.leaderboard.rows import Row
from sweep.report.figures.samples import Read
from sweep.report.figures.style import ABNORMAL, NORMAL, WIDTH, Drawing, canvas, save
from sweep.report.sheet import line_label
from sweep.store.ledger import reading

PANELS = 3  # maximum number of detectors in a figure
PERPLEXITY = 30.0
ITERATIONS = 500  # t-SNE iterations; more of them change nothing visible
Kept = Mapping[str, npt.NDArray[Any]]  # arrays of one figures.npz


def find_kept(board: Board, rows: Sequence[Row], lines: Sequence[Entry], read: Read) -> tuple[str, dict[str, Kept]]:
    """Find the first class of the board for which a line has figures.npz.

    Returns:
        The class and the arrays by line, for at most `PANELS` lines; ("", {}) if there is no such file.
    """
    names = {line.name: line_label(line, board.lines) for line in lines}
    for abnormal in board.classes:
        kept: dict[str, Kept] = {}
        for row in sorted(rows, key=lambda row: (row["split_seed"], row["seed"])):
            label = names.get(tuple(row[column] for column in NAME))
            in_class = (row["dataset"], row["protocol"], row["abnormal"]) == (board.dataset, board.protocol, abnormal)
            if in_class and row["status"] == "ok" and label is not None and label not in kept and len(kept) < PANELS:
                path = f"trials/{row['key']}/figures.npz"
                data = read(path)
                if data is not None:
                    kept[label] = _arrays(path, data)
        if kept:
            ordered = [names[line.name] for line in lines if names[line.name] in kept]
            return abnormal, {label: kept[label] for label in ordered}
    return "", {}


def _arrays(path: str, data: bytes) -> Kept:
    with reading(path), np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def tsne(board: Board, abnormal: str, kept: Mapping[str, Kept]) -> Iterator[Drawing]:
    """Draw discriminator features of normal and abnormal test samples in two dimensions, a panel for each detector."""
    shown = {label: arrays for label, arrays in kept.items() if len(arrays.get("features", ())) > 3 * PERPLEXITY}
    if not shown:
        return
    columns = min(len(shown), PANELS)
    figure, [panels] = canvas(1, columns, WIDTH, 0.75 + WIDTH / max(columns, 2))
    for (label, arrays), axes in zip(shown.items(), panels, strict=True):
        points = _embed(arrays["features"].astype(np.float32))
        for kind, colour, marker, name in ((0, NORMAL, "o", "normal"), (1, ABNORMAL, "^", "abnormal")):
            of_kind = points[arrays["feature_labels"] == kind]
            axes.scatter(of_kind[:, 0], of_kind[:, 1], s=7, marker=marker, linewidths=0.6, alpha=0.75, label=name,
                         facecolors=colour if kind else "none", edgecolors=colour)  # fmt: skip
        axes.set_title(printable(label))
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_box_aspect(1)
        axes.spines[["top", "right"]].set_visible(True)
        axes.grid(visible=False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, markerscale=1.6)
    counts = sorted({len(arrays["features"]) for arrays in shown.values()})
    caption = (
        f"t-SNE (perplexity {PERPLEXITY:g}, seeded) of the discriminator's features of {' or '.join(map(str, counts))} "
        f"test samples, {abnormal} abnormal, last epoch, one seed.  Features longer than 1,024 are first projected at "
        "random.  In t-SNE, distances between clusters have no meaning; this figure is no evidence of detection."
    )
    title = f"{board.dataset} {board.protocol}: discriminator features, {abnormal} abnormal"
    yield save(f"{board.dataset}-{board.protocol}-features", title, caption, figure)


def _embed(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    from sklearn.manifold import TSNE  # 1 s, which no other figure needs
    from threadpoolctl import threadpool_limits

    if not features.std():
        return np.zeros((len(features), 2), np.float32)
    model = TSNE(perplexity=PERPLEXITY, init="pca", max_iter=ITERATIONS, random_state=0, n_jobs=1)
    with threadpool_limits(1):  # several threads are a hundred times slower if other work runs on the machine
        points: npt.NDArray[np.float32] = model.fit_transform(features / features.std())
    return points


def reconstructions(board: Board, abnormal: str, kept: Mapping[str, Kept]) -> Iterator[Drawing]:
    """Draw the easiest and hardest samples with reconstructions and differences, one figure for each detector."""
    for label, arrays in kept.items():
        if "originals" in arrays and len(arrays["originals"]):
            yield _strips(board, abnormal, label, arrays)


def _strips(board: Board, abnormal: str, label: str, arrays: Kept) -> Drawing:
    hard = arrays["image_hard"]
    figure, panels = canvas(2, 1, WIDTH, 3.5)
    for (axes,), rank, chosen in zip(panels, ("easiest", "hardest"), (~hard, hard), strict=True):
        original, made = arrays["originals"][chosen], arrays["reconstructions"][chosen]
        labels = arrays["image_labels"][chosen]
        axes.imshow(mosaic(original, made), interpolation="nearest", aspect="equal")
        side = original.shape[-1]
        pitch = side + GAP
        axes.set_yticks([pitch * n + side / 2 for n in range(3)], ["original", "reconstruction", "difference"])
        normal = int((labels == 0).sum())
        positions = [pitch * normal / 2, pitch * (normal + len(labels)) / 2]
        names = ["normal, low score", f"{abnormal} (abnormal), high score"]
        if rank == "hardest":
            names = ["normal, high score", f"{abnormal} (abnormal), low score"]
        axes.set_xticks(positions, [printable(name) for name in names])
        axes.set_title(f"{rank} {len(labels)}")
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
    caption = (
        "Easiest: normal samples with the lowest scores, abnormal samples with the highest.  Hardest: normal samples "
        "with the highest scores, abnormal samples with the lowest.  Last epoch, one seed.  Difference: absolute, mean "
        "over channels, from dark (0) to bright (half of the pixels' range or more)."
    )
    title = f"{board.dataset} {board.protocol}: reconstructions by {label}, {abnormal} abnormal"
    return save(f"{board.dataset}-{board.protocol}-reconstructions-{label}", title, caption, figure)


GAP = 2  # pixels between images


def mosaic(original: npt.NDArray[np.uint8], made: npt.NDArray[np.uint8] | None) -> npt.NDArray[np.float64]:
    """Arrange images in a row, with rows of reconstructions and differences below; gaps are transparent.

    Args:
        original: uint8 [K, C, S, S].
        made: reconstructions, uint8 [K, C, S, S]; None for a mosaic of the images alone.

    Returns:
        RGBA in [0, 1], float64 [H, W, 4].
    """
    from matplotlib import colormaps

    rows = [_rgb(original.astype(float) / 255)]
    if made is not None:
        difference = np.abs(original.astype(float) - made).mean(1) / 127.5
        rows += [_rgb(made.astype(float) / 255), colormaps["cividis"](np.clip(difference, 0, 1))[..., :3]]
    count, side = len(original), original.shape[-1]
    pitch = side + GAP
    pixels = np.zeros((len(rows) * pitch - GAP, max(1, count * pitch - GAP), 4))
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            pixels[row * pitch :, column * pitch :][:side, :side] = np.dstack([image, np.ones((side, side))])
    return pixels


def _rgb(images: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Convert [K, C, S, S] with C = 1 or 3 to [K, S, S, 3]."""
    return np.moveaxis(np.broadcast_to(images, (len(images), 3, *images.shape[2:])), 1, 3)
