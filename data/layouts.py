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
        {"root", "size", "interpolation", "licence", "citation"}
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
    licence: str = field(default=UNNAMED, metadata=_says("of the images, for the manifest"))
    citation: str = field(default=UNNAMED, metadata=_says("of the images, for the manifest"))

    def digest(self) -> str:
        """8 hexadecimal digits over every parameter that decides pixels or membership, given the source."""
        chosen = {name: value for name, value in asdict(self).items() if name not in self.elsewhere}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:8]


@dataclass(frozen=True, kw_only=True)
class ImageFiles(Layout):
    """A layout in which every image file is one sample."""

    source: ClassVar[str] = "data.folders"

    elsewhere: ClassVar[frozenset[str]] = Layout.elsewhere | {"max_pixels"}

    fit: Literal["squash", "crop"] = field(
        default="squash", metadata=_says("images that are not square: squash: resized all the same, crop: their centre")
    )
    sixteen_bits: Literal["refuse", "scale"] = field(
        default="refuse", metadata=_says("grey images of 16 bits: refuse, or scale: 0-65535 to 0-255")
    )
    max_pixels: int = field(default=50_000_000, metadata=_says("images of more pixels are bad", ge=1, le=89_000_000))


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


LAYOUTS: dict[str, type[Layout]] = {"folder": Folder, "classes": Classes, "mvtec": Mvtec}
