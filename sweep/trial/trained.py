"""The trained detector of a finished trial, ready to score new images."""

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
from data.storage.new_images import NewImages
from data.storage.shards import stored_manifest
from models import catalog
from models.detector import Detector
from models.scoring import combine
from sweep.errors import UserError
from sweep.spec.trial import TrialSpec
from sweep.store.base import ObjectNotFound, Store
from sweep.store.ledger import WEIGHTS, Ledger, Record
from sweep.trial.build import build_detector
from sweep.trial.evaluation import Components, clean, finished
from sweep.trial.figure_data import reconstruct
from sweep.trial.images import Images

Pixels = npt.NDArray[np.uint8]


class TrainedDetector:
    """A detector with the final weights of its trial.

    It computes on the GPU if there is one, otherwise on the CPU.  On another device, or with another number
    of threads, the scores of an image differ in their last digits.

    Attributes:
        spec: spec of the trial.
        lam: lambda of `score`; None if the score has one component.
        manifest: manifest of the dataset that it was trained on.
        network: the detector itself.
        device: device of the network.
    """

    def __init__(self, spec: TrialSpec, lam: float | None, manifest: Manifest, network: Detector) -> None:
        self.spec, self.lam, self.manifest, self.network = spec, lam, manifest, network
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network.to(self.device)

    def read(self, folder: str | Path, *, skip_bad: bool = False) -> NewImages:
        """Read all images of a folder, prepared like the training images; for many images use `batches`.

        Args:
            folder: folder with images, also in its subfolders.
            skip_bad: leave out images that cannot be read, and list them in `skipped`.

        Raises:
            DataError: the folder does not exist, has no image, or has images that cannot be read; lists all.
        """
        parts = list(self.batches(Path(folder), new_images.list_images(Path(folder))))
        skipped = tuple(bad for part in parts for bad in part.skipped)
        files = tuple(file for part in parts for file in part.files)
        if not (skip_bad and files):
            new_images.refuse_bad(Path(folder), len(files), skipped)
        return NewImages(files, np.concatenate([part.images for part in parts]), skipped)

    def batches(self, folder: Path, files: list[str]) -> Iterator[NewImages]:
        """Yield images of a folder, some at a time, prepared like the training images."""
        yield from new_images.prepare_images(
            folder, files, self.manifest, min(new_images.CHUNK, self.network.score_batch)
        )

    def score(self, images: Pixels) -> npt.NDArray[np.float64]:
        """Return the anomaly score of each image, float64 [N]; higher is more abnormal.

        Args:
            images: uint8 [N, C, S, S] of the dataset's shape, N >= 1.

        Raises:
            ValueError: on another dtype or shape.
        """
        return combine(self.components(images), self.lam)

    def components(self, images: Pixels) -> Components:
        """Return the components of the score: "reconstruction" and "latent", or one "score"; float32 [N] each.

        Args, Raises:
            as `score`.
        """
        self._check(images)
        return finished(clean(self.network, Images(images, np.arange(len(images)), self.device)))

    def reconstruct(self, images: Pixels) -> Pixels | None:
        """Return the detector's reconstructions, uint8 of the images' shape; None if it does not reconstruct.

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
    """Load the detector of a finished trial.

    Args:
        store: store that holds its weights and its dataset's manifest.
        record: result of the trial.
        lam: lambda to score with.

    Raises:
        UserError: no weights were kept, they are damaged, or they are of another revision of the code.
        DataError: the dataset's manifest is not in the store.
    """
    try:
        spec = TrialSpec.from_dict(record["spec"])
    except ValueError as error:
        raise UserError(f"trial {record['key']} cannot be loaded: {error}; use the version that trained it") from None
    if record["status"] != "ok":
        raise UserError(f"trial {spec.key} {record['status']}: {record.get('cause')}; it has no trained detector")
    try:
        revision = catalog.detector(spec.detector).revision
    except ValueError as problem:
        raise UserError(f"trial {spec.key}: {problem}") from None
    if revision != spec.revision:
        raise UserError(
            f"trial {spec.key} was trained by revision {spec.revision} of {spec.detector}, this program has revision "
            f"{revision}, which computes other numbers: launch the sweep again, and use the new trial"
        )
    manifest = stored_manifest(store, spec.dataset, spec.preparation)
    network = build_detector(spec, *manifest.shape[:2])
    if network.state_dict():  # some detectors learn nothing
        _fill(network, store, spec.key)
    return TrainedDetector(spec, lam, manifest, network)


def _fill(network: Detector, store: Store, key: str) -> None:
    path = f"trials/{key}/{WEIGHTS}"
    try:
        network.load_weights(safetensors.torch.load(Ledger(store, sweep="").file(key, WEIGHTS)))
    except ObjectNotFound:
        raise UserError(
            f"trial {key} has no weights in {store.url}: `trial.keep` decides which stay: best (one seed per cell), "
            "all or none.  Trials of a search keep none.  A finished trial is not trained again, so launch with "
            f"--set trial.keep=all into another storage, or first delete trials/{key} there"
        ) from None
    except (safetensors.SafetensorError, RuntimeError) as error:
        first = str(error).strip().split("\n")[0]
        raise UserError(
            f"{store.url}: {path} is damaged ({first}); delete trials/{key} there and launch again"
        ) from None
