"""Catalog of all datasets: names, classes, sizes and protocols.

This module imports the standard library alone, so that plans and help texts do not have to import numpy.
To add a source, write one module with `read(root) -> Source` and one entry of `DATASETS`.  A user's own dataset has one
of the layouts of `data.sources.layouts`, and a name that the user chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import DataError
from data.sources.layouts import ANY, Classes, Contents, Layout

if TYPE_CHECKING:
    from data.sources.base import Source

PROTOCOL_REVISION = 1  # must be raised whenever `data.protocols` moves any sample to another side

SIZES = (8, 16, 28, 32, 64, 128, 256)  # 4 * 2^k, as networks halve an image down to 4 x 4; 28: published for MNIST
DECIMAL_DIGITS = tuple("0123456789")
BY_SOURCE = ("M0", "C0", "F0", "O1")  # protocols that keep the source's own split
FIRST_IS_NORMAL = ("F0", "P1")  # protocols in which the first class is normal and all others are not
ONE_IS_NORMAL = ("O1",)  # protocols in which one class is normal, and all others together are the abnormal class
OTHERS = "not "  # begins the name of such an abnormal class: "not cat" is every class but cat
OWN_SIZE = 64  # default side of a user's own images in pixels: the size of the papers' X-ray patches


class UnknownDataset(ValueError):
    """No dataset has this name; the message lists the legal names, the nearest first."""


@dataclass(frozen=True)
class DatasetInfo:
    """Facts about a dataset that are known before any image is read.

    Attributes:
        name: name of the dataset, as users write it.
        source: module with `read(root) -> data.sources.base.Source`.
        classes: class names; a sample's label is an index into them.
        channels: 1 for grey, 3 for RGB.
        sizes: legal side lengths of the square prepared images, in pixels.
        default_size: side length unless the user sets another one, in pixels.
        images: number of images, for estimates of cost.
        protocols: ids that `data.protocols.split` accepts, without the "v" of validation.
        default_protocol: one of `protocols`.
        needs_root: True if files are read from (or downloaded into) the folder `data.root`.
        revision: number that is raised whenever reading or resizing changes a pixel; part of the preparation id.
        interpolation: filter that resizes images to the prepared size, such as "bilinear".
        description: one line for users.
        licence, citation: texts for users; they go into the manifest.
        layout: layout of the image folders; None for sources that read files of another kind.
        counts: published number of images of each class, for datasets that only a few people have.
        access: the people that have the dataset, if it is not public.
        revised: as in `data.sources.layouts.Contents`; none of a built-in dataset.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    channels: int
    sizes: tuple[int, ...]
    default_size: int
    images: int
    protocols: tuple[str, ...]
    default_protocol: str
    needs_root: bool
    revision: int
    interpolation: str
    description: str
    licence: str
    citation: str
    layout: Layout | None = None
    counts: tuple[int, ...] = ()
    access: str = ""
    revised: tuple[str, ...] = ()

    def abnormal(self, protocol: str | None = None) -> tuple[str, ...]:
        """Return the abnormal classes that `all` means under a protocol, by default the dataset's own.

        They are all classes, except a class that is always normal.  If one class is normal and all others are
        abnormal together, each is named after the normal one: "not cat".
        """
        protocol = protocol or self.default_protocol
        if protocol in ONE_IS_NORMAL:
            return tuple(f"{OTHERS}{name}" for name in self.classes)
        return self.classes[1:] if protocol in FIRST_IS_NORMAL else self.classes

    def huntable(self, protocol: str | None = None) -> tuple[str, ...]:
        """Return the legal abnormal classes: those of `abnormal`, plus `ANY` if several classes are never normal."""
        classes = self.abnormal(protocol)
        together = (protocol or self.default_protocol) in FIRST_IS_NORMAL and len(classes) > 1
        return (*classes, ANY) if together else classes

    def protocol_revision(self, protocol: str) -> int:
        """Return the revision of a protocol's splits of this dataset; it is part of a trial's key.

        Args:
            protocol: its id, with a "v" where there is validation.
        """
        return PROTOCOL_REVISION + (protocol in self.revised)

    def preparation(self, size: int) -> str:
        """Return the id of a preparation.

        For one source, the id changes with everything that decides which images are in the dataset and their pixels.

        Args:
            size: side length of the square prepared images, in pixels.

        Returns:
            the id, such as "s32-bilinear-1": 32 x 32 pixels, bilinear, first revision.

        Raises:
            ValueError: if the size is not legal for this dataset.
        """
        if size not in self.sizes:
            legal = ", ".join(map(str, self.sizes))
            raise ValueError(f"size {size!r} is not legal for {self.name}: use one of {legal}")
        plain = f"s{size}-{self.interpolation}-{self.revision}"
        return plain if self.layout is None else f"{plain}-{self.layout.digest()}"


