"""X-ray scans with boxes: the layout `scans`, whose items are scans and whose samples are their patches.

The patches of one scan are a group, so no split has them on two sides.  `data.xray.patches` cuts scans,
`data.xray.annotation_files` reads annotations, and `data.xray.boxes` checks them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from fractions import Fraction
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import DataError
from data.sources.layouts import ANY, Contents, Layout, Scans
from data.xray import annotation_files
from data.xray.boxes import NORMAL, Annotations, Scan, check_annotations

if TYPE_CHECKING:  # plans read annotations, and must not import numpy
    import numpy as np
    import numpy.typing as npt

    from data.sources.base import Sample, Skipped, Source
    from data.xray.patches import Recipe

PROTOCOLS = ("P1",)
PROBLEMS_SHOWN = 50


def contents(layout: Layout) -> Contents:
    """Return the classes and an estimate of the number of patches, from the annotations alone.

    Raises:
        DataError: if there are no images, no annotations, or no boxes in them.
    """
    assert isinstance(layout, Scans)
    annotations = _annotations(layout)
    threats = _threats(layout, annotations)
    return Contents((NORMAL, *threats), len(annotations.images) * (layout.per_scan or 64), PROTOCOLS)


def read(layout: Layout, skip_bad: bool) -> Source:
    """Open the patches of all scans, in the order of the scans' paths.

    Args:
        layout: layout of the folder.
        skip_bad: True to skip scans with a bad image or a wrong annotation instead of raising.

    Raises:
        DataError: if an annotation is wrong and `skip_bad` is False; the message lists all problems.  Reading
            samples raises it for a scan with a bad image, unless `skip_bad` is True.
    """
    from data.sources import image_files
    from data.sources.base import Skipped, stamp
    from data.xray.patches import Recipe

    assert isinstance(layout, Scans)
    annotations = _annotations(layout)
    threats = _threats(layout, annotations)
    scans = check_annotations(annotations, threats, benign_unannotated=layout.unannotated == "benign")
    problems = [f"{scan.source}: {scan.reason}" for scan in scans if isinstance(scan, Skipped)]
    if problems and not skip_bad:
        more = [f"... and {len(problems) - PROBLEMS_SHOWN} more"] if len(problems) > PROBLEMS_SHOWN else []
        heading = f"{len(problems)} scans with problems in {layout.root}:"
        raise DataError("\n".join([heading, *problems[:PROBLEMS_SHOWN], *more]))

    def pixels(scan: Scan) -> tuple[npt.NDArray[np.uint8], bytes] | Skipped:
        path = annotations.images[scan.image]
        image = image_files.read(path, layout, skip_bad, source=scan.image, shape=(scan.height, scan.width))
        return image if isinstance(image, Skipped) else (image, sha256(path.read_bytes()).digest())

    recipe = Recipe(**{known.name: getattr(layout, known.name) for known in fields(Recipe)})
    scale = None if layout.scale is None else Fraction(str(layout.scale))
    files = [*annotations.images.values(), *annotations.files]
    cut = source(scans, threats, recipe, scale, pixels, identity=stamp(files, layout, threats))
    return replace(cut, parameters={**image_files.parameters(layout), **cut.parameters})


def source(
    scans: Sequence[Scan | Skipped],
    threats: Sequence[str],
    recipe: Recipe,
    scale: Fraction | None,
    pixels: Callable[[Scan], tuple[npt.NDArray[np.uint8], bytes] | Skipped],
    identity: str = "",
) -> Source:
    """Return a source of patches for given scans, whose pixels may come from files or be rendered.

    Args:
        scans: scans in order; a scan that cannot be read is replaced by its `Skipped`.
        threats: names of the classes of boxes; label k is the k-th of them, label 0 is outside boxes.
        recipe: rules by which scans are cut.
        scale: factor by which scans are resized before windows slide over them; None to choose it from the boxes.
        pixels: function that returns a scan's image, uint8 [C, H, W], and a digest of its content.
        identity: as in `data.sources.base.Source`.
    """
    from data.sources.base import Sample, Skipped, Source
    from data.xray import patches

    known = [scan for scan in scans if isinstance(scan, Scan)]
    chosen = patches.choose_scale(known, recipe) if scale is None else scale

    def samples(first: int, stop: int) -> Iterator[Sample | Skipped]:
        for scan in scans[first:stop]:
            image = scan if isinstance(scan, Skipped) else pixels(scan)
            if isinstance(image, Skipped):
                yield image
                continue
            assert isinstance(scan, Scan)
            for patch in patches.cut(image[0], scan.boxes, threats, recipe, chosen, image[1]):
                yield Sample(
                    patch.image, patch.label, scan.image, "all", f"{scan.image}@{patch.place}", group=scan.image
                )

    reach = patches.reach(known, recipe, chosen)
    number = Counter(box.title for scan in known for box in scan.boxes)
    parameters = {
        **asdict(recipe),
        "scale": float(chosen),
        "scale_from": "boxes" if scale is None else "user",
        "reached": ", ".join(
            f"{title} {round(share * number[title])}/{number[title]}" for title, share in reach.items()
        ),
    }
    windows = [len(patches.grid(*patches.scaled_sides(scan.width, scan.height, chosen), recipe)) for scan in known]
    most = recipe.per_scan or max(windows, default=1)
    about = sum(min(most, number) for number in windows) // max(1, len(windows))
    return Source(len(scans), samples, max(1, about), identity, parameters)


def _annotations(layout: Scans) -> Annotations:
    return annotation_files.read(
        Path(layout.root).expanduser(),
        images=layout.images,
        annotations=layout.annotations,
        format="" if layout.format == "auto" else layout.format,
        classes=layout.classes,
    )


def _threats(layout: Scans, annotations: Annotations) -> tuple[str, ...]:
    threats = layout.classes or annotations.titles()
    if not threats:
        problems = [f"{row.where}: {row.problem}" for row in annotations.rows if row.problem][:PROBLEMS_SHOWN]
        raise DataError("\n".join([f"{layout.root}: no box in any annotation, so no class is abnormal", *problems]))
    if len({*threats, NORMAL, ANY, ""}) < len(threats) + 3:
        raise DataError(
            f"classes {', '.join(threats)}: must be different names, and none of them {NORMAL}, which means everything "
            f"outside boxes, or {ANY}, which means all classes of boxes together"
        )
    return threats
