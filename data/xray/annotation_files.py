"""Readers of annotations: CSV, Pascal VOC XML and YOLO text become rows; a row that cannot be read has its problem."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from data.errors import DataError
from data.xray.boxes import NORMAL, Annotations, Box, Row

SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
NAMES_FILES = ("classes.txt", "obj.names")  # files with the names of YOLO classes: line n is class n, counted from 0
FORMATS = ("csv", "voc", "yolo")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
LARGEST_FILE = 2**24  # limit of the annotation file of one scan, in bytes


def read(
    root: Path,
    *,
    images: str = "",
    annotations: str = "",
    format: str = "",  # noqa: A002 (the word that users write)
    classes: tuple[str, ...] = (),
) -> Annotations:
    """Read all annotations of a folder of images, without opening an image.

    Args:
        root: folder of images and annotations.
        images: folder of the images below `root`; "" for `root` itself.  Names in annotations are
            paths below it, or the last parts of such paths if these are unique.
        annotations: a CSV file, or the folder of XML or text files, below `root`; "" to search all
            of `root`.
        format: format of the annotations; "" for the format that is found.
            "csv": columns image or filename, class, xmin, ymin, xmax, ymax, and optionally width and height;
            a benign scan has one row without a box.
            "voc": one Pascal VOC file for each image, with the image's name.
            "yolo": one text file for each image, with the image's name.  Each line has class number, centre x,
            centre y, width and height, the last four as shares.  The lines of `classes.txt` or `obj.names` are
            the names of the classes.
        classes: names of the classes for "yolo", if there is no file of names.

    Raises:
        DataError: if there are no images, no annotations, or annotations of more than one format.
    """
    listed = _images(root / images)
    names = _Names(listed)
    format, files = _annotation_files(root / annotations, format, names)  # noqa: A001
    return Annotations(listed, tuple(files), tuple(_READERS[format](files, names, classes)))


def _from_csv(files: list[Path], names: _Names, classes: tuple[str, ...]) -> Iterator[Row]:  # noqa: ARG001
    for file in files:
        try:
            with file.open(newline="", encoding="utf-8-sig") as lines:
                table = csv.DictReader(lines, skipinitialspace=True)
                columns = table.fieldnames or ()
                key = "image" if "image" in columns else "filename"
                missing = [name for name in (key, "class", *CORNERS) if name not in columns]
                if missing:
                    raise DataError(
                        f"{file}: no column {', '.join(missing)}; needed are image (or filename), class, "
                        f"{', '.join(CORNERS)}; width and height are optional; found {', '.join(columns)}"
                    )
                for line in table:
                    row = _csv_row(f"{file.name} line {table.line_num}", key, line)
                    yield replace(row, image=names.find(row.image) or row.image)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{file}: cannot be read as CSV: {error}") from error


def _csv_row(where: str, key: str, line: Mapping[str, str | None]) -> Row:
    cells = {name: (line.get(name) or "").strip() for name in (key, "class", "width", "height", *CORNERS)}
    image, title = PurePosixPath(cells[key].replace("\\", "/")).as_posix(), cells["class"]
    try:
        size = (float(cells["width"]), float(cells["height"])) if cells["width"] or cells["height"] else None
        if any(cells[corner] for corner in CORNERS):
            xmin, ymin, xmax, ymax = (float(cells[corner]) for corner in CORNERS)
            return Row(where, image, size, Box(title, xmin, ymin, xmax, ymax))
    except ValueError as error:
        return Row(where, image, problem=f"a number is missing or cannot be read: {error}")
    if title not in ("", NORMAL):
        return Row(where, image, problem=f"class {title!r} without a box; a benign scan has no class")
    return Row(where, image, size)


def _from_voc(files: list[Path], names: _Names, classes: tuple[str, ...]) -> Iterator[Row]:  # noqa: ARG001
    for file in files:
        image = names.find_by_file(file)
        try:
            root = _parse(file)
            image = names.find((root.findtext("filename") or "").strip()) or image
            size = _voc_size(root)
            boxes = [_voc_box(element) for element in root.iterfind("object")]
        except ValueError as error:  # a DataError, or text that is not a number
            yield Row(file.name, image, problem=str(error))
            continue
        yield Row(file.name, image, size)  # a row without box: without objects, the scan is annotated as benign
        for number, box in enumerate(boxes, 1):
            yield Row(f"{file.name} object {number}", image, size, box)


def _parse(file: Path) -> Element:
    from defusedxml import DefusedXmlException  # imported here because other formats need no XML
    from defusedxml.ElementTree import fromstring

    try:
        root: Element = fromstring(_content(file), forbid_dtd=True)
    except DefusedXmlException as error:
        raise DataError(
            f"declares a document type or entities, which annotations do not need and attacks use: {error}"
        ) from error
    except ParseError as error:
        raise DataError(f"not well-formed XML: {error}") from error
    if root.tag != "annotation":
        raise DataError(f"expected a Pascal VOC <annotation>, found <{root.tag}>")
    return root


def _voc_size(root: Element) -> tuple[float, float] | None:
    width, height = (float(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    return (width, height) if width and height else None  # some programs write zeros


def _voc_box(element: Element) -> Box:
    texts = [element.findtext(f"bndbox/{corner}") for corner in CORNERS]
    if None in texts:
        raise DataError(f"an <object> needs a <bndbox> with {', '.join(CORNERS)}")
    xmin, ymin, xmax, ymax = (float(text or "nan") for text in texts)
    return Box((element.findtext("name") or "").strip(), xmin, ymin, xmax, ymax)


def _from_yolo(files: list[Path], names: _Names, classes: tuple[str, ...]) -> Iterator[Row]:
    listed = [file for file in files if file.name in NAMES_FILES]
    known = tuple(filter(None, map(str.strip, _text(listed[0]).splitlines()))) if listed else classes
    if not known:
        raise DataError(
            f"YOLO boxes have class numbers: put the names of the classes, one per line, into "
            f"{' or '.join(NAMES_FILES)} in the same folder, or list them as classes"
        )
    for file in files:
        if file.name in NAMES_FILES:
            continue
        image = names.find_by_file(file)
        try:
            lines = _text(file).splitlines()
        except DataError as error:
            yield Row(file.name, image, problem=str(error))
            continue
        yield Row(file.name, image)
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _yolo_row(f"{file.name} line {number}", image, line.split(), known)


def _yolo_row(where: str, image: str, words: list[str], names: tuple[str, ...]) -> Row:
    try:
        label, x, y, width, height = int(words[0]), *map(float, words[1:])
    except (ValueError, IndexError):
        return Row(
            where, image, problem=f"expected class number, centre x, centre y, width, height: {' '.join(words)!r}"
        )
    if not 0 <= label < len(names):
        return Row(where, image, problem=f"unknown class {label}: names are known for 0 to {len(names) - 1}")
    corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    return Row(where, image, box=Box(names[label], *corners), shares=True)


_READERS: dict[str, Callable[[list[Path], _Names, tuple[str, ...]], Iterator[Row]]] = {
    "csv": _from_csv, "voc": _from_voc, "yolo": _from_yolo,
}  # fmt: skip


def _annotation_files(root: Path, format: str, names: _Names) -> tuple[str, list[Path]]:  # noqa: A002
    """Return the format of the annotations in a file or folder, and their files in the order of their paths."""
    if format and format not in FORMATS:
        raise DataError(f"format {format!r} of annotations is not known: use one of {', '.join(FORMATS)}")
    if root.is_file():
        paths = [root]
    else:
        paths = sorted(path for path in root.rglob("*") if path.suffix in (".csv", ".xml", ".txt", ".names"))
    by_format = {
        "csv": [path for path in paths if path.suffix == ".csv"],
        "voc": [path for path in paths if path.suffix == ".xml"],
        "yolo": [path for path in paths if path.name in NAMES_FILES or path.suffix == ".txt"],
    }
    if not format and not any(names.find(path.with_suffix("").as_posix()) for path in by_format["yolo"]):
        by_format["yolo"] = []  # no text file has the name of an image: a README.txt is not an annotation
    present = [known for known, files in by_format.items() if files and format in ("", known)]
    if not present:
        raise DataError(
            f"{root}: no annotations{f' of format {format}' if format else ''} found: expected one CSV file, "
            "Pascal VOC files (.xml), or YOLO files (.txt)"
        )
    if len(present) > 1:
        raise DataError(f"{root}: annotations of more than one format found ({', '.join(present)}): set format")
    if present == ["csv"] and len(by_format["csv"]) > 1:
        raise DataError(f"{root}: more than one CSV file found: set annotations to one of {_some(by_format['csv'])}")
    return present[0], by_format[present[0]]


def _images(folder: Path) -> dict[str, Path]:
    """Return the image files below a folder by their paths below it, sorted."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"{folder}: no images found; their names must end in {', '.join(sorted(SUFFIXES))}")
    return {path.relative_to(folder).as_posix(): path for path in paths}