DATASETS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="digits",
            source="data.sources.digits",
            classes=DECIMAL_DIGITS,
            channels=1,
            sizes=SIZES,
            default_size=32,
            images=1_797,
            protocols=("D1",),
            default_protocol="D1",
            needs_root=False,
            revision=1,
            interpolation="bilinear",
            description="1,797 real handwritten digits of 8 x 8 pixels; part of scikit-learn",
            licence="CC BY 4.0",
            citation="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, "
            "UCI Machine Learning Repository, 1998, doi:10.24432/C50P49",
        ),
        DatasetInfo(
            name="mnist",
            source="data.sources.mnist",
            classes=DECIMAL_DIGITS,
            channels=1,
            sizes=SIZES,
            default_size=32,
            images=70_000,
            protocols=("M0", "M1", "O1"),
            default_protocol="M1",
            needs_root=True,
            revision=1,
            interpolation="bilinear",
            description="60,000 + 10,000 handwritten digits of 28 x 28 pixels",
            licence="CC BY-SA 3.0",
            citation="Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-based learning applied "
            "to document recognition, Proceedings of the IEEE 86(11):2278-2324, 1998",
        ),
        DatasetInfo(
            name="fashion_mnist",
            source="data.sources.fashion_mnist",
            classes=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            channels=1,
            sizes=SIZES,
            default_size=32,
            images=70_000,
            protocols=("M0", "M1", "O1"),
            default_protocol="M1",
            needs_root=True,
            revision=1,
            interpolation="bilinear",
            description="60,000 + 10,000 grey photographs of clothes of 28 x 28 pixels",
            licence="MIT",
            citation="H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking "
            "Machine Learning Algorithms, 2017, arXiv:1708.07747",
        ),
        DatasetInfo(
            name="cifar10",
            source="data.sources.cifar10",
            classes=(
                "airplane",
                "automobile",
                "bird",
                "cat",
                "deer",
                "dog",
                "frog",
                "horse",
                "ship",
                "truck",
            ),
            channels=3,
            sizes=SIZES,
            default_size=32,
            images=60_000,
            protocols=("C1", "C0", "O1"),
            default_protocol="C1",
            needs_root=True,
            revision=1,
            interpolation="bilinear",
            description="50,000 + 10,000 photographs of 32 x 32 pixels in ten classes",
            licence="none stated",
            citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, "
            "University of Toronto, 2009",
        ),
        DatasetInfo(
            name="uba",
            source="data.sources.image_folders",
            classes=("normal", "gun", "gun-parts", "knife"),
            counts=(107_472, 45_855, 13_452, 63_496),
            channels=3,
            sizes=SIZES,
            default_size=64,
            images=230_275,
            protocols=("P1",),
            default_protocol="P1",
            needs_root=True,
            revision=1,
            interpolation="bilinear",
            description="University Baggage Anomaly Dataset: 64 x 64 windows of dual-energy X-ray scans",
            licence="private",
            citation="S. Akcay, A. Atapour-Abarghouei and T. P. Breckon, Skip-GANomaly, IJCNN 2019, arXiv:1901.08954",
            layout=Classes(
                root="uba", classes=("normal", "gun", "gun-parts", "knife"), normal="normal", groups="folder"
            ),
            access="private to its authors and was never released. Its counts here are those of Skip-GANomaly's text, "
            "which add up: 230,275 patches, of which 107,472 are normal. GANomaly's text has 230,275 normal patches "
            "plus 122,803 abnormal ones",
        ),
        DatasetInfo(
            name="ffob",
            source="data.sources.image_folders",
            classes=("normal", "full-weapon"),
            counts=(67_672, 4_680),
            channels=3,
            sizes=SIZES,
            default_size=64,
            images=72_352,
            protocols=("P1",),
            default_protocol="P1",
            needs_root=True,
            revision=1,
            interpolation="bilinear",
            description="Full Firearm vs Operational Benign: X-ray scans of baggage and parcels",
            licence="restricted",
            citation="UK Home Office, OSCT Borders X-ray Image Library, 2016",
            layout=Classes(root="ffob", classes=("normal", "full-weapon"), normal="normal", groups="folder"),
            access="restricted: the UK Home Office gives it to few users",
        ),
        DatasetInfo(
            name="xray_synthetic",
            source="data.xray.synthetic",
            classes=("normal", "gun", "gun-parts", "knife"),
            channels=3,
            sizes=SIZES,
            default_size=64,
            images=8_115,
            protocols=("P1",),
            default_protocol="P1",
            needs_root=False,
            revision=1,
            interpolation="bilinear",
            description="patches of 160 rendered dual-energy scans of bags, a substitute for private datasets",
            licence="MIT",
            citation="rendered by this program; no real scan is in it",
        ),
    )
}


