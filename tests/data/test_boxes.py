"""Annotations in three formats give the same scans with boxes, and every problem in them is reported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.sources.base import Skipped
from data.xray import annotation_files
from data.xray.boxes import Box, Scan, check_annotations

SIDES = (200, 100)
CLASSES = ("gun", "knife")
BOXES = {
    "a gun.png": (Box("gun", 10, 20, 60, 70),),
    "benign.png": (),
    "both'ü.png": (Box("knife", 0, 0, 200, 10), Box("gun", 100, 50, 200, 100)),
}
COLUMNS = "image,width,height,class,xmin,ymin,xmax,ymax"


def images(folder: Path, names: Mapping[str, object] | tuple[str, ...] = tuple(BOXES)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.fromarray(np.zeros((SIDES[1], SIDES[0], 3), np.uint8)).save(folder / name)


def csv(root: Path, *lines: str, columns: str = COLUMNS) -> None:
    (root / "annotations.csv").write_text("\n".join([columns, *lines, ""]), encoding="utf-8-sig")


def voc(title: str = "gun", corners: tuple[object, ...] = (10, 20, 60, 70), head: str = "", name: str = "") -> str:
    tags = "".join(f"<{tag}>{corner}</{tag}>" for tag, corner in zip(annotation_files.CORNERS, corners, strict=True))
    return (
        f"{head}<annotation><filename>{name}</filename><size><width>200</width><height>100</height></size>"
        f"<object><name>{title}</name><bndbox>{tags}</bndbox></object></annotation>"
    )


def check(
    root: Path, *, classes: tuple[str, ...] = CLASSES, benign: bool = False, **options: Any
) -> list[Scan | Skipped]:
    return check_annotations(annotation_files.read(root, **options), classes, benign_unannotated=benign)


def problems(root: Path, **options: Any) -> dict[str, str]:
    return {scan.source: scan.reason for scan in check(root, **options) if isinstance(scan, Skipped)}


@pytest.fixture(params=["csv", "voc", "yolo"])
def annotated_root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a folder with the same scans and boxes in each format; images have a separate folder."""
    root = tmp_path / "a root with 'quotes' and ünicode"
    images(root / "images")
    if request.param == "csv":
        lines = [f"{name},200,100,{','.join(map(str, box))}" for name, boxes in BOXES.items() for box in boxes]
        csv(root, "benign.png,200,100,,,,,", *lines)
    for name, boxes in BOXES.items():
        stem = name.removesuffix(".png")
        if request.param == "voc":
            (root / "Annotations").mkdir(exist_ok=True)
            objects = "".join(
                voc(box.title, box[1:]).partition("</size>")[2].removesuffix("</annotation>") for box in boxes
            )
            text = f"<annotation><filename>{name}</filename>{objects}</annotation>"
            (root / "Annotations" / f"{stem}.xml").write_text(text, encoding="utf-8")
        if request.param == "yolo":
            (root / "labels").mkdir(exist_ok=True)
            (root / "classes.txt").write_text("gun\nknife\n")
            lines = [
                f"{CLASSES.index(title)} {(x1 + x2) / 400} {(y1 + y2) / 200} {(x2 - x1) / 200} {(y2 - y1) / 100}"
                for title, x1, y1, x2, y2 in boxes
            ]
            (root / "labels" / f"{stem}.txt").write_text("\n".join(lines), encoding="utf-8")
    return root


def test_all_formats_give_the_same_scans(annotated_root: Path) -> None:
    scans = check(annotated_root)
    assert [scan.image for scan in scans if isinstance(scan, Scan)] == [f"images/{name}" for name in BOXES]
    for scan, boxes in zip(scans, BOXES.values(), strict=True):
        assert isinstance(scan, Scan)
        assert (scan.width, scan.height) == SIDES
        assert [box.title for box in scan.boxes] == [box.title for box in boxes]
        assert np.allclose([box[1:] for box in scan.boxes], [box[1:] for box in boxes], atol=1e-9)
    assert annotation_files.read(annotated_root).titles() == CLASSES


def test_images_may_have_a_folder_of_their_own(annotated_root: Path) -> None:
    assert [scan[0] for scan in check(annotated_root, images="images")] == list(BOXES)


