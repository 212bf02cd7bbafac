"""Scans with boxes as datasets: a user's own scans and the rendered substitute use the same code."""

from __future__ import annotations

import hashlib
import re
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from data import catalog, protocols
from data.catalog import DatasetInfo
from data.errors import DataError
from data.sources.base import Sample, Skipped
from data.sources.layouts import ANY, Scans
from data.storage import shards
from data.storage.loader import Dataset, load
from data.xray import scans
from data.xray import synthetic as xray_synthetic
from sweep.cli.datasets import put
from sweep.errors import UserError
from sweep.spec.load import resolve
from sweep.spec.sweep import Sweep
from sweep.store import open_store

WIDTH, HEIGHT = 96, 80
THREAT = (20, 24, 60, 64)


def write(root: Path, count: int = 12) -> None:
    """Write scans of noise: every second one has a gun, every fourth one also a knife."""
    random = np.random.RandomState(0)
    lines = ["image,class,xmin,ymin,xmax,ymax"]
    for number in range(count):
        name = f"scan {number:02d}.png"
        Image.fromarray(random.randint(0, 200, (HEIGHT, WIDTH, 3)).astype(np.uint8)).save(root / name)
        boxes = [f"gun,{','.join(map(str, THREAT))}"] if number % 2 else []
        boxes += ["knife,60,0,92,32"] if number % 4 == 3 else []
        lines += [f"{name},{box}" for box in boxes or [",,,,"]]
    (root / "boxes.csv").write_text("\n".join(lines))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "a root with 'quotes' and ünicode"
    root.mkdir()
    write(root)
    return root


def layout(root: Path, **keys: Any) -> Scans:
    return Scans(root=str(root), **{"window": 32, "stride": 16, **keys})


def store_and_load(info: DatasetInfo, folder: Path) -> Dataset:
    store = open_store(str(folder / "store"))
    shards.put(store, info, size=32, root=None)
    return load(store, info.name, info.preparation(32), folder / "cache")


def samples(root: Path, **keys: Any) -> list[Sample]:
    return list(scans.read(layout(root, **keys), False).samples())


def test_what_a_plan_needs_is_known_from_the_annotations(root: Path) -> None:
    contents = scans.contents(layout(root))
    assert contents.classes == ("normal", "gun", "knife")
    assert contents.protocols == ("P1",)
    assert len(samples(root)) <= contents.images
    assert scans.contents(layout(root, classes=("knife", "gun"))).classes == ("normal", "knife", "gun")


def test_every_patch_says_its_scan_its_place_and_its_class(root: Path) -> None:
    found = samples(root)
    assert len({sample.sample_id for sample in found}) == len(found)
    for sample in found:
        assert sample.image.shape == (3, 32, 32)
        assert sample.split == "all"
        assert sample.group == sample.source == sample.sample_id.partition("@")[0]
        assert sample.label in (0, 1) or int(sample.source[5:7]) % 4 == 3
    assert {sample.label for sample in found} == {0, 1, 2}
    with_threats = {sample.group for sample in found if sample.label}
    assert with_threats & {sample.group for sample in found if not sample.label}


def test_any_range_of_scans_can_be_read_again(root: Path) -> None:
    source = scans.read(layout(root), False)
    whole = [sample.sample_id for sample in source.samples()]
    parts = [sample.sample_id for first in (0, 5, 10) for sample in source.samples(first, min(first + 5, source.count))]
    assert source.count == 12
    assert parts == whole
    assert source.samples_per_item * source.count >= len(whole) / 2


def test_grey_scans_give_grey_patches(root: Path) -> None:
    assert {sample.image.shape for sample in samples(root, channels=1)} == {(1, 32, 32)}


def test_the_chosen_scale_and_what_it_reaches_are_told(root: Path) -> None:
    parameters = scans.read(layout(root), False).parameters
    assert parameters["scale"] == 1
    assert parameters["scale_from"] == "boxes"
    assert parameters["reached"] == "gun 6/6, knife 3/3"
    by_hand = scans.read(layout(root, scale=0.3), False).parameters
    assert by_hand["scale"] == 0.3
    assert by_hand["scale_from"] == "user"
    assert by_hand["reached"] == "gun 0/6, knife 0/3"


