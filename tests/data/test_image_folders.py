"""Image folders: classes, samples and their order, and the problems of a folder with another layout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.catalog import contents, dataset, open_source, own
from data.errors import DataError
from data.protocols import split
from data.sources.base import Sample
from data.sources.layouts import LAYOUTS, Classes, Contents, Folder, Layout, Mvtec
from data.storage.loader import load
from data.storage.manifest import Manifest, read_manifest
from data.storage.shards import put
from sweep.store import open_store
from sweep.store.base import Store
from tests.support.image_folders import ANIMALS, MVTEC, PUBLISHED, write_images

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "images of 'mine' ünicode"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def samples(layout: Layout) -> list[Sample]:
    return list(open_source(own("mine", layout, contents(layout)), None).samples())


def store_folder(store: Store, layout: Layout, skip_bad: bool = False) -> Manifest:
    return put(store, own("mine", layout, contents(layout)), size=16, root=None, skip_bad=skip_bad)


def problems(layout: Layout) -> list[str]:
    with pytest.raises(DataError) as caught:
        contents(layout)
    return [line.removeprefix(f"{layout.root}").lstrip("/") for line in str(caught.value).split("\n")]


def test_the_published_layout_has_a_normal_and_an_abnormal_class(root: Path) -> None:
    layout = Folder(root=str(write_images(root, PUBLISHED)))
    assert contents(layout) == Contents(("normal", "abnormal"), 19, ("F0", "P1"))
    found = samples(layout)
    assert [(sample.split, sample.label) for sample in found] == (
        [("train", 0)] * 12 + [("test", 0)] * 4 + [("test", 1)] * 3
    )
    assert [sample.sample_id for sample in found[:2]] == ["train/0.normal/000.png", "train/0.normal/001.png"]
    assert len({sample.sample_id for sample in found}) == 19
    assert {sample.image.shape for sample in found} == {(3, 9, 9), (3, 9, 10)}


def test_mvtecs_classes_are_good_and_its_defects(root: Path) -> None:
    write_images(root, {**MVTEC, "ground_truth/hole": 2})
    layout = Mvtec(root=str(root))
    assert contents(layout) == Contents(("good", "crack", "hole"), 39, ("F0", "P1"))
    found = samples(layout)
    assert [sample.label for sample in found] == [0] * 30 + [1] * 4 + [2] * 5
    info = own("bottles", layout, contents(layout))
    assert (info.abnormal(), info.huntable()) == (("crack", "hole"), ("crack", "hole", "any"))


def test_class_folders_leave_one_class_out(root: Path) -> None:
    layout = Classes(root=str(write_images(root, ANIMALS)))
    assert contents(layout) == Contents(("cat", "dog", "eel"), 36, ("C1",))
    assert [(sample.split, sample.label) for sample in samples(layout)] == (
        [("all", 0)] * 10 + [("all", 1)] * 12 + [("all", 2)] * 14
    )
    chosen = replace(layout, classes=("eel", "cat"))
    assert contents(chosen) == Contents(("eel", "cat"), 24, ("C1",))
    one_normal = replace(layout, normal="dog")
    assert contents(one_normal) == Contents(("dog", "cat", "eel"), 36, ("P1",))


def test_class_folders_in_train_and_test_keep_that_split(root: Path) -> None:
    write_images(root, {f"{part}/{name}": 3 for part in ("train", "test") for name in ("a", "b")})
    assert contents(Classes(root=str(root))) == Contents(("a", "b"), 12, ("C0", "C1"))
    assert [sample.split for sample in samples(Classes(root=str(root)))] == ["train"] * 6 + ["test"] * 6
    shutil.rmtree(root / "train" / "b")
    assert contents(Classes(root=str(root), normal="a")) == Contents(("a", "b"), 9, ("F0", "P1"))


def test_images_of_one_folder_inside_a_class_are_a_group(root: Path) -> None:
    write_images(root, {"a/scan 1": 2, "b/scan 1/deeper": 1, "b": 1})
    found = samples(Classes(root=str(root), groups="folder"))
    assert [(sample.sample_id, sample.group) for sample in found] == [
        ("a/scan 1/000.png", "scan 1"),
        ("a/scan 1/001.png", "scan 1"),
        ("b/000.png", ""),
        ("b/scan 1/deeper/000.png", "scan 1"),
    ]
    assert {sample.group for sample in samples(Classes(root=str(root)))} == {""}


def test_a_group_in_train_and_in_test_is_a_problem(root: Path) -> None:
    write_images(root, {f"{part}/{name}/scan 1": 1 for part in ("train", "test") for name in ("a", "b")})
    assert problems(Classes(root=str(root), groups="folder")) == [
        ": folder scan 1 is in train and in test, but its images must be on one side"
    ]


def test_hidden_and_other_files_are_left_alone_and_links_are_followed(root: Path, tmp_path: Path) -> None:
    write_images(root, {"a": 2})
    write_images(tmp_path / "elsewhere", {"b": 3})
    (root / "b").symlink_to(tmp_path / "elsewhere" / "b", target_is_directory=True)
    write_images(root, {".git": 1, "a/.thumbnails": 1})
    (root / "a" / "Thumbs.db").write_bytes(b"")
    (root / "a" / "._000.png").write_bytes(b"")
    (root / "a" / "UPPER.PNG").write_bytes((root / "a" / "000.png").read_bytes())
    assert [sample.sample_id for sample in samples(Classes(root=str(root)))] == [
        "a/000.png", "a/001.png", "a/UPPER.PNG", "b/000.png", "b/001.png", "b/002.png",
    ]  # fmt: skip


@pytest.mark.parametrize("layout", [Folder, Mvtec, Classes])
def test_a_folder_that_is_not_there_is_one_problem(layout: type[Layout], root: Path) -> None:
    assert problems(layout(root=str(root))) == [": no such folder"]


def test_all_problems_of_a_published_layout_are_told_at_once(root: Path) -> None:
    write_images(root, {"train/0.normal": 0, "train/1.abnormal": 1, "test/1.abnormal": 1, "test/2.more": 1})
    assert problems(Folder(root=str(root))) == [
        "train/1.abnormal: is not one of 0.normal",
        "test: has no folder 0.normal",
        "test/2.more: is not one of 0.normal, 1.abnormal",
    ]


def test_all_problems_of_mvtecs_layout_are_told_at_once(root: Path) -> None:
    write_images(root, {"train/hole": 1, "test/good": 0})
    assert problems(Mvtec(root=str(root))) == [
        "train: has no folder good",
        "train/hole: only good can be trained on",
        "test: has no folder of a defect in addition to good",
    ]
    shutil.rmtree(root / "test")
    assert problems(Mvtec(root=str(root))) == ["test: cannot be read: No such file or directory"]


def test_all_empty_classes_are_told_at_once(root: Path) -> None:
    write_images(root, {"a": 0, "b": 1, "c": 0})
    assert [line.partition(" (")[0] for line in problems(Classes(root=str(root)))] == [
        "a: no image in it", "c: no image in it",
    ]  # fmt: skip


def test_fewer_than_two_classes_and_wrong_names_of_classes_are_problems(root: Path) -> None:
    root.mkdir()
    assert problems(Classes(root=str(root))) == [": needs at least two classes, each with a folder; it has none"]
    write_images(root, {"a": 1})
    assert problems(Classes(root=str(root))) == [": needs at least two classes, each with a folder; it has a"]
    write_images(root, {"b": 1, "any": 1, "mean": 1})
    assert problems(Classes(root=str(root))) == [
        ": a class cannot be named any, because that name means all abnormal classes together",
        ": a class cannot be named mean, because that name means the mean over classes in tables",
    ]
    assert problems(Classes(root=str(root), classes=("a", "b"), normal="c")) == [
        "normal: 'c' is not one of the classes a, b"
    ]
    assert problems(Classes(root=str(root), classes=("a", "b", "a"))) == ["classes: a, b, a has a name more than once"]
    assert problems(Classes(root=str(root), classes=("a", "z")))[0] == "z: cannot be read: No such file or directory"


def test_a_folder_that_cannot_be_read_is_named(root: Path) -> None:
    write_images(root, {"cat": 1})
    (root / "dog").symlink_to("dog", target_is_directory=True)
    assert problems(Classes(root=str(root), classes=("cat", "dog")))[0] == (
        "dog: cannot be read: Too many levels of symbolic links"
    )


def test_a_name_that_is_not_text_is_told(root: Path) -> None:
    write_images(root, ANIMALS)
    os.rename(root / "cat" / "000.png", os.fsencode(root / "cat") + b"/\xff.png")
    assert problems(Classes(root=str(root))) == ["cat: the name 'cat/\\udcff.png' is not UTF-8"]


def test_bad_images_stop_a_put_or_are_skipped_and_listed(root: Path, store: Store) -> None:
    layout = Mvtec(root=str(write_images(root, MVTEC)))
    (root / "train/good/003.png").write_bytes(b"no image")
    (root / "test/hole/001.png").unlink()
    (root / "test/hole/001.png").symlink_to(root / "nowhere")
    with pytest.raises(DataError, match=r"train/good/003\.png: is not an image.*data\.on_bad: skip"):
        store_folder(store, layout)
    assert read_manifest(store, "mine", own("mine", layout, contents(layout)).preparation(16)) is None
    manifest = store_folder(store, layout, skip_bad=True)
    assert [(skipped.source, skipped.reason) for skipped in manifest.skipped] == [
        ("train/good/003.png", "is not an image, or an image of an unknown kind"),
        ("test/hole/001.png", "cannot be read: No such file or directory"),
    ]
    assert manifest.counts == {"good": 29, "crack": 4, "hole": 4} and manifest.rows == 37
    with pytest.raises(DataError, match=r"train/good/003\.png: is not an image"):
        store_folder(store, layout)


def test_images_in_both_splits_are_counted(root: Path, store: Store) -> None:
    write_images(root, MVTEC)
    for number in (0, 1):
        shutil.copy(root / f"train/good/00{number}.png", root / f"test/good/copy{number}.png")
    assert store_folder(store, Mvtec(root=str(root))).duplicates == 2


def test_a_stored_set_carries_its_protocols_to_the_trial(root: Path, store: Store, tmp_path: Path) -> None:
    layout = Mvtec(root=str(write_images(root, MVTEC)), size=16)
    manifest = store_folder(store, layout)
    assert manifest.parameters["fit"] == "squash" and manifest.parameters["alpha"] == "over black"
    opened = load(store, "mine", manifest.preparation, tmp_path / "cache")
    assert opened.protocols == ("F0", "P1") and opened.images.shape == (39, 3, 16, 16)
    found = split(opened, "F0", "hole", 0, None)
    assert (len(found.train), int(found.test_labels.sum()), len(found.test)) == (24, 5, 11)
    assert int(split(opened, "F0", "any", 0, None).test_labels.sum()) == 9
    with pytest.raises(ValueError, match="mine has no class 'good': use one of crack, hole, any"):
        split(opened, "F0", "good", 0, None)
    with pytest.raises(ValueError, match="protocol 'C1' is not legal for mine"):
        split(opened, "C1", "hole", 0, None)


def test_a_changed_folder_under_the_same_preparation_is_refused(root: Path, store: Store) -> None:
    layout = Classes(root=str(write_images(root, ANIMALS)))
    before = store_folder(store, layout)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(root / "cat" / "000.png")
    with pytest.raises(DataError, match="holds other content than this source gives"):
        store_folder(store, layout)
    assert store_folder(store, replace(layout, fit="crop")).preparation != before.preparation


@pytest.mark.parametrize("layout", LAYOUTS.values())
def test_a_preparation_names_every_parameter_that_decides_content(layout: type[Layout]) -> None:
    plain = layout(root="a")
    unchanged = {"root": "b", "licence": "x", "citation": "x", "max_pixels": 7}
    changed = {
        "channels": 1,
        "fit": "crop",
        "sixteen_bits": "scale",
        "classes": ("a",),
        "normal": "a",
        "groups": "folder",
        "images": "a",
        "annotations": "a.csv",
        "format": "csv",
        "unannotated": "benign",
        "window": 32,
        "stride": 8,
        "scale": 0.5,
        "iou": 0.5,
        "partial": "normal",
        "crops": False,
        "blank": 1.0,
        "normal_from": "benign",
        "per_scan": 8,
    }
    for name in asdict(plain).keys() - {"size", "interpolation", "layout"}:
        other = replace(plain, **{name: {**unchanged, **changed}[name]})  # type: ignore[arg-type]
        assert (other.digest() == plain.digest()) == (name in unchanged), name
    assert len({kind(root="a").digest() for kind in LAYOUTS.values()}) == len(LAYOUTS)
    info = own("mine", replace(plain, interpolation="box"), Contents(("a", "b"), 2, ("F0",)))
    assert info.preparation(16).startswith("s16-box-1-")


def test_a_folder_is_listed_without_numpy_and_without_opening_an_image(root: Path) -> None:
    write_images(root, ANIMALS)
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    code = (
        "import sys; from data import catalog; from data.sources import layouts; "
        "print(catalog.contents(layouts.Classes(root=sys.argv[1])).images, "
        "[name for name in ('numpy', 'PIL', 'pyarrow', 'torch') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(root)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "36 []"


@pytest.mark.parametrize(("name", "images"), [("uba", 230_275), ("ffob", 72_352)])
def test_private_sets_are_declared_with_counts_that_add_up(name: str, images: int) -> None:
    info = dataset(name)
    assert sum(info.counts) == info.images == images
    assert len(info.counts) == len(info.classes)


@pytest.mark.parametrize("name", ["uba", "ffob"])
def test_a_private_dataset_without_its_files_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    for root in (None, tmp_path):
        with pytest.raises(DataError, match=f"{name} is (private|restricted).*set data.root .* {name}/normal"):
            open_source(dataset(name), root)


def test_uba_is_stored_and_split_if_its_files_are_there(root: Path, store: Store, tmp_path: Path) -> None:
    write_images(root / "uba", {f"{title}/scan{scan}": 2 for title in dataset("uba").classes for scan in range(5)})
    manifest = put(store, "uba", size=64, root=root)
    assert manifest.counts == dict.fromkeys(dataset("uba").classes, 10)
    opened = load(store, "uba", manifest.preparation, tmp_path / "cache")
    found = split(opened, "P1", "knife", 0, None)
    assert len(found.train) == 8 and set(opened.labels[found.test]) == {0, 3}
    assert not set(opened.groups[found.train]) & set(opened.groups[found.test])
