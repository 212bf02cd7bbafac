"""Image folders: the layouts `folder`, `classes` and `mvtec`, in which each file is one sample.

The names of files and folders decide everything except pixels.  They are listed without numpy, because plans need them.
Samples are sorted: train before test, then by class, then by path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data.errors import DataError
from data.sources.layouts import ANY, Classes, Contents, Folder, ImageFiles, Layout, Mvtec

if TYPE_CHECKING:
    from data.sources.base import Sample, Skipped, Source

SUFFIXES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
SPLITS = ("train", "test")
FOLDERS = {"train": {"0.normal": "normal"}, "test": {"0.normal": "normal", "1.abnormal": "abnormal"}}
GOOD = "good"
TAKEN = {ANY: "all abnormal classes together", "mean": "the mean over classes in tables"}
PROBLEMS_SHOWN = 20  # limit, because a folder of the wrong kind has a problem for each of its files


class Part(NamedTuple):
    """A folder whose images are all of one class.

    Attributes:
        path: path below the root, "/"-separated.
        split: "train", "test" or "all".
        title: name of the class.
    """

    path: str
    split: str
    title: str


class Listed(NamedTuple):
    """One image file.

    Attributes:
        path: path below the root, "/"-separated; it is also the sample's id.
        split: "train", "test" or "all".
        label: index of the class.
        group: as in `data.sources.base.Sample`.
    """

    path: str
    split: str
    label: int
    group: str


def contents(layout: Layout) -> Contents:
    """Return the classes, number of images and protocols of a folder.

    Raises:
        DataError: if the folder has another layout, or a class has no image; the message lists all problems.
    """
    return _list(layout)[0]


def read(layout: Layout, skip_bad: bool) -> Source:
    """Open the images of a folder, train before test.

    Args:
        layout: layout of the folder.
        skip_bad: True to skip bad images instead of raising.

    Raises:
        DataError: as `contents`.  Reading samples raises it for a bad image, unless `skip_bad` is True.
    """
    from data.sources import image_files
    from data.sources.base import Source, stamp

    assert isinstance(layout, ImageFiles)
    listed, files = _list(layout)
    root = _root(layout)

    def samples(first: int, stop: int) -> Iterator[Sample | Skipped]:
        for file in files[first:stop]:
            yield image_files.sample(
                root / file.path, layout, skip_bad,
                label=file.label, source=file.path, split=file.split, sample_id=file.path, group=file.group,
            )  # fmt: skip

    try:
        identity = stamp((root / file.path for file in files), layout, listed.classes, skip_bad)
    except OSError:
        identity = ""  # a broken link: reading it will give a bad image
    return Source(
        len(files),
        samples,
        identity=identity,
        parameters=image_files.parameters(layout),
    )


def _list(layout: Layout) -> tuple[Contents, list[Listed]]:
    root = _root(layout)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")
    problems: list[str] = []
    classes, protocols, parts = PARTS[type(layout)](layout, root, problems)
    problems += [
        f"{root}: a class cannot be named {name}, because that name means {meaning}"
        for name, meaning in TAKEN.items()
        if name in classes
    ]
    files: list[Listed] = []
    for part in parts:
        paths = image_paths(root, part.path, problems)
        if not paths:
            problems.append(f"{root / part.path}: no image in it (looked for {', '.join(sorted(SUFFIXES))})")
        grouped = isinstance(layout, Classes) and layout.groups == "folder"
        label = classes.index(part.title)
        files += [Listed(path, part.split, label, _group(path, part.path) if grouped else "") for path in paths]
    for name in sorted(_split_groups(files)):
        problems.append(f"{root}: folder {name} is in train and in test, but its images must be on one side")
    if problems:
        more = [f"... and {len(problems) - PROBLEMS_SHOWN:,} more"] if len(problems) > PROBLEMS_SHOWN else []
        raise DataError("\n".join([*problems[:PROBLEMS_SHOWN], *more]))
    return Contents(tuple(classes), len(files), protocols), files


def _root(layout: Layout) -> Path:
    return Path(layout.root).expanduser()


def _folders(root: Path, below: str, problems: list[str]) -> list[str]:
    """Return the names of the folders in a folder, without hidden ones; append problems to `problems`."""
    try:
        with os.scandir(root / below) as entries:
            names = [entry.name for entry in entries if os.path.isdir(entry.path)]
            return sorted(name for name in names if not name.startswith("."))
    except OSError as error:
        problems.append(f"{root / below}: cannot be read: {error.strerror}")
        return []


def image_paths(root: Path, below: str, problems: list[str]) -> list[str]:
    """List the images in a folder and its subfolders; hidden files and folders are left out.

    Args:
        root: folder to which paths are relative.
        below: folder to search, below the root; "" for the root itself.
        problems: list to which problems are appended.

    Returns:
        paths below the root, "/"-separated and sorted.
    """

    def record_problem(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read: {error.strerror}")

    paths = []
    for folder, folders, names in os.walk(root / below, onerror=record_problem):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = Path(folder).relative_to(root).as_posix()
        for name in names:
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                paths.append(f"{inside}/{name}".removeprefix("./"))
    problems += [f"{root / below}: the name {name!r} is not UTF-8" for name in paths if not name.isprintable()
               and any("\ud800" <= letter <= "\udfff" for letter in name)]  # fmt: skip
    return sorted(paths)


def _group(path: str, part: str) -> str:
    """Return the name of the image's folder inside the class folder; "" for an image in the class folder itself."""
    inner, slash, _ = path.removeprefix(f"{part}/").partition("/")
    return inner if slash else ""