def test_a_threats_scan_gives_no_normal_windows_on_request(root: Path) -> None:
    assert all(sample.label or int(sample.source[5:7]) % 2 == 0 for sample in samples(root, normal_from="benign"))


def spoil(root: Path) -> None:
    text = (root / "boxes.csv").read_text()
    text = text.replace("scan 01.png,gun,20", "scan 01.png,gun,70").replace("scan 06.png,", "scan 60.png,")
    (root / "boxes.csv").write_text(text)


def test_all_problems_of_the_annotations_are_told_before_any_scan_is_read(root: Path) -> None:
    spoil(root)
    (root / "scan 04.png").write_bytes((root / "scan 04.png").read_bytes()[:200])
    with pytest.raises(DataError) as caught:
        scans.read(layout(root), False)
    head, *problems = str(caught.value).split("\n")
    assert head == f"3 scans with problems in {root}:"
    assert [problem.partition(":")[0] for problem in problems] == ["scan 01.png", "scan 06.png", "scan 60.png"]
    assert "has no area" in problems[0]


def test_faulty_scans_are_skipped_whole_on_request(root: Path) -> None:
    spoil(root)
    (root / "scan 04.png").write_bytes((root / "scan 04.png").read_bytes()[:200])
    source = scans.read(layout(root), True)
    found = list(source.read(0, source.count))
    skipped = [entry.source for entry in found if isinstance(entry, Skipped)]
    assert skipped == ["scan 01.png", "scan 04.png", "scan 06.png", "scan 60.png"]
    assert not {sample.group for sample in found if isinstance(sample, Sample)} & set(skipped)


def test_scans_without_any_box_are_no_dataset(root: Path) -> None:
    (root / "boxes.csv").write_text("image,class,xmin,ymin,xmax,ymax\nscan 01.png,,,,,\n")
    with pytest.raises(DataError, match="no box in any annotation"):
        scans.contents(layout(root))


def test_where_no_box_can_be_read_it_is_said_why(root: Path) -> None:
    (root / "boxes.csv").write_text("image,class,xmin,ymin,xmax,ymax\nscan 01.png,gun,1,2,x,4\n")
    with pytest.raises(DataError, match=r"no box in any annotation[^\n]*\nboxes\.csv line 2: a number is missing"):
        scans.contents(layout(root))


@pytest.mark.parametrize("classes", [("gun", "gun"), ("gun", "normal"), ("any",), ("gun", "")])
def test_names_that_mean_something_else_are_no_classes(classes: tuple[str, ...], root: Path) -> None:
    with pytest.raises(DataError, match="must be different names, and none of them normal"):
        scans.contents(layout(root, classes=classes))


@pytest.mark.parametrize("problem", ["turned", "sixteen bits", "too large"])
def test_a_scan_that_is_not_what_its_boxes_are_for_is_bad(root: Path, problem: str) -> None:
    if problem == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6  # a quarter turn
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(root / "scan 01.png", exif=exif)
    if problem == "sixteen bits":
        Image.fromarray(np.full((HEIGHT, WIDTH), 40_000, np.uint16)).save(root / "scan 01.png")
    source = scans.read(layout(root, max_pixels=100 if problem == "too large" else 10_000), False)
    with pytest.raises(DataError, match={"turned": "turned", "sixteen bits": "16 bits"}.get(problem, "more than max")):
        list(source.samples(1, 2))


def test_a_user_puts_his_scans_and_is_told_how_they_were_cut(root: Path, tmp_path: Path) -> None:
    output = StringIO()
    put(sweep_of(tmp_path, root=str(root)), "xray", Console(file=output, width=200))
    first, counts, scale = output.getvalue().splitlines()
    assert first.startswith("xray: ") and "images in the store" in first
    assert re.fullmatch(r"  normal \d+, gun \d+, knife \d+ patches", counts)
    assert scale == "  scale 1.0 (chosen from the boxes): windows reach IoU > 0.3 with boxes of gun 6/6, knife 3/3"


def test_what_a_user_says_of_his_scans_is_checked(root: Path, tmp_path: Path) -> None:
    assert sweep_of(tmp_path, root=str(root)).studies[0].abnormal == ("gun", "knife")
    with pytest.raises(UserError) as caught:
        sweep_of(tmp_path, root=str(root), stride=0, partial="some", scale=100, strid=3)
    message = "\n".join(caught.value.problems)
    for key in ("stride", "partial", "scale", "strid"):
        assert f"data.sets.xray{'' if key == 'strid' else '.' + key}: " in message
    assert "did you mean 'stride'?" in message


