"""Structure of the code as one table: packages, imports between them, import circles, names and docstrings.

    python -m tests.benchmarks.structure [FOLDER]

FOLDER is a checkout of this project, by default this one, so that two checkouts can be compared.  Imports are read
from the source text, also those inside of functions; no code is run.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

from tests.support.sweeps import ROOT

PACKAGES = ("sweep", "models", "data")
FRAGMENT = re.compile(r"(Of|As|What|Whether|Which|Whose|Where|Whoever|Whatever|Who|How|That)\b")
IRREGULAR = frozenset({
    "begun", "bound", "built", "chosen", "done", "drawn", "found", "given", "gone", "grown", "held", "hidden", "kept",
    "known", "left", "lost", "made", "meant", "said", "seen", "sent", "shown", "spent", "taken", "thrown", "told",
    "written",
})  # fmt: skip


def sources(root: Path) -> dict[str, ast.Module]:
    """Return the modules of the product by dotted name."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=root, capture_output=True, text=True, check=True).stdout
    paths = [Path(name) for name in listed.splitlines() if name.split("/")[0] in PACKAGES]
    return {dotted(path): ast.parse((root / path).read_text(), str(path)) for path in paths}


def dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports(modules: Mapping[str, ast.Module]) -> Iterator[tuple[str, str]]:
    """Yield pairs of modules; the first one imports the second one."""
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    found = full if full in modules else node.module
                    if found in modules and found != name:
                        yield name, found
            elif isinstance(node, ast.Import):
                yield from ((name, alias.name) for alias in node.names if alias.name in modules)


def room(module: str) -> str:
    """Return the top-level part of a module: a package of `sweep`, a single file of it, or `models` or `data`."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "sweep" else parts[0]


def in_circles(arrows: set[tuple[str, str]]) -> int:
    """Return the number of modules that import themselves, directly or through others."""
    after: dict[str, set[str]] = {}
    for first, second in arrows:
        after.setdefault(first, set()).add(second)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = after.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return seen

    return sum(name in reached(name) for name in after)


def participle(name: str) -> bool:
    """Return True if a function's name is a bare participle, such as `told` or `printed`."""
    word = name.strip("_")
    return "_" not in word and (word in IRREGULAR or (word.endswith("ed") and word not in ("need", "feed", "seed")))


def figures(root: Path) -> dict[str, str]:
    """Return the table: each count by its description."""
    modules = sources(root)
    lines = [len((root / name).read_text().splitlines()) for name in _files(root)]
    folders = Counter(str(Path(name).parent) for name in _files(root) if not name.endswith("__init__.py"))
    rooms = {room(name) for name in modules if name != "sweep"}
    packages = {name for name in rooms if any(module.startswith(f"{name}.") for module in modules)}
    arrows = set(imports(modules))
    between = {(room(a), room(b)) for a, b in arrows if room(a) != room(b) and "sweep" not in (room(a), room(b))}
    nodes = [node for tree in modules.values() for node in ast.walk(tree)]
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    definitions = [*functions, *(node for node in nodes if isinstance(node, ast.ClassDef)), *modules.values()]
    docstrings = [text for text in map(ast.get_docstring, definitions) if text]
    fragments = sum(FRAGMENT.match(text) is not None for text in docstrings)
    participles = sum(participle(node.name) for node in functions)
    largest = folders.most_common(1)[0]
    return {
        "top-level rooms of sweep, models, data: folders + files": f"{len(packages)} + {len(rooms - packages)}",
        "most modules in one folder": f"{largest[1]} ({largest[0]}/)",
        "lines of a module, median / most": f"{median(lines):.0f} / {max(lines)}",
        "import arrows between rooms": str(len(between)),
        "import arrows between modules": str(len(arrows)),
        "modules in import circles": str(in_circles(arrows)),
        "import layers of pyproject.toml": str(_layers((root / "pyproject.toml").read_text())),
        "docstrings that begin with a fragment": _share(fragments, len(docstrings)),
        "functions named by a bare participle": _share(participles, len(functions)),
        "lines of README.md": str(len((root / "README.md").read_text().splitlines())),
    }


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole} ({part / whole:.1%})"


def _files(root: Path) -> list[str]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=root, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.splitlines() if name.split("/")[0] in PACKAGES]


def _layers(project: str) -> int:
    found = re.search(r"^layers = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    return len(found.group(1).strip().splitlines()) if found else 0


if __name__ == "__main__":
    for name, figure in figures(Path(sys.argv[1]) if sys.argv[1:] else ROOT).items():
        print(f"{name:58s}  {figure}")