def _split_groups(files: list[Listed]) -> set[str]:
    """Return the groups that are on both sides of the folder's own split."""
    train, test = ({file.group for file in files if file.split == split} for split in SPLITS)
    return (train & test) - {""}


Parts = tuple[list[str], tuple[str, ...], list[Part]]


def _published_parts(layout: Layout, root: Path, problems: list[str]) -> Parts:  # noqa: ARG001 (one of several)
    parts = [Part(f"{split}/{name}", split, FOLDERS[split][name]) for split in SPLITS for name in FOLDERS[split]]
    for split in SPLITS:
        there = _folders(root, split, problems)
        problems += [f"{root / split}: has no folder {name}" for name in FOLDERS[split] if there and name not in there]
        problems += [f"{root / split / name}: is not one of {', '.join(FOLDERS[split])}" for name in there
                   if name not in FOLDERS[split]]  # fmt: skip
    return ["normal", "abnormal"], ("F0", "P1"), [] if problems else parts


def _mvtec(layout: Layout, root: Path, problems: list[str]) -> Parts:  # noqa: ARG001 (one of several)
    train, test = (_folders(root, split, problems) for split in SPLITS)
    if not problems:
        problems += [f"{root / split}: has no folder {GOOD}" for split, there in zip(SPLITS, (train, test), strict=True)
                   if GOOD not in there]  # fmt: skip
        problems += [f"{root / 'train' / name}: only {GOOD} can be trained on" for name in train if name != GOOD]
        if not set(test) - {GOOD}:
            problems.append(f"{root / 'test'}: has no folder of a defect in addition to {GOOD}")
    classes = [GOOD, *(name for name in test if name != GOOD)]
    parts = [Part(f"train/{GOOD}", "train", GOOD), *(Part(f"test/{name}", "test", name) for name in classes)]
    return classes, ("F0", "P1"), [] if problems else parts


def _classes(layout: Layout, root: Path, problems: list[str]) -> Parts:
    assert isinstance(layout, Classes)
    there = _folders(root, "", problems)
    split = set(there) == set(SPLITS)
    inside = {part: _folders(root, part, problems) for part in SPLITS} if split else {"": there}
    every = list(dict.fromkeys(name for names in inside.values() for name in names))
    classes = list(layout.classes) or sorted(every)
    if layout.normal is not None:
        if layout.normal not in classes:
            problems.append(f"normal: {layout.normal!r} is not one of the classes {', '.join(classes)}")
        classes = [layout.normal, *(name for name in classes if name != layout.normal)]
    if len(set(classes)) < len(classes):
        problems.append(f"classes: {', '.join(classes)} has a name more than once")
    if not problems and len(classes) < 2:
        problems.append(f"{root}: needs at least two classes, each with a folder; it has {', '.join(every) or 'none'}")
    parts = [Part(f"{part}/{name}".lstrip("/"), part or "all", name)
             for part, names in inside.items() for name in classes if name in names or not split]  # fmt: skip
    by_source, by_seed = ("C0", "C1") if layout.normal is None else ("F0", "P1")
    return classes, (by_source, by_seed) if split else (by_seed,), [] if problems else parts


PARTS = {Folder: _published_parts, Mvtec: _mvtec, Classes: _classes}
