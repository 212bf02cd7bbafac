"""Files of published datasets: the folders in which torchvision keeps them, and its download of missing files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError


@dataclass(frozen=True)
class Published:
    """A published dataset that consists of files with known names.

    Attributes:
        name: name of the dataset.
        torchvision: name of its class in `torchvision.datasets`.
        folders: folders below `data.root` that may contain its files; torchvision's own folder is first.
        files: names of all files.
        suffixes: suffixes that each file may have.
        foreign: name of a folder whose files have the same names but belong to another dataset.
    """

    name: str
    torchvision: str
    folders: tuple[str, ...]
    files: tuple[str, ...]
    suffixes: tuple[str, ...] = ("",)
    foreign: str = ""

    def folder(self, root: Path | None) -> Path:
        """Return the folder that has all files; if no folder has, download them with torchvision.

        Args:
            root: the folder `data.root`; None if the user gave none.

        Raises:
            DataError: if there is no root, or no folder has all files and they cannot be downloaded.
        """
        if root is None:
            raise DataError(
                f"{self.name} is read from a folder: set data.root to a folder that has its files, or into which they "
                "can be downloaded"
            )
        folders = [root / folder for folder in self.folders]
        whole = [folder for folder in folders if not self._missing(folder)]
        if not whole:
            self._download(root, min(folders, key=lambda folder: len(self._missing(folder))))
        return whole[0] if whole else folders[0]

    def path(self, folder: Path, file: str) -> Path:
        """Return the path of a file in a folder that has all files."""
        return self._candidates(folder, file)[0]

    def _missing(self, folder: Path) -> list[str]:
        if self.foreign in folder.resolve().parts:
            return list(self.files)
        return [file for file in self.files if not self._candidates(folder, file)]

    def _candidates(self, folder: Path, file: str) -> list[Path]:
        paths = [folder / f"{file}{suffix}" for suffix in self.suffixes]
        return [path for path in paths if path.is_file()]

    def _download(self, root: Path, nearest: Path) -> None:
        try:
            from torchvision import datasets  # slow, and rarely needed

            getattr(datasets, self.torchvision)(root=str(root), download=True)
        except (ImportError, OSError, RuntimeError) as error:
            plain = ", plain or .gz" if ".gz" in self.suffixes else ""
            reason = " ".join(str(error).split())  # torchvision's message has a line for each mirror
            raise DataError(
                f"{self.name} is not under data.root = {root} (missing in {nearest}: "
                f"{', '.join(self._missing(nearest))}), and torchvision cannot download it there: {reason}; "
                f"put these files there{plain}, or set data.root to the folder that has them"
            ) from error