def test_all_problems_are_told_at_once_each_with_its_line(tmp_path: Path) -> None:
    images(
        tmp_path, ("area.png", "class.png", "fine.png", "inf.png", "number.png", "out.png", "size.png", "silent.png")
    )
    (tmp_path / "broken.png").write_bytes(b"no image")
    csv(
        tmp_path,
        "fine.png,200,100,gun,1,1,50,50",
        "area.png,200,100,gun,20,10,20,50",
        "class.png,200,100,gin,1,1,50,50",
        "class.png,200,100,normal,1,1,50,50",
        "class.png,200,100,knife,,,,",
        "inf.png,200,100,gun,1,1,inf,50",
        "number.png,200,100,gun,1,,50,many",
        "out.png,200,100,gun,150,1,230,50",
        "size.png,400,200,gun,1,1,50,50",
        "gone.png,200,100,gun,1,1,50,50",
        "../fine.png.gone,200,100,gun,1,1,50,50",
        "broken.png,200,100,gun,1,1,50,50",
    )
    assert problems(tmp_path) == {
        "../fine.png.gone": "annotations.csv line 12: names the image '../fine.png.gone', which does not exist",
        "area.png": "annotations.csv line 3: box 20, 10, 20, 50 of class gun has no area",
        "broken.png": "annotations.csv line 13: not an image that can be read",
        "class.png": "annotations.csv line 4: unknown class 'gin' (is it gun?): use one of gun, knife; "
        "annotations.csv line 5: a box of class 'normal', which is the class of everything outside boxes; "
        "annotations.csv line 6: class 'knife' without a box; a benign scan has no class",
        "gone.png": "annotations.csv line 11: names the image 'gone.png', which does not exist",
        "inf.png": "annotations.csv line 7: box 1, 1, inf, 50 of class gun: not finite numbers",
        "number.png": "annotations.csv line 8: a number is missing or cannot be read: "
        "could not convert string to float: ''",
        "out.png": "annotations.csv line 9: box 150, 1, 230, 50 of class gun lies outside its scan of 200 x 100 pixels",
        "silent.png": "no annotation names this image",
        "size.png": "annotations.csv line 10: has the size 400 x 200 pixels, but the image has 200 x 100",
    }
    assert [scan.image for scan in check(tmp_path) if isinstance(scan, Scan)] == ["fine.png"]


def test_a_scan_that_no_annotation_names_is_benign_on_request(tmp_path: Path) -> None:
    images(tmp_path, ("a.png", "b.png"))
    csv(tmp_path, "a.png,200,100,gun,1,1,50,50")
    assert check(tmp_path, benign=True)[1] == Scan("b.png", *SIDES, ())


def test_corners_counted_from_one_are_cut_at_the_edge(tmp_path: Path) -> None:
    images(tmp_path, ("a.png",))
    csv(tmp_path, "a.png,200,100,gun,1,1,201,100.5")
    (scan,) = check(tmp_path)
    assert isinstance(scan, Scan)
    assert scan.boxes == (Box("gun", 1, 1, 200, 100),)


def test_a_box_that_is_nothing_but_rounding_has_no_area(tmp_path: Path) -> None:
    images(tmp_path, ("a.png",))
    csv(tmp_path, "a.png,200,100,gun,200,1,201,50")
    assert "no area inside its scan" in problems(tmp_path)["a.png"]


def test_texts_beside_other_annotations_are_none(tmp_path: Path) -> None:
    images(tmp_path, ("a.png",))
    csv(tmp_path, "a.png,200,100,gun,1,1,50,50")
    (tmp_path / "README.txt").write_text("Academic use only.")
    assert check(tmp_path) == [Scan("a.png", *SIDES, (Box("gun", 1, 1, 50, 50),))]


def test_other_programs_columns_are_read(tmp_path: Path) -> None:
    images(tmp_path / "deep", ("a.png",))
    csv(tmp_path, "img\\..\\a.png, gun , 1, 1, 50, 50", columns="filename,class,xmin,ymin,xmax,ymax")
    (scan,) = check(tmp_path)
    assert scan == Scan("deep/a.png", *SIDES, (Box("gun", 1, 1, 50, 50),))


