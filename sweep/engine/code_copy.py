"""The code of a launch: a hash that names it, and a copy of it for a launch on this machine.

Trials of a launch start one after another, for hours.  If they imported the files that a user is editing, seeds of one
cell would be computed by different code.  So a launch copies the code that it begins with, and its trials import the
copy.  Other machines have a copy anyway, which the launch has shipped.

The code is this project's packages, and the packages and modules of the user's own detectors, with whatever they have
imported from the same folder.  Installed packages are not part of it.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from models.catalog import is_own
from sweep.spec.sweep import Sweep

PRODUCT = ("sweep", "models", "data")
COPIED = (".py", ".pyc", ".yaml", ".csv", ".sh", ".html", ".css", ".js")  # the copy has links to all other files
HASHED = COPIED[:1] + COPIED[2:]  # compiled files are copied so that nothing is compiled again
MANY_FILES = 5_000  # a package with more files is used where it is


def code_hash(sweep: Sweep) -> str:
    """Return a hash of all code that computes the results of a sweep: SHA-256, the first 16 digits."""
    return _hash({_name(file, top): file for top in _tops(sweep) for file in _files(top)})


def copy_code(sweep: Sweep, folder: Path) -> str:
    """Copy all code that computes the results of a sweep to a new folder, from which it can be imported.

    Returns:
        `code_hash` of the copy.

    Raises:
        OSError: a file cannot be read or written.
    """
    copies = {}
    for top in _tops(sweep):
        for file in _files(top):
            target = copies[_name(file, top)] = folder / _name(file, top)
            target.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix in COPIED:
                shutil.copy2(file, target)  # with its time, by which Python judges the compiled file
            else:
                target.symlink_to(file)
    return _hash(copies)


def _hash(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        if file.suffix in HASHED:
            digest.update(f"{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _name(file: Path, top: Path) -> str:
    """Return the path of a file relative to the folder from which its package or module is imported."""
    return file.relative_to(top.parent).as_posix()


def _tops(sweep: Sweep) -> list[Path]:
    """Return the folders of packages, and the files of single modules, that are code of a sweep."""
    own = {name.partition(":")[0] for study in sweep.studies for name in study.detectors if is_own(name)}
    tops = {top for name in PRODUCT if (top := _top(importlib.import_module(name))) is not None}
    for name in sorted(own):
        with suppress(ImportError):
            top = _top(importlib.import_module(name))
            if top is not None and not _is_installed(top):
                tops |= {top, *_imported_from(top.parent)}
    return sorted(top for top in tops if len(list(_files(top))) <= MANY_FILES)


def _top(module: ModuleType) -> Path | None:
    """Return the folder of a module's outermost package, or the file of a module without one; None if it has none."""
    outermost = sys.modules.get(module.__name__.partition(".")[0], module)
    if (paths := list(getattr(outermost, "__path__", ()))) and os.path.isdir(paths[0]):
        return Path(paths[0]).resolve()
    file = getattr(outermost, "__file__", None)
    return Path(file).resolve() if file and os.path.isfile(file) else None


def _imported_from(folder: Path) -> Iterator[Path]:
    """Yield the packages and modules of a folder that this process has imported."""
    for name, module in list(sys.modules.items()):
        if "." not in name and name != "__main__":
            top = _top(module)
            if top is not None and top.parent == folder and not _is_installed(top):
                yield top


def _is_installed(path: Path) -> bool:
    folders = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib", "platstdlib")}
    return any(path.is_relative_to(folder) for folder in folders)


def _files(top: Path) -> Iterable[Path]:
    """Yield the files of a package or of a single module, without hidden ones.

    Of this project's packages only code: a user may keep data in the same folders.  Ends soon after `MANY_FILES`.
    """
    if top.is_file():
        yield top
        return
    found = 0
    for folder, names, files in os.walk(top):
        names[:] = [name for name in names if not name.startswith(".")]
        for file in files:
            wanted = top.name not in PRODUCT or file.endswith(COPIED)
            if wanted and not file.startswith(".") and os.path.isfile(os.path.join(folder, file)):
                found += 1
                yield Path(folder, file)
        if found > MANY_FILES:
            return
