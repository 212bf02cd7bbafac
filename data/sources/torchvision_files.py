"""Files of published datasets: where torchvision lays them out, and its download where they are missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError


@dataclass(frozen=True)
class Published:
    """A dataset that comes in files of given names.

    Attributes:
        name: of the dataset.
        torchvision: name of its class in `torchvision.datasets`.
        folders: where its files may lie below `data.root`, first where torchvision lays them.
        files: names of all files.
        suffixes: that each of them may have.
        foreign: name of a folder in which files of these names are another dataset's.
    """

    name: str
    torchvision: str
    folders: tuple[str, ...]
    files: tuple[str, ...]
    suffixes: tuple[str, ...] = ("",)
    foreign: str = ""

    def folder(self, root: Path | None) -> Path:
        """The folder that has all files; torchvision downloads them where none has.

        Args:
            root: the folder `data.root`; None where the user gave none.

        Raises:
            DataError: if there is no root, or they are in no folder and cannot be downloaded.
        """
        if root is None:
            raise DataError(f"{self.name} is read from a folder: set data.root to where its files are, or shall be")
        folders = [root / folder for folder in self.folders]
        whole = [folder for folder in folders if not self._missing(folder)]
        if not whole:
            self._download(root, min(folders, key=lambda folder: len(self._missing(folder))))
        return whole[0] if whole else folders[0]

    def path(self, folder: Path, file: str) -> Path:
        """A file in a folder that has all."""
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
            told = " ".join(str(error).split())  # torchvision's has a line for each mirror
            raise DataError(
                f"{self.name} is not under data.root = {root} (missing in {nearest}: "
                f"{', '.join(self._missing(nearest))}), and torchvision cannot download it there: {told}; "
                f"put these files there{plain}, or set data.root to the folder that has them"
            ) from error
