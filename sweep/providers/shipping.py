"""Code that a launch copies to other machines: this project's tree as git sees it, without secrets and big files."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sweep.errors import UserError
from sweep.redaction import PUBLIC_KEYS, SECRET_CONTENT

ROOT = Path(__file__).resolve().parents[2]  # folder of this project
BIG_FILE = 10 * 2**20  # bytes
BIG_TREE = 100 * 2**20  # bytes of all files
MANY_FILES = 20_000
GIT_SECONDS = 60  # git hangs if a network folder does not answer
SKIPPED = frozenset({
    ".git", ".venv", "venv", ".uv", "__pycache__", ".hypothesis", ".mypy_cache", ".ruff_cache", ".pytest_cache",
    "node_modules", "results",
})  # fmt: skip
SECRET_NAME = re.compile(
    r"\.env(\..+)?|.*\.(pem|key|p12|pfx|jks|keystore|kdbx|ppk)|id_(rsa|dsa|ecdsa|ed25519)(_sk)?|\.netrc|_netrc"
    r"|\.pypirc|\.npmrc|\.pgpass|\.htpasswd|\.git-credentials|credentials(\.json|\.ya?ml|\.csv)?"
    r"|service[-_]?account.*\.json|client_secret.*\.json|kubeconfig|auth_token|.*\.tfstate(\.backup)?",
    re.IGNORECASE,
)
TEMPLATE_NAME = re.compile(r".*\.(example|sample|template|dist)", re.IGNORECASE)


@dataclass(frozen=True)
class Shipment:
    """Files of one tree.

    Attributes:
        root: folder of the tree.
        files: paths relative to it, sorted.
        size: size of all files, in bytes.
    """

    root: Path
    files: tuple[str, ...]
    size: int

    def copy_to(self, folder: Path) -> None:
        """Copy the files to a folder, and remove everything else in it.

        Raises:
            OSError: the folder cannot be written, or a file does not exist any more.
        """
        new_folder = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(new_folder, ignore_errors=True)
        for name in self.files:
            target = new_folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.root / name, target)
        shutil.rmtree(folder, ignore_errors=True)
        new_folder.rename(folder)


def this_tree() -> Shipment:
    """Return the files of this project that a launch ships; see `collect`."""
    return collect(ROOT)


def collect(root: Path) -> Shipment:
    """Return the files of a tree that would be shipped: those that git tracks or would track.

    Without git, these are all files except caches.

    Raises:
        UserError: names every file that must not leave this machine or is too big, with the fix.
    """
    root = root.resolve()
    by_git, names = _files_by_git(root)
    problems: list[str] = []
    kept: list[str] = []
    size = 0
    for name in sorted(names):
        path = root / name
        if not path.is_file():  # removed but still tracked, or a link to nothing, a socket, a submodule
            continue
        bytes_ = path.stat().st_size
        problem = _problem(root, path, bytes_)
        if problem is None:
            kept.append(name)
            size += bytes_
        else:
            problems.append(f"{name}: {problem}")
    if not problems and (size > BIG_TREE or len(kept) > MANY_FILES):
        largest = sorted(kept, key=lambda name: (root / name).stat().st_size, reverse=True)[:5]
        problems.append(
            f"{root}: {len(kept):,} files of {size / 2**20:.0f} MB in all; at most {MANY_FILES:,} of "
            f"{BIG_TREE // 2**20} MB are shipped; the largest: {', '.join(largest)}"
        )
    if problems:
        fix = "list them in .gitignore (if tracked: git rm --cached FILE), or move them" if by_git else "move them"
        raise UserError(problems, heading=f"these files would be copied to every machine; {fix} out of {root}")
    return Shipment(root, tuple(kept), size)


def list_files(root: Path) -> set[str]:
    """Return the paths of the files that would be shipped, relative to the tree, without checking them."""
    return _files_by_git(root.resolve())[1]


def find_secret(name: str, content: bytes) -> str | None:
    """Return what kind of secret a file is or contains; None if none was found.

    Args:
        name: name of the file, without folders.
        content: all bytes of the file.
    """
    if SECRET_NAME.fullmatch(name) and not TEMPLATE_NAME.fullmatch(name):
        return "a file of this name usually holds secrets"
    for kind, shape in SECRET_CONTENT.items():
        for found in shape.finditer(content):
            if not any(public in found.group() for public in PUBLIC_KEYS):
                line = content.count(b"\n", 0, found.start()) + 1
                return f"line {line} looks like {kind}"
    return None


def _problem(root: Path, path: Path, size: int) -> str | None:
    """Return why a file must not be shipped; None if it may."""
    if size > BIG_FILE:
        return (
            f"{size / 2**20:.0f} MB; files of more than {BIG_FILE // 2**20} MB are not shipped: put them into the store"
        )
    if not path.resolve().is_relative_to(root):
        return f"is a link out of the tree, to {path.resolve()}"
    try:
        return find_secret(path.name, path.read_bytes())
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _files_by_git(root: Path) -> tuple[bool, set[str]]:
    """Return whether git knows the tree, and the files to ship."""
    by_git = _git_files(root)
    return by_git is not None, set(_walk(root)) if by_git is None else by_git


def _git_files(root: Path) -> set[str] | None:
    """Return the files that git tracks or would track; None outside of a checkout, or without git.

    Raises:
        UserError: git hangs.  Then it is unknown which files git ignores, and those must not be shipped.
    """
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        found = subprocess.run(command, capture_output=True, check=True, timeout=GIT_SECONDS).stdout
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{root}: git does not list its files within {GIT_SECONDS} s; try: {shlex.join(command)}"
        ) from None
    except (OSError, subprocess.CalledProcessError):
        return None
    return {os.fsdecode(name) for name in found.split(b"\0") if name}


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        for name in files:
            if not name.endswith((".pyc", ".pyo")):
                yield str((Path(folder) / name).relative_to(root))