def test_of_images_with_one_name_in_two_folders_the_path_decides(tmp_path: Path) -> None:
    for part in "xy":
        images(tmp_path / "images" / part, ("a.png",))
        (tmp_path / "labels" / part).mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("gun")
    (tmp_path / "labels" / "x" / "a.txt").write_text("0 .5 .5 .5 .5")
    (tmp_path / "labels" / "y" / "a.txt").write_text("")
    first, second = check(tmp_path)
    assert isinstance(first, Scan) and isinstance(second, Scan)
    assert first.boxes == (Box("gun", 50, 25, 150, 75),)
    assert second == Scan("images/y/a.png", *SIDES, ())


BOMB = '<!DOCTYPE a [<!ENTITY b "bomb"><!ENTITY c "&b;&b;&b;&b;">]>'
FILE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (voc("&c;", head=BOMB), "declares a document type or entities"),
        (voc("&b;", head=FILE), "declares a document type or entities"),
        (voc("gun", head="<!DOCTYPE annotation>"), "declares a document type or entities"),
        (voc()[:-20], "not well-formed XML"),
        ("<html></html>", "expected a Pascal VOC <annotation>, found <html>"),
        ("<annotation><object><name>gun</name></object></annotation>", "needs a <bndbox> with xmin"),
        (voc(corners=(1, 2, "many", 4)), "could not convert string to float: 'many'"),
        (voc(corners=(1, 2, "", 4)), "not finite numbers"),
        (voc(""), "a.xml object 1: a box without a class"),
    ],
)
def test_faulty_xml_is_a_problem_of_its_scan(text: str, problem: str, tmp_path: Path) -> None:
    images(tmp_path, ("a.png",))
    (tmp_path / "a.xml").write_text(text)
    assert problem in problems(tmp_path)["a.png"]


def test_xml_may_name_its_image(tmp_path: Path) -> None:
    images(tmp_path, ("a.png",))
    (tmp_path / "first.xml").write_text(voc(name="a.png"))
    (tmp_path / "second.xml").write_text(voc(name="b.png"))
    assert problems(tmp_path) == {"second": "second.xml: names the image 'second', which does not exist; "
                                "second.xml object 1: names the image 'second', which does not exist"}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("2 .5 .5 .1 .1", "unknown class 2: names are known for 0 to 1"),
        ("0 .5 .5 .1", "expected class number, centre x, centre y, width, height: '0 .5 .5 .1'"),
        ("gun .5 .5 .1 .1", "expected class number"),
        ("0 .95 .5 .5 .1", "lies outside its scan"),
        ("0 .5 .5 0 .1", "has no area"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_faulty_yolo_is_a_problem_of_its_scan(text: str | bytes, problem: str, tmp_path: Path) -> None:
    images(tmp_path, ("a.png",))
    (tmp_path / "a.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "obj.names").write_text("gun\nknife\n")
    assert problem in problems(tmp_path)["a.png"]


def test_a_file_that_is_no_annotation_of_one_scan_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annotation_files, "LARGEST_FILE", 100)
    images(tmp_path, ("a.png",))
    (tmp_path / "a.xml").write_text(voc())
    assert problems(tmp_path) == {"a.png": "a.xml: has more than 100 bytes, too many for the annotation of one scan"}


def test_what_is_not_a_set_of_annotated_scans_is_refused(tmp_path: Path) -> None:
    def refusal(**options: Any) -> str:
        with pytest.raises(DataError) as caught:
            annotation_files.read(tmp_path, **options)
        return str(caught.value)

    assert "no images found; their names must end in .bmp" in refusal()
    images(tmp_path, ("a.png",))
    assert "no annotations found: expected one CSV file, Pascal VOC files (.xml), or YOLO files (.txt)" in refusal()
    (tmp_path / "a.txt").write_text("")
    assert "put the names of the classes, one per line, into classes.txt or obj.names" in refusal()
    (tmp_path / "a.xml").write_text(voc())
    assert "more than one format found (voc, yolo): set format" in refusal()
    assert "no annotations of format csv found" in refusal(format="csv")
    csv(tmp_path, "a.png,1,1", columns="image,class,left")
    assert "no column xmin, ymin, xmax, ymax; needed are image (or filename), class" in refusal(format="csv")
    (tmp_path / "more.csv").write_text("")
    assert "set annotations to one of annotations.csv, more.csv" in refusal(format="csv")
    (tmp_path / "annotations.csv").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as CSV" in refusal(annotations="annotations.csv")