class _Names:
    """Index of images by the ends of their paths: finds the image that a name in an annotation means.

    The longest end of the name that belongs to exactly one image decides.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self._ends: dict[str, str | None] = {}
        for image in images:
            for end in {*_ends(image), *_ends(str(PurePosixPath(image).with_suffix("")))}:
                self._ends[end] = None if end in self._ends else image
            self._ends[image] = image

    def find(self, name: str) -> str | None:
        """Return the image with this path, or with an end of it; None if there is none."""
        return next(filter(None, map(self._ends.get, _ends(name))), None)

    def find_by_file(self, file: Path) -> str:
        """Return the image that has the name of an annotation file; if there is none, that name."""
        return self.find(file.with_suffix("").as_posix()) or file.stem


def _ends(path: str) -> list[str]:
    """Return all ends of a path, the longest first."""
    parts = path.split("/")
    return ["/".join(parts[first:]) for first in range(len(parts))]


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_FILE + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error}") from error
    if len(content) > LARGEST_FILE:
        raise DataError(f"has more than {LARGEST_FILE:,} bytes, too many for the annotation of one scan")
    return content


def _text(file: Path) -> str:
    try:
        return _content(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text: {error}") from error


def _some(files: Sequence[Path], most: int = 5) -> str:
    return ", ".join([*(file.name for file in files[:most]), *(["..."] if len(files) > most else [])])
