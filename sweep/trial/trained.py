"""A trial's detector as its training left it, ready for images that it has never seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch

from data.storage import new_images
from data.storage.manifest import Manifest
from data.storage.new_images import Unseen
from data.storage.shards import stored_manifest
from models import catalog
from models.build import build
from models.detector import Detector
from models.scoring import combine
from sweep.errors import UserError
from sweep.spec.trial import TrialSpec
from sweep.store.base import ObjectNotFound, Store
from sweep.store.ledger import Record
from sweep.trial.evaluation import Components, clean, finished
from sweep.trial.figure_data import reconstruct
from sweep.trial.images import Images
from sweep.trial.run import LAYOUTS

Pixels = npt.NDArray[np.uint8]


class TrainedDetector:
    """A detector with the weights that its trial ended with.

    It computes on the GPU where there is one, else on the CPU; scores of the same image on another
    device, or with another number of threads, differ in their last digits.

    Attributes:
        spec: of the trial.
        lam: lambda of `score`; None where the score has one component.
        manifest: of the dataset that it was trained on.
        network: the detector itself.
        device: where it is.
    """

    def __init__(self, spec: TrialSpec, lam: float | None, manifest: Manifest, network: Detector) -> None:
        self.spec, self.lam, self.manifest, self.network = spec, lam, manifest, network
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.to(self.device)

    def read(self, folder: str | Path, *, skip_bad: bool = False) -> Unseen:
        """All images of a folder, prepared as those that the detector was trained on; for many see `batches`.

        Args:
            folder: with images, also in folders of it.
            skip_bad: leave out what cannot be read, and list it in `skipped`.

        Raises:
            DataError: there is no such folder, no image in it, or images that cannot be read; lists all.
        """
        parts = list(self.batches(Path(folder), new_images.list_images(Path(folder))))
        skipped = tuple(bad for part in parts for bad in part.skipped)
        files = tuple(file for part in parts for file in part.files)
        if not (skip_bad and files):
            new_images.refuse_bad(Path(folder), len(files), skipped)
        return Unseen(files, np.concatenate([part.images for part in parts]), skipped)

    def batches(self, folder: Path, files: list[str]) -> Iterator[Unseen]:
        """Images of a folder, some at a time, prepared as those that the detector was trained on."""
        yield from new_images.prepare_images(
            folder, files, self.manifest, min(new_images.CHUNK, self.network.score_batch)
        )

    def score(self, images: Pixels) -> npt.NDArray[np.float64]:
        """Anomaly score of each image, float64 [N]; higher is more abnormal.

        Args:
            images: uint8 [N, C, S, S] of the dataset's shape, N >= 1.

        Raises:
            ValueError: on another dtype or shape.
        """
        return combine(self.components(images), self.lam)

    def components(self, images: Pixels) -> Components:
        """What the score is mixed from: "reconstruction" and "latent", or a single "score"; float32 [N] each.

        Args, Raises:
            as `score`.
        """
        self._check(images)
        return finished(clean(self.network, Images(images, np.arange(len(images)), self.device)))

    def reconstruct(self, images: Pixels) -> Pixels | None:
        """What the detector makes of images, uint8 of their shape; None for one that reconstructs nothing.

        Args, Raises:
            as `score`.
        """
        self._check(images)
        made = reconstruct(self.network, np.array(images), self.device)
        return None if made is None else np.rint(made).astype(np.uint8)

    def _check(self, images: Pixels) -> None:
        shape = self.manifest.shape
        if images.dtype != np.uint8 or images.shape[1:] != shape or not len(images):
            raise ValueError(
                f"{self.spec.detector} of trial {self.spec.key} takes uint8 images [N, {', '.join(map(str, shape))}] "
                f"with N >= 1, got {images.dtype} {list(images.shape)}"
            )


def load(store: Store, record: Record, lam: float | None) -> TrainedDetector:
    """The detector of a finished trial.

    Args:
        store: that holds its weights and its dataset's manifest.
        record: its result.
        lam: lambda to score with.

    Raises:
        UserError: no weights were kept, they are damaged, or they are of another revision of the code.
        DataError: the dataset's manifest is not in the store.
    """
    spec = TrialSpec.from_dict(record["spec"])
    if record["status"] != "ok":
        raise UserError(f"trial {spec.key} {record['status']}: {record['cause']}; it left no detector")
    try:
        revision = catalog.detector(spec.detector).revision
    except ValueError as problem:
        raise UserError(f"trial {spec.key}: {problem}") from None
    if revision != spec.revision:
        raise UserError(
            f"trial {spec.key} was trained by revision {spec.revision} of {spec.detector}, this program has revision "
            f"{revision}, whose numbers are others: launch the sweep again, and use the new trial"
        )
    manifest = stored_manifest(store, spec.dataset, spec.preparation)
    network = build(
        spec.detector,
        channels=manifest.shape[0],
        size=manifest.shape[1],
        hyperparameters=spec.hyperparameters,
        variant=spec.variant,
        dataset=spec.dataset,
        precision=spec.numerics.precision,
    ).to(memory_format=LAYOUTS[spec.numerics.layout])
    if network.state_dict():  # some learn nothing
        _fill(network, store, spec.key)
    return TrainedDetector(spec, lam, manifest, network)


def _fill(network: Detector, store: Store, key: str) -> None:
    path = f"trials/{key}/weights.safetensors"
    try:
        network.load_weights(safetensors.torch.load(store.get(path)))
    except ObjectNotFound:
        raise UserError(
            f"trial {key} has no weights in {store.url}: `trial.keep` says which stay, best (one seed of each cell), "
            "all or none, and trials of a search leave none; what is finished is not trained again, so launch with "
            f"--set trial.keep=all into another storage, or delete trials/{key} there first"
        ) from None
    except (safetensors.SafetensorError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0]
        raise UserError(
            f"{store.url}: {path} is damaged ({first}); delete trials/{key} there and launch again"
        ) from None
