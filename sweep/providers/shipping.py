"""The code that a launch takes to other machines: this tree as git sees it, without secrets and big files."""

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

ROOT = Path(__file__).resolve().parents[2]  # of this project
BIG_FILE = 10 * 2**20  # bytes
BIG_TREE = 100 * 2**20  # of all files
MANY_FILES = 20_000
GIT_SECONDS = 60  # a folder on a network may not answer
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
# Shapes that issuers give to their secrets so that they can be found; assignments of an AWS secret key have none.
SECRET_CONTENT = {
    "a private key": re.compile(  # also as a string of JSON or of code, and with headers, such as of an encrypted one
        rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----(?:[\s\"']|\\+[nr])+"
        rb"(?:[A-Za-z-]+: [^\n\\]*(?:\n|\\+n)(?:[\s\"']|\\+[nr])*)*[A-Za-z0-9+/=]{16}"
    ),
    "an AWS access key": re.compile(rb"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
    "an AWS secret key": re.compile(rb"(?i)secret[ _-]?access[ _-]?key\W{1,6}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])"),
    "a GitHub token": re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})"),
    "a Slack token": re.compile(rb"\bxox[abprs]-[0-9A-Za-z-]{20,}"),
    "a Hugging Face token": re.compile(rb"\bhf_[A-Za-z0-9]{34}\b"),
    "a key of OpenAI's or Anthropic's": re.compile(
        rb"\bsk-(?:(?:proj|svcacct|admin|ant)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{40,})"
    ),
    "a Google API key": re.compile(rb"\bAIza[0-9A-Za-z_-]{35}\b"),
    "a W&B key": re.compile(rb"(?i)wandb_api_key\W{1,6}[0-9a-f]{40}(?![0-9a-z])"),
    "a W&B or other key of an .netrc line": re.compile(rb"(?m)^machine\s+\S+\s+login\s+\S+\s+password\s+\S{8,}"),
}
PUBLIC_KEYS = frozenset({b"AKIAIOSFODNN7EXAMPLE", b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"})  # of AWS's manuals


@dataclass(frozen=True)
class Shipment:
    """Files of one tree.

    Attributes:
        root: of the tree.
        files: paths below it, sorted.
        size: of all, in bytes.
    """

    root: Path
    files: tuple[str, ...]
    size: int

    def copy_to(self, folder: Path) -> None:
        """Make a folder hold exactly these files; what else is in it is removed.

        Raises:
            OSError: it cannot be written, or a file has gone since.
        """
        beside = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(beside, ignore_errors=True)
        for name in self.files:
            target = beside / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.root / name, target)
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)


def this_tree() -> Shipment:
    """What a launch takes along: `collect` of this project."""
    return collect(ROOT)


def collect(root: Path) -> Shipment:
    """What would be shipped of a tree: files that git tracks or would track; without git all but caches.

    Raises:
        UserError: naming every file that must not leave this machine or is too big, with the fix.
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
        problem = _fault(root, path, bytes_)
        if problem is None:
            kept.append(name)
            size += bytes_
        else:
            problems.append(f"{name}: {problem}")
    if not problems and (size > BIG_TREE or len(kept) > MANY_FILES):
        largest = sorted(kept, key=lambda name: (root / name).stat().st_size, reverse=True)[:5]
        problems.append(
            f"{root}: {len(kept):,} files of {size / 2**20:.0f} MB in all, at most {MANY_FILES:,} of "
            f"{BIG_TREE // 2**20} MB are shipped; the largest: {', '.join(largest)}"
        )
    if problems:
        fix = "name them in .gitignore (a tracked one: git rm --cached FILE), or move them" if by_git else "move them"
        raise UserError(problems, heading=f"these files would be copied to every machine; {fix} out of {root}")
    return Shipment(root, tuple(kept), size)


def list_files(root: Path) -> set[str]:
    """Paths below a tree that would be shipped of it, were none of them refused."""
    return _files_by_git(root.resolve())[1]


def secret(name: str, content: bytes) -> str | None:
    """What secret a file is or holds, None for none.

    Args:
        name: of the file, without folders.
        content: all of it.
    """
    if SECRET_NAME.fullmatch(name) and not TEMPLATE_NAME.fullmatch(name):
        return "a file of this name usually holds secrets"
    for kind, shape in SECRET_CONTENT.items():
        for found in shape.finditer(content):
            if not any(public in found.group() for public in PUBLIC_KEYS):
                line = content.count(b"\n", 0, found.start()) + 1
                return f"line {line} looks like {kind}"
    return None


def _fault(root: Path, path: Path, size: int) -> str | None:
    """Why a file must not be shipped."""
    if size > BIG_FILE:
        return f"{size / 2**20:.0f} MB; files of more than {BIG_FILE // 2**20} MB belong into the store or stay here"
    if not path.resolve().is_relative_to(root):
        return f"leads out of the tree, to {path.resolve()}"
    try:
        return secret(path.name, path.read_bytes())
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _files_by_git(root: Path) -> tuple[bool, set[str]]:
    """Whether git knows the tree, and which files are meant."""
    by_git = _of_git(root)
    return by_git is not None, set(_walk(root)) if by_git is None else by_git


def _of_git(root: Path) -> set[str] | None:
    """Files that git tracks or would track; None outside a checkout, or without git.

    Raises:
        UserError: git hangs, and what it ignores is to stay here.
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