def dataset(name: str) -> DatasetInfo:
    """Return the catalog entry of a dataset.

    Raises:
        UnknownDataset: if no dataset has this name; the message lists the legal names, the nearest first.
    """
    if name not in DATASETS:
        nearest = sorted(DATASETS, key=lambda known: -SequenceMatcher(None, known, name.lower()).ratio())
        raise UnknownDataset(f"unknown dataset {name!r}: use one of {', '.join(nearest)}")
    return DATASETS[name]


def own(name: str, layout: Layout, contents: Contents) -> DatasetInfo:
    """Return an entry like those of the catalog for a user's own dataset.

    Args:
        name: name of the dataset, as the user writes it.
        layout: layout of its folder.
        contents: classes, number of images and protocols that `contents` found in the folder.
    """
    return DatasetInfo(
        name=name,
        source=layout.source,
        classes=contents.classes,
        channels=layout.channels,
        sizes=SIZES,
        default_size=layout.size or OWN_SIZE,
        images=contents.images,
        protocols=contents.protocols,
        default_protocol=contents.protocols[0],
        needs_root=False,
        revision=layout.revision,
        interpolation=layout.interpolation,
        description=f"images in {layout.root}",
        licence=layout.licence,
        citation=layout.citation,
        layout=layout,
        revised=contents.revised,
    )


def revised_protocols(
    layout: Layout, protocols: tuple[str, ...], manifest: Mapping[str, Any] | None
) -> tuple[str, ...]:
    """Return the protocols of a user's own dataset that are of a later revision than the first.

    Since 2026-12 equal images are on one side of a split.  A dataset that was stored before keeps the first revision,
    and so the keys of its trials, wherever its manifest shows that no split has changed.

    Args:
        layout: layout of the dataset's folder.
        protocols: protocols of the dataset, without a "v".
        manifest: fields of the stored manifest; None if the dataset is not stored yet.

    Returns:
        Ids, with a "v" where there is validation.
    """
    every = tuple(protocol + suffix for protocol in protocols for suffix in ("", "v"))
    if manifest is None or "repeats" in manifest or manifest.get("duplicates") != 0:
        return every
    if not set(protocols) & set(BY_SOURCE):
        return ()  # `duplicates` counted every image that repeats another one
    # It counted only test images that are in the train split too.  That decides F0 alone, and only if the train split
    # has no abnormal images.
    return every if isinstance(layout, Classes) else tuple(name for name in every if name != "F0")


def contents(layout: Layout) -> Contents:
    """Return the classes, number of images and protocols of a dataset's folder, without opening an image.

    Raises:
        DataError: if the folder cannot be read or has another layout; the message lists all problems.
    """
    listed: Contents = import_module(layout.source).contents(layout)
    return listed


def open_source(info: DatasetInfo, root: Path | None, skip_bad: bool = False) -> Source:
    """Open the source of a dataset's images.

    Args:
        info: catalog entry of the dataset.
        root: the folder `data.root`; None if the user gave none.
        skip_bad: True to skip images that cannot be read, if the source supports it.

    Raises:
        DataError: if the source cannot be read.
    """
    module = import_module(info.source)
    source: Source
    if info.layout is None:
        source = module.read(root)
    elif not info.needs_root:
        source = module.read(info.layout, skip_bad)
    else:
        folder = None if root is None else root / info.layout.root
        if folder is None or not folder.is_dir():
            raise DataError(
                f"{info.name} is {info.access}. If you have it, set data.root to a folder that contains "
                f"{', '.join(f'{info.layout.root}/{title}' for title in info.classes)}. Inside these, use one folder "
                "for each scan, so that all its images are on one side of every split"
                f"{'' if folder is None else f'. {folder} is not a folder'}"
            )
        source = module.read(replace(info.layout, root=str(folder)), skip_bad)
    return source
