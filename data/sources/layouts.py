"""How folders of a user's own images are laid out: one typed description for each layout.

The standard library alone is needed here.  A new layout is one module and one entry of `LAYOUTS`: its
description is a dataclass here, whose fields are the keys of `data.sets.NAME` (the metadata of a field are
its help and its limits), and its `source` names a module with

    contents(layout) -> Contents                  what a plan needs, from names alone: no numpy, no image
    read(layout, skip_bad) -> data.source.Source  the images
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

UNNAMED = "none stated"
ANY = "any"  # stands for all abnormal classes together, where the first class is the only normal one
Side = Literal[8, 16, 32, 64, 128, 256]


@dataclass(frozen=True)
class Contents:
    """What a set holds, as far as a plan needs it.

    Attributes:
        classes: class names, the normal one first where there is one; a sample's label is an index.
        images: how many there are, about.
        protocols: ids understood by `data.protocols.split`, the default one first.
    """

    classes: tuple[str, ...]
    images: int
    protocols: tuple[str, ...]


def _says(description: str, **limits: Any) -> dict[str, Any]:
    return {"description": description, **limits}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What is said of every set, whatever its layout."""

    source: ClassVar[str]
    revision: ClassVar[int] = 1  # raised whenever reading changes a pixel, a label or an order
    elsewhere: ClassVar[frozenset[str]] = frozenset(  # in the preparation id by themselves, or of no effect
        {"root", "size", "interpolation", "max_pixels", "licence", "citation"}
    )
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    root: str = field(metadata=_says("folder of the images"))
    size: Side | None = field(
        default=None, metadata=_says("side of the square images in pixels; none: data.size, else 64")
    )
    channels: Literal[1, 3] = field(default=3, metadata=_says("1: converted to grey, 3: to RGB"))
    interpolation: Literal["bilinear", "bicubic", "lanczos", "box"] = field(
        default="bilinear", metadata=_says("how images are resized: bilinear, bicubic, lanczos, box; recorded")
    )
    sixteen_bits: Literal["refuse", "scale"] = field(
        default="refuse", metadata=_says("grey images of 16 bits: refuse, or scale: 0-65535 to 0-255")
    )
    max_pixels: int = field(default=50_000_000, metadata=_says("images of more pixels are bad", ge=1, le=89_000_000))
    licence: str = field(default=UNNAMED, metadata=_says("of the images, for the manifest"))
    citation: str = field(default=UNNAMED, metadata=_says("of the images, for the manifest"))

    def digest(self) -> str:
        """8 hexadecimal digits over every parameter that decides pixels or membership, given the source."""
        chosen = {name: value for name, value in asdict(self).items() if name not in self.elsewhere}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True, kw_only=True)
class ImageFiles(Layout):
    """A layout in which every image file is one sample."""

    source: ClassVar[str] = "data.sources.image_folders"

    fit: Literal["squash", "crop"] = field(
        default="squash", metadata=_says("images that are not square: squash: resized all the same, crop: their centre")
    )


@dataclass(frozen=True, kw_only=True)
class Folder(ImageFiles):
    """`train/0.normal`, `test/0.normal` and `test/1.abnormal`, as the published code reads them."""

    layout: Literal["folder"] = field(
        default="folder", metadata=_says("train/0.normal, test/0.normal, test/1.abnormal")
    )


@dataclass(frozen=True, kw_only=True)
class Classes(ImageFiles):
    """One folder a class, or `train` and `test` with one folder a class in each."""

    layout: Literal["classes"] = field(default="classes", metadata=_says("one folder a class"))
    classes: tuple[str, ...] = field(default=(), metadata=_says("folders to read, in this order; none: all, by name"))
    normal: str | None = field(
        default=None, metadata=_says("the only normal class; none: one class is abnormal, all others are normal")
    )
    groups: Literal["none", "folder"] = field(
        default="none",
        metadata=_says(
            "folder: images of folders of one name inside the class folders stay on one side of every split"
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Mvtec(ImageFiles):
    """`train/good`, `test/good` and `test/DEFECT`, as MVTec AD."""

    layout: Literal["mvtec"] = field(default="mvtec", metadata=_says("train/good, test/good, test/DEFECT"))


@dataclass(frozen=True, kw_only=True)
class Scans(Layout):
    """X-ray scans with boxes around threats, cut into patches by the recipe of the University Baggage Dataset."""

    source: ClassVar[str] = "data.xray.scans"

    layout: Literal["scans"] = field(default="scans", metadata=_says("X-ray scans with boxes, cut into patches"))
    images: str = field(default="", metadata=_says("folder of the scans below root; empty: root"))
    annotations: str = field(
        default="", metadata=_says("CSV file, or folder of VOC or YOLO files, below root; empty: looked for in root")
    )
    format: Literal["auto", "csv", "voc", "yolo"] = field(
        default="auto", metadata=_says("of the annotations; auto: whichever is there")
    )
    classes: tuple[str, ...] = field(
        default=(), metadata=_says("legal classes of boxes, in this order; none: all that occur, by name")
    )
    unannotated: Literal["bad", "benign"] = field(
        default="bad", metadata=_says("scans that no annotation names: bad: as one that cannot be read, or benign")
    )
    window: int = field(default=64, metadata=_says("side of the windows in pixels of the scaled scan", ge=8, le=1024))
    stride: int = field(default=32, metadata=_says("pixels from one window to the next", ge=1, le=1024))
    scale: float | None = field(
        default=None,
        metadata=_says(
            "scans are resized by this factor first; none: the factor nearest to 1 at which windows reach at least "
            "half of the boxes of every class; printed by put",
            ge=0.01, le=10,
        ),
    )  # fmt: skip
    iou: float = field(default=0.3, metadata=_says("a window is abnormal if its IoU with a box is greater", ge=0, lt=1))
    partial: Literal["left_out", "normal"] = field(
        default="left_out",
        metadata=_says("windows with less IoU than that, but some: left_out, or normal as in the published recipe"),
    )
    crops: bool = field(default=True, metadata=_says("one more abnormal patch for every box: the square around it"))
    blank: float = field(
        default=0.9, metadata=_says("normal windows with a greater share of air are left out; 1: none", ge=0, le=1)
    )
    normal_from: Literal["all", "benign"] = field(
        default="all",
        metadata=_says("scans that give normal windows; benign: those without a box, whose machine may differ"),
    )
    per_scan: int = field(default=64, metadata=_says("most patches of one class from one scan; 0: no limit", ge=0))


LAYOUTS: dict[str, type[Layout]] = {"folder": Folder, "classes": Classes, "mvtec": Mvtec, "scans": Scans}
