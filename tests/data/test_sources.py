"""Sources give samples in a fixed order, and clear errors for damaged files."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data.catalog import dataset
from data.errors import DataError
from data.sources import digits, fashion_mnist, mnist

PROJECT = Path(__file__).parents[2]


def write_idx(path: Path, array: np.ndarray, compressed: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    content = header + array.tobytes()
    if compressed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content, 1, mtime=0))
    else:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def file_contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Return the content of the files of `root`: as many samples as MNIST has, with random content."""
    random = np.random.RandomState(0)
    tile = random.randint(0, 256, 10_007).astype(np.uint8)
    return {
        "train-images-idx3-ubyte": np.resize(tile, (60_000, 28, 28)),
        "train-labels-idx1-ubyte": random.randint(0, 10, 60_000).astype(np.uint8),
        "t10k-images-idx3-ubyte": np.resize(tile[::-1], (10_000, 28, 28)),
        "t10k-labels-idx1-ubyte": random.randint(0, 10, 10_000).astype(np.uint8),
    }


@pytest.fixture(scope="module")
def root(file_contents: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("a root with 'quotes' and ünicode")
    for name, array in file_contents.items():
        write_idx(root / name, array)
    return root


def test_digits_are_scikit_learns_in_its_order_on_the_full_range_of_bytes() -> None:
    from sklearn.datasets import load_digits

    source = digits.read()
    samples = list(source.samples())
    assert source.count == len(samples) == dataset("digits").images == 1797
    assert [sample.label for sample in samples] == load_digits().target.tolist()
    images = np.stack([sample.image for sample in samples])
    assert images.shape == (1797, 1, 8, 8) and images.dtype == np.uint8
    assert np.array_equal(np.rint(images[:, 0] / 255 * 16), load_digits().images)
    assert images.min() == 0 and images.max() == 255
    assert len({sample.sample_id for sample in samples}) == 1797
    assert {sample.split for sample in samples} == {"all"}


@pytest.mark.parametrize("layout", [".", "raw", "MNIST/raw"])
def test_mnist_is_found_in_every_layout_and_read_in_file_order(
    layout: str, root: Path, file_contents: dict[str, np.ndarray], tmp_path: Path
) -> None:
    folder = tmp_path / "data" / layout
    folder.mkdir(parents=True)
    for path in root.iterdir():
        (folder / path.name).symlink_to(path)
    samples = list(mnist.read(tmp_path / "data").samples())
    assert len({sample.sample_id for sample in samples}) == len(samples) == dataset("mnist").images == 70_000
    assert [sample.split for sample in samples] == ["train"] * 60_000 + ["test"] * 10_000
    labels = np.concatenate([file_contents["train-labels-idx1-ubyte"], file_contents["t10k-labels-idx1-ubyte"]])
    assert np.array_equal([sample.label for sample in samples], labels)
    for position, name, row in (
        (59_999, "train-images-idx3-ubyte", -1),
        (60_000, "t10k-images-idx3-ubyte", 0),
    ):
        assert np.array_equal(samples[position].image, file_contents[name][row][np.newaxis])


def test_fashion_mnist_is_read_where_torchvision_lays_it_and_never_mistaken_for_mnist(
    root: Path, file_contents: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for path in root.iterdir():
        (folder / path.name).symlink_to(path)
    found = list(fashion_mnist.read(tmp_path).samples(59_999, 60_001))
    assert [(sample.split, sample.label) for sample in found] == [
        ("train", file_contents["train-labels-idx1-ubyte"][-1]),
        ("test", file_contents["t10k-labels-idx1-ubyte"][0]),
    ]
    import torchvision.datasets

    monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
    for inside in (tmp_path / "FashionMNIST", folder):
        with pytest.raises(DataError, match=r"mnist is not under data\.root = .*no network"):
            mnist.read(inside)
    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", offline)
    with pytest.raises(DataError, match=r"fashion_mnist is not under data\.root = .*missing in .*FashionMNIST.raw"):
        fashion_mnist.read(root)


def offline(**_: object) -> None:
    raise OSError("no network")


def test_compressed_and_plain_files_give_the_same_samples(
    root: Path, file_contents: dict[str, np.ndarray], tmp_path: Path
) -> None:
    for name, array in file_contents.items():
        write_idx(tmp_path / name, array, compressed=True)
    for plain, compressed in zip(mnist.read(root).samples(), mnist.read(tmp_path).samples(), strict=True):
        assert np.array_equal(plain.image, compressed.image) and plain[1:] == compressed[1:]


def test_torchvision_is_not_loaded_where_the_files_are(root: Path) -> None:
    code = (
        "import sys, pathlib; from data.sources.mnist import read; "
        "print(read(pathlib.Path(sys.argv[1])).count, 'torchvision' in sys.modules, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(root)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["70000", "False", "False"]


def test_absent_files_that_cannot_be_downloaded_are_an_error_that_names_the_setting(tmp_path: Path) -> None:
    root = tmp_path / "a file where a folder should be"
    root.touch()
    with pytest.raises(DataError, match=r"data\.root = .*missing in .*train-images-idx3-ubyte") as caught:
        mnist.read(root)
    assert "or set data.root to the folder that has them" in str(caught.value)


def test_no_root_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(DataError, match=r"set data\.root"):
        mnist.read(None)


SHAPE = (5, 4, 3)
HEADER = bytes((0, 0, 8, 3)) + np.array(SHAPE, ">u4").tobytes()
PIXELS = bytes(range(60))
DAMAGED = {
    "empty": (b"", r"expected an IDX file with magic 00000803, found $"),
    "not IDX": (b"<!DOCTYPE html>", r"magic 00000803, found 3c21444f"),
    "labels instead of images": (bytes((0, 0, 8, 1)) + PIXELS, r"magic 00000803, found 00000801"),
    "floats instead of bytes": (bytes((0, 0, 0xD, 3)) + PIXELS, r"magic 00000803, found 00000d03"),
    "cut in the header": (HEADER[:10], r"truncated: expected a header of 16 bytes, found 10"),
    "another number of images": (
        HEADER[:4] + np.array((6, 4, 3), ">u4").tobytes() + PIXELS,
        r"expected dimensions 5 x 4 x 3, found 6 x 4 x 3",
    ),
    "cut in the pixels": (HEADER + PIXELS[:-1], r"truncated: expected 76 bytes, found 75"),
    "too long": (HEADER + PIXELS + b"x", r"too long: expected 76 bytes, found more"),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_idx_file_is_named_with_what_was_expected(damage: str, compressed: bool, tmp_path: Path) -> None:
    content, message = DAMAGED[damage]
    path = tmp_path / ("images.gz" if compressed else "images")
    path.write_bytes(gzip.compress(content, mtime=0) if compressed else content)
    with pytest.raises(DataError, match=message) as caught:
        mnist.read_idx(path, SHAPE)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(HEADER + PIXELS, mtime=0)[:-12], "truncated: expected a complete gzip file"),
        (b"not gzip at all", "expected a readable file"),
        (gzip.compress(HEADER + PIXELS, mtime=0)[:-8] + b"wrongCRC", "expected a readable file"),
    ],
)
def test_a_damaged_gzip_file_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        mnist.read_idx(path, SHAPE)
    assert str(path) in str(caught.value)


def test_an_undamaged_idx_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(HEADER + PIXELS)
    assert mnist.read_idx(tmp_path / "images", SHAPE).ravel().tolist() == list(range(60))


def test_a_label_above_nine_is_refused(root: Path, file_contents: dict[str, np.ndarray], tmp_path: Path) -> None:
    for path in root.iterdir():
        (tmp_path / path.name).symlink_to(path)
    labels = file_contents["train-labels-idx1-ubyte"].copy()
    labels[123] = 10
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    write_idx(tmp_path / "train-labels-idx1-ubyte", labels)
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte: expected labels 0 to 9, found 10"):
        mnist.read(tmp_path)
