"""New images are prepared in the same way as those of a stored dataset."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.storage import new_images, shards
from data.storage.manifest import Manifest
from sweep.store import open_store
from tests.support.image_folders import write_images


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Return the manifest of digits at 16 x 16 pixels."""
    return shards.put(open_store(str(tmp_path_factory.mktemp("store"))), "digits", size=16, root=None)


def test_channels_fit_and_filter_are_those_of_the_manifest(manifest: Manifest, tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = (255, 0, 0)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    rules = {"fit": "crop", "interpolation": "box"}
    cropped = dataclasses.replace(manifest, parameters={**manifest.parameters, **rules}, shape=(3, 16, 16))
    (found,) = new_images.prepare_images(tmp_path, ["wide.png"], cropped)
    assert found.images.shape == (1, 3, 16, 16)
    assert (found.images[0, 0] == 255).all() and not found.images[0, 1:].any()
    (found,) = new_images.prepare_images(tmp_path, ["wide.png"], manifest)
    assert found.images.shape == (1, 1, 16, 16)
    assert found.images.min() == 0, "a squashed image has its black sides"


def test_chunks_change_nothing(manifest: Manifest, tmp_path: Path) -> None:
    root = write_images(tmp_path, {"a": 13, "b": 11})
    files = new_images.list_images(root)
    whole, parts = (list(new_images.prepare_images(root, files, manifest, chunk)) for chunk in (64, 5))
    assert len(whole) == 1 and len(parts) == 5
    np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), whole[0].images)
    assert sum((part.files for part in parts), ()) == whole[0].files


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image in it \(looked for \.bmp"):
        new_images.list_images(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        new_images.list_images(tmp_path / "nowhere")
