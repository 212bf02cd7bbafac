"""Rules for the project as a whole: pins, names, docstrings, and what the pages refer to."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sysconfig
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.benchmarks.structure import FRAGMENT, PACKAGES, figures

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILES = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
SOURCES = [name for name in FILES if name.endswith(".py")]


def test_every_installed_package_is_pinned_exactly() -> None:
    pins = {pin.partition(" ;")[0] for pin in PROJECT["tool"]["uv"]["constraint-dependencies"]}
    for found in importlib.metadata.distributions(
        path=[sysconfig.get_path("purelib")]
    ):  # not the packages inside of Ray's package
        name = re.sub(r"[-_.]+", "-", found.metadata["Name"]).lower()
        assert f"{name}=={found.version}" in pins, "run uv lock, then tests/pin.py"


def test_no_file_spells_the_address_of_a_registry() -> None:
    parts = (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("debian", "org"))
    hosts = re.compile("|".join(rf"{name}\.{domain}" for name, domain in parts))
    texts = [name for name in FILES if not name.endswith((".zip", ".png"))]
    assert [name for name in texts if hosts.search((ROOT / name).read_text("utf-8"))] == []
    assert "uv.lock" not in FILES


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_file_can_be_read(name: str) -> None:
    text = (ROOT / name).read_text()
    assert len(text.splitlines()) <= 420, "the file is too long"
    if Path(name).name != "__init__.py" or text:
        assert ast.get_docstring(ast.parse(text)), "the module has no docstring"


@pytest.mark.parametrize("word", ["manager", "handler", "utils", "helpers", "common"])
def test_no_file_hides_behind_an_empty_word(word: str) -> None:
    assert [name for name in SOURCES if word in Path(name).stem] == []


def test_no_folder_hides_its_architecture() -> None:
    folders = Counter(str(Path(name).parent) for name in SOURCES if not name.endswith("__init__.py"))
    product = {folder: count for folder, count in folders.items() if folder.split("/")[0] != "tests"}
    assert {folder: count for folder, count in product.items() if count > 20} == {}
    assert {folder: count for folder, count in folders.items() if count > 30} == {}


@pytest.mark.parametrize("name", [name for name in SOURCES if name.endswith("__init__.py")])
def test_a_package_says_in_its_first_line_what_lives_there(name: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / name).read_text()))
    assert docstring is not None and len(docstring.splitlines()[0]) <= 120


@pytest.mark.parametrize("name", [name for name in SOURCES if name.split("/")[0] in PACKAGES])
def test_docstrings_stand_by_themselves(name: str) -> None:
    tree = ast.parse((ROOT / name).read_text())
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds)]
    assert [text.splitlines()[0] for text in docstrings if text and FRAGMENT.match(text)] == []


def test_imports_form_no_circle_and_few_functions_are_named_by_a_participle() -> None:
    measured = figures(ROOT)
    assert measured["modules in import circles"] == "0"
    assert float(measured["functions named by a bare participle"].partition("(")[2].rstrip("%)")) < 1.5


def test_the_pages_name_only_verbs_that_exist() -> None:
    pages = "\n".join((ROOT / name).read_text() for name in FILES if name.endswith("README.md"))
    verbs = set(re.findall(r"python -m sweep (\w+)", pages))
    sources = [path.read_text() for path in (ROOT / "sweep/cli").glob("*.py")]
    known = {name for text in sources for name in re.findall(r"^def (\w+)\(", text, re.MULTILINE)} | {"data"}
    assert verbs
    assert verbs <= known


@pytest.mark.parametrize("file", ["tests/own_detector.py", "tests/anomalib_detector.py"])
def test_the_page_of_detectors_shows_the_detectors_that_the_tests_run(file: str) -> None:
    page = (ROOT / "models/README.md").read_text()
    shown = re.search(rf"```python\n# {re.escape(file)}\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    assert shown.group(1).strip() in (ROOT / file).read_text()
