"""Which datasets exist: names, classes, sizes and protocols.

The standard library alone is needed here, so that plans and help texts cost no import of numpy.
A new source is one module with `read(root) -> Source` and one entry of `DATASETS`; a user's own set is one
of `data.sources.layouts`, under a name of his.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import DataError
from data.sources.layouts import ANY, Classes, Contents, Layout

if TYPE_CHECKING:
    from data.sources.base import Source

PROTOCOL_REVISION = 1  # raised whenever `data.protocols` puts any sample on another side

SIZES = (8, 16, 32, 64, 128, 256)  # 4 * 2^k: every detector halves an image down to 4 x 4
DECIMAL_DIGITS = tuple("0123456789")
BY_SOURCE = ("M0", "C0", "F0")  # protocols that keep the source's own split
FIRST_IS_NORMAL = ("F0", "P1")  # protocols in which the first class is normal and all others are not
OWN_SIZE = 64  # of a user's own images, unless he says otherwise: as the papers' X-ray patches


class UnknownDataset(ValueError):
    """No dataset has this name; the message lists the names, the nearest first."""


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a dataset before any image is read.

    Attributes:
        name: as users write it.
        source: module with `read(root) -> data.source.Source`.
        classes: class names; a sample's label is an index into them.
        channels: 1 grey, 3 RGB.
        sizes: legal side lengths of the square prepared images, in pixels.
        default_size: side length unless the user says otherwise.
        images: how many there are, for estimates of cost.
        protocols: ids understood by `data.protocols.split`, without the "v" of validation.
        default_protocol: one of `protocols`.
        needs_root: whether files are read from (or downloaded into) the folder `data.root`.
        revision: raised whenever reading or resizing changes a pixel; part of the preparation id.
        interpolation: how images are resized to the prepared size.
        description, licence, citation: for people; go into the manifest.
        layout: of image folders; None for sources that read files of their own kind.
        counts: images of each class as published, where only those who have the set can count.
        access: who has it, where not everybody can.
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

    @property
    def abnormal(self) -> tuple[str, ...]:
        """Classes that can be hunted: every one, but for a class that is always normal."""
        return self.classes[1:] if self.default_protocol in FIRST_IS_NORMAL else self.classes

    @property
    def huntable(self) -> tuple[str, ...]:
        """`abnormal`, and `ANY` where several classes are never normal."""
        together = self.default_protocol in FIRST_IS_NORMAL and len(self.abnormal) > 1
        return (*self.abnormal, ANY) if together else self.abnormal

    def preparation(self, size: int) -> str:
        """Id of how images are prepared: everything that decides their pixels and who is in, given the source.

        Args:
            size: side length of the square prepared images, in pixels.

        Returns:
            For instance "s32-bilinear-1": 32 x 32 pixels, bilinear, first revision.

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
            description="1,797 real handwritten digits of 8 x 8 pixels; comes with scikit-learn",
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
            protocols=("M0", "M1"),
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
            protocols=("M0", "M1"),
            default_protocol="M1",
            needs_root=True,
            revision=1,
            interpolation="bilinear",
            description="60,000 + 10,000 photographs of clothes, grey, of 28 x 28 pixels",
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
            protocols=("C1", "C0"),
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
            access="private to its authors and never released; counted as in Skip-GANomaly's text, 230,275 patches "
            "with 107,472 normal ones, which adds up; GANomaly's has 230,275 normal ones besides 122,803 abnormal",
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
            access="given out by the UK Home Office to few",
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
            description="patches of 160 rendered dual-energy scans of bags, a stand-in for private sets",
            licence="MIT",
            citation="rendered by this program; no real scan is in it",
        ),
    )
}


def dataset(name: str) -> DatasetInfo:
    """The dataset of this name.

    Raises:
        UnknownDataset: if there is none; lists the names, the nearest first.
    """
    if name not in DATASETS:
        nearest = sorted(DATASETS, key=lambda known: -SequenceMatcher(None, known, name.lower()).ratio())
        raise UnknownDataset(f"unknown dataset {name!r}; known are {', '.join(nearest)}")
    return DATASETS[name]


def own(name: str, layout: Layout, contents: Contents) -> DatasetInfo:
    """A user's own set, given what it holds."""
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
    )


def contents(layout: Layout) -> Contents:
    """What a folder holds, from names alone.

    Raises:
        DataError: if it cannot be read, or is not laid out so; lists all problems.
    """
    found: Contents = import_module(layout.source).contents(layout)
    return found


def open_source(info: DatasetInfo, root: Path | None, skip_bad: bool = False) -> Source:
    """The images of a dataset.

    Args:
        info: of the dataset.
        root: the folder `data.root`; None where the user gave none.
        skip_bad: go on without images that cannot be read, where a source can.

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
                f"{info.name} is {info.access}; whoever has it sets data.root to a folder in which it lies as "
                f"{', '.join(f'{info.layout.root}/{title}' for title in info.classes)} (in them a folder for each "
                f"scan, whose images then stay together){'' if folder is None else f'; {folder} is no folder'}"
            )
        source = module.read(replace(info.layout, root=str(folder)), skip_bad)
    return source
