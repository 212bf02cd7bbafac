"""Pages: every command on them is run by a test or says why not, and every link leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.image_folders import ANIMALS, MVTEC, PUBLISHED, write_images
from tests.support.sweeps import ROOT, TIMEOUT, environment

PAGES = [
    "README.md", "clusters/README.md", "data/README.md", "models/README.md", "sweep/README.md", "tests/README.md",
    "tests/benchmarks/README.md",
]  # fmt: skip
BLOCK = re.compile(r"((?:<!-- .+? -->\n)*)```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (run|run by|not run): (.+?) -->")
COMMAND = re.compile(r"^(?:\$ )?(?:python3?|pip|\.?uv|bash|\.ci/\w+|\S+/uv) ", re.MULTILINE)
SCENARIOS = ("own-images", "report", "results", "xray", "detectors", "studies")
"""Names of blocks that are run here, in the order in which they need one another."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: path of the page.
        language: of the block, such as "yaml"; "" for none.
        text: between the fences.
        marks: (kind, text) of the comments before it: ("run", scenario), ("run by", path) or ("not run", reason).
    """

    page: str
    language: str
    text: str
    marks: tuple[tuple[str, str], ...]

    @property
    def has_commands(self) -> bool:
        return self.language in ("yaml", "python") or COMMAND.search(self.text) is not None


def blocks() -> list[Block]:
    found = []
    for page in PAGES:
        for marks, language, text in BLOCK.findall((ROOT / page).read_text()):
            found.append(Block(page, language, text, tuple(MARK.findall(marks))))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    text = (ROOT / page).read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_every_block_with_commands_is_run_or_says_why_not(page: str) -> None:
    for block in blocks():
        if block.page != page or not block.has_commands:
            continue
        assert block.marks, f"no mark before:\n{block.text}"
        for kind, text in block.marks:
            if kind == "run":
                assert text in SCENARIOS, text
            elif kind == "run by":
                assert (ROOT / text).exists(), text


def test_the_root_page_is_short_and_begins_with_a_picture() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 160
    (shown,) = re.findall(r"^!\[.+\]\((.+)\)$", "\n".join(lines[:30]), re.MULTILINE)
    assert (ROOT / shown).stat().st_size < 200_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder of a user's, with folders of images beside it."""
    images = tmp_path_factory.mktemp("images")
    write_images(images / "bottle", MVTEC)
    write_images(images / "animals", ANIMALS)
    write_images(images / "mine", PUBLISHED)
    write_scans(images / "scans")
    (boxes,) = [block.text for block in blocks() if block.text.startswith("image,class")]
    (images / "scans/boxes.csv").write_text(boxes)
    made = tmp_path_factory.mktemp("user")
    (made / "FOLDER").symlink_to(images)
    return made


def write_scans(folder: Path) -> None:
    """Write the scans that the annotations on the page name."""
    folder.mkdir()
    random = np.random.RandomState(0)
    for name in ("bag-1.png", "bag-2.png", "bag-3.png"):
        Image.fromarray(random.randint(0, 200, (240, 320, 3), np.uint8)).save(folder / name)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_commands_of_a_scenario_run_as_they_stand(folder: Path, scenario: str) -> None:
    chosen = [block for block in blocks() if ("run", scenario) in block.marks]
    assert chosen
    for block in chosen:
        if block.language == "yaml":
            named = re.match(r"# (\S+\.yaml)\n", block.text)
            (folder / (named[1] if named else "my.yaml")).write_text(block.text)
        elif block.language == "python":
            run(folder, [sys.executable, "-c", block.text])
        else:
            for line in block.text.strip().splitlines():
                run(folder, ["bash", "-euo", "pipefail", "-c", line])


def run(folder: Path, words: list[str]) -> None:
    path = f"{Path(sys.executable).parent}:{environment()['PATH']}"
    cache = environment(PATH=path, XDG_CACHE_HOME=str(folder / "cache"))
    done = subprocess.run(words, cwd=folder, env=cache, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, f"{words[-1]}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
