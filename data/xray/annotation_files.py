"""Annotations of scans: CSV, Pascal VOC XML and YOLO text to rows, each with what is wrong with itself."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from data.errors import DataError
from data.xray.boxes import NORMAL, Annotations, Box, Row

SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
NAMES_FILES = ("classes.txt", "obj.names")  # of YOLO: line n names class n
FORMATS = ("csv", "voc", "yolo")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
LARGEST_FILE = 2**24  # bytes of the annotation of one scan


def read(
    root: Path,
    *,
    images: str = "",
    annotations: str = "",
    format: str = "",  # noqa: A002 (the word that users write)
    classes: tuple[str, ...] = (),
) -> Annotations:
    """All that annotations say; no image is opened.

    Args:
        root: folder of images and annotations.
        images: folder of the images below `root`; "" for `root` itself.  Names in annotations are
            paths below it, or their last parts where these are unique.
        annotations: a CSV file, or the folder of XML or text files, below `root`; "" to search all
            of `root`.
        format: "csv" (columns image or filename, class, xmin, ymin, xmax, ymax, and perhaps width,
            height; a benign scan has one row without a box), "voc" (a Pascal VOC file of the
            image's name for each) or "yolo" (the same as text: class number, then centre x, centre y,
            width, height in shares; names by line in `classes.txt` or `obj.names`); "" for
            whichever is there.
        classes: for "yolo" without a file of names they are the names.

    Raises:
        DataError: if there are no images, or no annotations, or more than one format of them.
    """
    found = _images(root / images)
    names = _Names(found)
    format, files = _annotation_files(root / annotations, format, names)  # noqa: A001
    return Annotations(found, tuple(files), tuple(_READERS[format](files, names, classes)))


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
                        f"{', '.join(CORNERS)}, and width and height may be there; found {', '.join(columns)}"
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
        return Row(where, image, problem=f"a number is missing or none: {error}")
    if title not in ("", NORMAL):
        return Row(where, image, problem=f"class {title!r} without a box; a benign scan has no class")
    return Row(where, image, size)


def _from_voc(files: list[Path], names: _Names, classes: tuple[str, ...]) -> Iterator[Row]:  # noqa: ARG001
    for file in files:
        image = names.beside(file)
        try:
            root = _parse(file)
            image = names.find((root.findtext("filename") or "").strip()) or image
            size = _voc_size(root)
            boxes = [_voc_box(element) for element in root.iterfind("object")]
        except ValueError as error:  # DataError is one, and so are numbers that are none
            yield Row(file.name, image, problem=str(error))
            continue
        yield Row(file.name, image, size)  # the scan is annotated, if only as benign
        for number, box in enumerate(boxes, 1):
            yield Row(f"{file.name} object {number}", image, size, box)


def _parse(file: Path) -> Element:
    from defusedxml import DefusedXmlException  # here: other formats need no XML
    from defusedxml.ElementTree import fromstring

    try:
        root: Element = fromstring(_content(file), forbid_dtd=True)
    except DefusedXmlException as error:
        raise DataError(
            f"declares a document type or entities, which no annotation needs and bombs are made of: {error}"
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
            f"YOLO boxes have class numbers: put their names, a line each, into {' or '.join(NAMES_FILES)} "
            "beside them, or list them as classes"
        )
    for file in files:
        if file.name in NAMES_FILES:
            continue
        image = names.beside(file)
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


def _annotation_files(place: Path, format: str, names: _Names) -> tuple[str, list[Path]]:  # noqa: A002
    """The format, and its files in the order of their paths."""
    if format and format not in FORMATS:
        raise DataError(f"format {format!r} of annotations is not known: use one of {', '.join(FORMATS)}")
    if place.is_file():
        here = [place]
    else:
        here = sorted(path for path in place.rglob("*") if path.suffix in (".csv", ".xml", ".txt", ".names"))
    by_format = {
        "csv": [path for path in here if path.suffix == ".csv"],
        "voc": [path for path in here if path.suffix == ".xml"],
        "yolo": [path for path in here if path.name in NAMES_FILES or path.suffix == ".txt"],
    }
    if not format and not any(names.find(path.with_suffix("").as_posix()) for path in by_format["yolo"]):
        by_format["yolo"] = []  # a README.txt is no annotation
    there = [known for known, files in by_format.items() if files and format in ("", known)]
    if not there:
        raise DataError(
            f"{place}: no annotations{f' of format {format}' if format else ''} there: expected one CSV file, "
            "Pascal VOC files (.xml), or YOLO files (.txt)"
        )
    if len(there) > 1:
        raise DataError(f"{place}: annotations of more than one format there ({', '.join(there)}): name the format")
    if there == ["csv"] and len(by_format["csv"]) > 1:
        raise DataError(f"{place}: more than one CSV file there: name one of {_some(by_format['csv'])} as annotations")
    return there[0], by_format[there[0]]


def _images(folder: Path) -> dict[str, Path]:
    """Path below the folder -> file, sorted."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise DataError(f"{folder}: no images there; their names end in {', '.join(sorted(SUFFIXES))}")
    return {path.relative_to(folder).as_posix(): path for path in paths}


class _Names:
    """Finds the image that an annotation means, by the longest end of a path that only one image has."""

    def __init__(self, images: Iterable[str]) -> None:
        self._ends: dict[str, str | None] = {}
        for image in images:
            for end in {*_ends(image), *_ends(str(PurePosixPath(image).with_suffix("")))}:
                self._ends[end] = None if end in self._ends else image
            self._ends[image] = image

    def find(self, name: str) -> str | None:
        """The image of this path, or of the end of it."""
        return next(filter(None, map(self._ends.get, _ends(name))), None)

    def beside(self, file: Path) -> str:
        """The image of an annotation file's own name; that name where there is none."""
        return self.find(file.with_suffix("").as_posix()) or file.stem


def _ends(path: str) -> list[str]:
    """All ends of a path, the longest first."""
    parts = path.split("/")
    return ["/".join(parts[first:]) for first in range(len(parts))]


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_FILE + 1)
    except OSError as error:
        raise DataError(f"cannot be read: {error}") from error
    if len(content) > LARGEST_FILE:
        raise DataError(f"more than {LARGEST_FILE:,} bytes: no annotation of one scan")
    return content


def _text(file: Path) -> str:
    try:
        return _content(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text: {error}") from error


def _some(files: Sequence[Path], most: int = 5) -> str:
    return ", ".join([*(file.name for file in files[:most]), *(["..."] if len(files) > most else [])])