def sweep_of(folder: Path, **keys: Any) -> Sweep:
    study = {"name": "s", "kind": "error_bars", "datasets": ["xray"], "detectors": ["knn"], "abnormal": "all"}
    own_sets = {"xray": {"layout": "scans", "window": 32, "stride": 16, **keys}}
    return resolve({"storage": str(folder / "store"), "data": {"sets": own_sets}, "sweep": {"studies": [study]}})


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return store_and_load(catalog.dataset("xray_synthetic"), tmp_path_factory.mktemp("synthetic"))


def own(root: Path, tmp_path: Path) -> Dataset:
    keys = layout(root)
    return store_and_load(catalog.own("xray", keys, catalog.contents(keys)), tmp_path)


@pytest.mark.parametrize("validation", [None, (0.2, 0.5)])
@pytest.mark.parametrize("split_seed", [0, 1])
def test_no_scan_is_on_two_sides(
    root: Path, tmp_path: Path, synthetic: Dataset, split_seed: int, validation: tuple[float, float] | None
) -> None:
    for dataset in (own(root, tmp_path), synthetic):
        for abnormal in (*dataset.classes[1:], ANY):
            if dataset is not synthetic and validation:
                continue  # too few scans to carve from
            parted = protocols.split(dataset, "P1v" if validation else "P1", abnormal, split_seed, validation)
            sides = [set(dataset.groups[side]) for side in (parted.train, parted.test, parted.validation)]
            assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
            assert not dataset.labels[parted.train].any()
            abnormal_labels = dataset.labels[parted.test][parted.test_labels == 1]
            assert abnormal == ANY or set(abnormal_labels) == {dataset.classes.index(abnormal)}


def test_the_stand_in_is_what_the_catalog_says(synthetic: Dataset) -> None:
    info = catalog.dataset("xray_synthetic")
    counts = np.bincount(synthetic.labels)
    assert synthetic.classes == info.classes == xray_synthetic.CLASSES
    assert len(synthetic.labels) == info.images
    assert counts.min() >= 50
    with_threats = set(synthetic.groups[synthetic.labels > 0])
    assert len(set(synthetic.groups)) == 160 and len(with_threats) == 120
    assert with_threats <= set(synthetic.groups[synthetic.labels == 0])


def test_scans_are_rendered_alike_on_every_machine() -> None:
    content = hashlib.sha256()
    for bag in xray_synthetic.bags()[::7]:
        content.update(repr(bag.scan).encode())
        content.update(xray_synthetic.render(bag).tobytes())
    assert content.hexdigest() == "6497a810e5679ee29e30a18481dbc05ea056edc0ac5be10c30ef9fa4d1ce1eb9"


def test_a_threats_box_is_where_it_absorbs() -> None:
    for bag in xray_synthetic.bags()[1:20:3]:
        if not bag.scan.boxes:
            continue
        without = xray_synthetic.render(bag._replace(objects=bag.objects[:-1]))
        changed = (xray_synthetic.render(bag) != without).any(axis=0)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        (box,) = bag.scan.boxes
        assert box.xmin <= columns[0] <= columns[-1] < box.xmax
        assert box.ymin <= rows[0] <= rows[-1] < box.ymax


@pytest.mark.parametrize("material", [xray_synthetic.ORGANIC, xray_synthetic.MIXED, xray_synthetic.METAL])
def test_depths_of_overlapping_shapes_add_up(material: tuple[int, int]) -> None:
    """Two layers pass the square of the share that one layer passes, by the law of Beer and Lambert."""
    layer = xray_synthetic.Shape("slab", material, 2, 0, 0, 5, 5)
    bag = xray_synthetic.bags()[0]
    one, two = (
        xray_synthetic.render(bag._replace(objects=(xray_synthetic.Object(50, 50, 0, (layer,) * layers),)))
        for layers in (1, 2)
    )
    single, double = (image[:, 46:55, 46:55].mean(axis=(1, 2)) / 255 for image in (one, two))
    assert np.all(double < single)
    assert np.allclose(single**2, double, atol=0.03)
