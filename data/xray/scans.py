"""Boxed X-ray scans: the layout `scans`, whose items are scans and whose samples are their patches.

Patches of one scan are a group: no split has them on two sides.  How a scan is cut is told in
`data.xray.patches`, how annotations are read in `data.xray.boxes`.
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

if TYPE_CHECKING:  # plans read annotations without numpy
    import numpy as np
    import numpy.typing as npt

    from data.sources.base import Sample, Skipped, Source
    from data.xray.patches import Recipe

PROTOCOLS = ("P1",)
FAULTS_SHOWN = 50


def contents(layout: Layout) -> Contents:
    """Classes, from the annotations alone; of the patches an upper bound.

    Raises:
        DataError: if there are no images, no annotations, or no boxes in them.
    """
    assert isinstance(layout, Scans)
    found = _annotations(layout)
    return Contents((NORMAL, *_threats(layout, found)), len(found.images) * (layout.per_scan or 64), PROTOCOLS)


def read(layout: Layout, skip_bad: bool) -> Source:
    """The patches of all scans, by the paths of their scans.

    Raises:
        DataError: if an annotation is not right: all problems at once; and, while samples are read, for a
            scan that is bad.  With `skip_bad` these are skipped, one by one.
    """
    from data.sources import image_files
    from data.sources.base import Skipped, stamp
    from data.xray.patches import Recipe

    assert isinstance(layout, Scans)
    found = _annotations(layout)
    threats = _threats(layout, found)
    scans = check_annotations(found, threats, benign_unannotated=layout.unannotated == "benign")
    problems = [f"{scan.source}: {scan.reason}" for scan in scans if isinstance(scan, Skipped)]
    if problems and not skip_bad:
        more = [f"... and {len(problems) - FAULTS_SHOWN} more"] if len(problems) > FAULTS_SHOWN else []
        raise DataError("\n".join([f"{len(problems)} faulty scans in {layout.root}:", *problems[:FAULTS_SHOWN], *more]))

    def pixels(scan: Scan) -> tuple[npt.NDArray[np.uint8], bytes] | Skipped:
        path = found.images[scan.image]
        image = image_files.read(path, layout, skip_bad, source=scan.image, shape=(scan.height, scan.width))
        return image if isinstance(image, Skipped) else (image, sha256(path.read_bytes()).digest())

    recipe = Recipe(**{known.name: getattr(layout, known.name) for known in fields(Recipe)})
    scale = None if layout.scale is None else Fraction(str(layout.scale))
    files = [*found.images.values(), *found.files]
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
    """Patches of scans that are known, wherever their pixels come from.

    Args:
        scans: in order; those that cannot be read stay in their places.
        threats: names of the classes of boxes; label k is the k-th, label 0 what is in none.
        recipe: how to cut.
        scale: at which windows slide; None to choose it from the boxes.
        pixels: a scan's image, uint8 [C, H, W], and a digest of its content.
        identity: as `data.sources.base.Source` has it.
    """
    from data.sources.base import Sample, Skipped, Source
    from data.xray import patches

    known = [scan for scan in scans if isinstance(scan, Scan)]
    chosen = patches.choose_scale(known, recipe) if scale is None else scale

    def samples(first: int, stop: int) -> Iterator[Sample | Skipped]:
        for scan in scans[first:stop]:
            found = scan if isinstance(scan, Skipped) else pixels(scan)
            if isinstance(found, Skipped):
                yield found
                continue
            assert isinstance(scan, Scan)
            for patch in patches.cut(found[0], scan.boxes, threats, recipe, chosen, found[1]):
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


def _threats(layout: Scans, found: Annotations) -> tuple[str, ...]:
    threats = layout.classes or found.titles()
    if not threats:
        problems = [f"{row.where}: {row.problem}" for row in found.rows if row.problem][:FAULTS_SHOWN]
        raise DataError("\n".join([f"{layout.root}: no box in any annotation: nothing there is abnormal", *problems]))
    if len({*threats, NORMAL, ANY, ""}) < len(threats) + 3:
        raise DataError(
            f"classes {', '.join(threats)}: must be different names, and none of them {NORMAL}, which is what lies in "
            f"no box, or {ANY}, which is all classes of boxes together"
        )
    return threats
