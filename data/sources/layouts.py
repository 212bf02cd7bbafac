"""Layouts of folders with a user's own images, as one dataclass per layout.

This module imports the standard library alone.  To add a layout, write a dataclass here, an entry of `LAYOUTS`, and a
module.  The fields of the dataclass are the keys of `data.sets.NAME`; the metadata of a field are its help text and its
limits.  The dataclass's `source` is the name of the module, which has two functions:

    contents(layout) -> Contents                        facts for a plan, from names alone: without numpy or images
    read(layout, skip_bad) -> data.sources.base.Source  the images
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

UNNAMED = "none stated"
ANY = "any"  # name of all abnormal classes together, if the first class is the only normal one
Side = Literal[8, 16, 28, 32, 64, 128, 256]


@dataclass(frozen=True)
class Contents:
    """Facts about a dataset's folder that a plan needs.

    Attributes:
        classes: class names; a sample's label is an index into them.  If there is only one normal class, it is first.
        images: approximate number of images.
        protocols: ids that `data.protocols.split` accepts, the default one first.
        revised: ids, with a "v" where there is validation, whose splits may differ from those of the first revision,
            because equal images are on one side; see `revised_protocols`.
    """

    classes: tuple[str, ...]
    images: int
    protocols: tuple[str, ...]
    revised: tuple[str, ...] = ()


def _help(description: str, **limits: Any) -> dict[str, Any]:
    return {"description": description, **limits}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Keys that all layouts have."""

    source: ClassVar[str]
    revision: ClassVar[int] = 1  # must be raised whenever reading changes a pixel, a label or an order
    # Fields outside the digest: the preparation id has them separately, or they do not change the content.
    elsewhere: ClassVar[frozenset[str]] = frozenset(
        {"root", "size", "interpolation", "max_pixels", "licence", "citation"}
    )
    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid", "allow_inf_nan": False}

    root: str = field(metadata=_help("folder of the images"))
    size: Side | None = field(
        default=None, metadata=_help("side of the square images in pixels; none: data.size, else 64")
    )
    channels: Literal[1, 3] = field(default=3, metadata=_help("1: images are converted to grey, 3: to RGB"))
    interpolation: Literal["bilinear", "bicubic", "lanczos", "box"] = field(
        default="bilinear",
        metadata=_help("filter that resizes images: bilinear, bicubic, lanczos or box; the manifest records it"),
    )
    sixteen_bits: Literal["refuse", "scale"] = field(
        default="refuse", metadata=_help("grey images of 16 bits: refuse them, or scale 0-65535 to 0-255")
    )
    max_pixels: int = field(
        default=50_000_000, metadata=_help("images with more pixels count as bad", ge=1, le=89_000_000)
    )
    licence: str = field(default=UNNAMED, metadata=_help("licence of the images, for the manifest"))
    citation: str = field(default=UNNAMED, metadata=_help("citation of the images, for the manifest"))

    def digest(self) -> str:
        """Return 8 hexadecimal digits that depend on every parameter that decides pixels or membership."""
        chosen = {name: value for name, value in asdict(self).items() if name not in self.elsewhere}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True, kw_only=True)
class ImageFiles(Layout):
    """A layout in which every image file is one sample."""

    source: ClassVar[str] = "data.sources.image_folders"

    fit: Literal["squash", "crop"] = field(
        default="squash",
        metadata=_help("images that are not square: squash resizes all of the image, crop takes its centre"),
    )


@dataclass(frozen=True, kw_only=True)
class Folder(ImageFiles):
    """Folders `train/0.normal`, `test/0.normal` and `test/1.abnormal`, as the published code reads them."""

    layout: Literal["folder"] = field(
        default="folder", metadata=_help("train/0.normal, test/0.normal, test/1.abnormal")
    )


@dataclass(frozen=True, kw_only=True)
class Classes(ImageFiles):
    """One folder per class, or folders `train` and `test` with one folder per class in each."""

    layout: Literal["classes"] = field(default="classes", metadata=_help("one folder per class"))
    classes: tuple[str, ...] = field(
        default=(), metadata=_help("folders to read, in this order; none: all folders, sorted by name")
    )
    normal: str | None = field(
        default=None, metadata=_help("the only normal class; none: one class is abnormal, all others are normal")
    )
    groups: Literal["none", "folder"] = field(
        default="none",
        metadata=_help(
            "folder: images in folders of the same name inside the class folders stay on one side of every split"
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Mvtec(ImageFiles):
    """Folders `train/good`, `test/good` and `test/DEFECT`, as in MVTec AD."""

    layout: Literal["mvtec"] = field(default="mvtec", metadata=_help("train/good, test/good, test/DEFECT"))


@dataclass(frozen=True, kw_only=True)
class Scans(Layout):
    """X-ray scans with boxes around threats, cut into patches by the recipe of the University Baggage Dataset."""

    source: ClassVar[str] = "data.xray.scans"

    layout: Literal["scans"] = field(default="scans", metadata=_help("X-ray scans with boxes, cut into patches"))
    images: str = field(default="", metadata=_help("folder of the scans below root; empty: root"))
    annotations: str = field(
        default="",
        metadata=_help("CSV file, or folder of VOC or YOLO files, below root; empty: root is searched for them"),
    )
    format: Literal["auto", "csv", "voc", "yolo"] = field(
        default="auto", metadata=_help("format of the annotations; auto: the format of the files in the folder")
    )
    classes: tuple[str, ...] = field(
        default=(), metadata=_help("legal classes of boxes, in this order; none: all that occur, sorted by name")
    )
    unannotated: Literal["bad", "benign"] = field(
        default="bad", metadata=_help("scans without annotation: bad, as if they could not be read, or benign")
    )
    window: int = field(default=64, metadata=_help("side of the windows in pixels of the scaled scan", ge=8, le=1024))
    stride: int = field(default=32, metadata=_help("pixels from one window to the next", ge=1, le=1024))
    scale: float | None = field(
        default=None,
        metadata=_help(
            "scans are resized by this factor first; none: the factor nearest to 1 at which windows reach at least "
            "half of the boxes of every class; put prints it",
            ge=0.01, le=10,
        ),
    )  # fmt: skip
    iou: float = field(
        default=0.3, metadata=_help("a window is abnormal if its IoU with a box is greater than this", ge=0, lt=1)
    )
    partial: Literal["left_out", "normal"] = field(
        default="left_out",
        metadata=_help("windows with an IoU above 0 and up to iou: left_out, or normal as in the published recipe"),
    )
    crops: bool = field(default=True, metadata=_help("one more abnormal patch for every box: the square around it"))
    blank: float = field(
        default=0.9,
        metadata=_help("normal windows with a greater share of air are left out; 1: none is left out", ge=0, le=1),
    )
    normal_from: Literal["all", "benign"] = field(
        default="all",
        metadata=_help("scans that give normal windows; benign: those without a box, perhaps from another machine"),
    )
    per_scan: int = field(default=64, metadata=_help("most patches of one class from one scan; 0: no limit", ge=0))


LAYOUTS: dict[str, type[Layout]] = {"folder": Folder, "classes": Classes, "mvtec": Mvtec, "scans": Scans}
