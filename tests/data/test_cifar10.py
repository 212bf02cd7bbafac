"""CIFAR-10's batches: published ones are read, damaged ones are refused with a reason, and none can run code."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.catalog import dataset
from data.errors import DataError
from data.sources import cifar10

ROWS = 20  # images of a batch in these tests
NAMES = [*cifar10.FILES["train"], *cifar10.FILES["test"]]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "BATCH_IMAGES", ROWS)


def batch(seed: int, **changes: Any) -> dict[Any, Any]:
    random = np.random.RandomState(seed)
    data, labels = random.randint(0, 256, (ROWS, 3072)).astype(np.uint8), random.randint(0, 10, ROWS).tolist()
    return {"data": data, "labels": labels, "batch_label": "a batch", **changes}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "a root, ünicode" / cifar10.FOLDER
    place.mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        (place / name).write_bytes(pickle.dumps(batch(seed), protocol=2))
    return place


def test_samples_come_in_the_order_of_the_files_as_channels_rows_columns(folder: Path) -> None:
    source = cifar10.read(folder.parent)
    samples = list(source.samples())
    assert source.count == len(samples) == 6 * ROWS
    assert [sample.split for sample in samples] == ["train"] * 5 * ROWS + ["test"] * ROWS
    assert len({sample.sample_id for sample in samples}) == len(samples)
    fourth = batch(3)
    sample = samples[3 * ROWS + 7]
    assert (sample.source, sample.label) == ("data_batch_4", fourth["labels"][7])
    assert sample.image.shape == (3, 32, 32)
    assert np.array_equal(sample.image.ravel(), fourth["data"][7])


def test_the_folder_of_the_batches_itself_is_a_root_too(folder: Path) -> None:
    assert next(cifar10.read(folder).samples()).sample_id == "train-00000"


def test_keys_may_be_bytes_as_python_2_wrote_them(folder: Path) -> None:
    content = {key.encode(): value for key, value in batch(0).items()}
    (folder / "data_batch_1").write_bytes(pickle.dumps(content, protocol=2))
    images, labels = cifar10.read_batch(folder / "data_batch_1")
    assert images.shape == (ROWS, 3, 32, 32) and labels.tolist() == batch(0)["labels"]


class Hostile:
    """Object that makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_a_hostile_pickle_runs_nothing(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    path = folder / "data_batch_2"
    path.write_bytes(pickle.dumps(batch(0, batch_label=Hostile(mark))))
    with pytest.raises(DataError, match=r"data_batch_2: it asks for \w+\.mkdir"):
        list(cifar10.read(folder).samples())
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a pickled batch"),
        (b"not a pickle", "expected a pickled batch"),
        (pickle.dumps([1, 2]), "expected data of uint8"),
        (pickle.dumps(batch(0, data=np.zeros((ROWS, 3072)))), "found float64"),
        (pickle.dumps(batch(0, data=np.zeros((3, 3072), np.uint8))), r"found uint8 \(3, 3072\)"),
        (pickle.dumps(batch(0, labels=[11] * ROWS)), "labels from 0 to 9"),
        (pickle.dumps(batch(0, labels=[1])), "labels from 0 to 9"),
        (pickle.dumps(batch(0))[:-200], "expected a pickled batch"),
    ],
)
def test_a_damaged_batch_is_named_with_what_is_wrong(content: bytes, message: str, folder: Path) -> None:
    path = folder / "test_batch"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as problem:
        cifar10.read_batch(path)
    assert "test_batch" in str(problem.value)


def test_missing_files_are_listed_where_nothing_can_be_downloaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    def offline(**_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    (folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match=r"missing in .*: data_batch_3\).*no network.*data\.root"):
        cifar10.read(folder.parent)
    with pytest.raises(DataError, match=r"set data\.root"):
        cifar10.read(None)


def test_the_catalog_knows_its_shape() -> None:
    info = dataset("cifar10")
    assert (info.channels, len(info.classes), info.images) == (3, 10, 60_000)
