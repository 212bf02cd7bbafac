"""Detectors of the user's own: whether their code will be where trials run.

Machines elsewhere are given this tree.  What else they have is an environment, which is made there from
pyproject.toml, is shared with this machine, or is the user's own.
"""

from __future__ import annotations

import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from sweep.errors import UserError
from sweep.providers.base import Environment, Provider
from sweep.providers.finding import Finding
from sweep.providers.shipping import ROOT, list_files
from sweep.spec.sweep import Sweep


def findings(provider: Provider[Any], root: Path = ROOT) -> list[Finding]:
    """Check that trials find each module with detectors of the user; [] if trials run in this environment."""
    environment = provider.environment()
    if environment is None:
        return []
    return [_finding(module, file, environment, root) for module, file in _modules(provider.sweep).items()]


def cautions(provider: Provider[Any], root: Path = ROOT) -> list[Finding]:
    """Return the findings that a plan has to show: modules that trials cannot find, or that are not installed here."""
    installed = {_name(module) for module, file in _modules(provider.sweep).items() if _is_installed(file)}
    found = findings(provider, root)
    return [
        line for line in found if line.state == "not ok" or (line.state == "unknown" and line.name not in installed)
    ]


def refuse(provider: Provider[Any], root: Path = ROOT) -> None:
    """Refuse a launch whose trials could not find a detector's code.

    Raises:
        UserError: naming each module, with the fix.
    """
    wrong = [line for line in findings(provider, root) if line.state == "not ok"]
    if wrong:
        raise UserError([line.sentence() for line in wrong])


def _modules(sweep: Sweep) -> dict[str, Path]:
    """Files of the modules that hold own detectors; all were imported when the YAML was read."""
    names = {name.partition(":")[0] for study in sweep.studies for name in study.detectors if ":" in name}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(names)}
    return {name: Path(file).resolve() for name, file in files.items() if file}


def _finding(module: str, file: Path, environment: Environment, root: Path) -> Finding:
    name, move = _name(module), f"move it into {root}"
    if _is_installed(file):
        return _of_package(module, environment, root)
    inside = file.is_relative_to(root)
    path = file.relative_to(root).as_posix() if inside else str(file)
    if inside and path in list_files(root):
        if path in (f"{module.replace('.', '/')}.py", f"{module.replace('.', '/')}/__init__.py"):
            return Finding(name, "ok", f"{path} goes with the code")
        said, move = (
            f"{path} goes with the code, which is imported from {root} alone",
            f"name it by its path below {root}",
        )
    elif inside:
        said, move = f"git ignores {path}, so it is not part of the code that is shipped", "take it out of .gitignore"
    else:
        said = f"{path} is not part of the code that is shipped, {root}"
    if environment.made:
        return Finding(name, "not ok", said, move)
    said = f"{said}; trials find it only if {environment.name} has it"
    return Finding(name, "unknown", said, f"{move}, or install it there")


def _name(module: str) -> str:
    return f"detector {module}"


def _of_package(module: str, environment: Environment, root: Path) -> Finding:
    """Of a module that is installed here."""
    name, move = _name(module), f"move it into {root}"
    package = next(iter(metadata.packages_distributions().get(module.partition(".")[0], ())), module)
    if environment.shared:
        return Finding(name, "ok", f"package {package} in {environment.name} which all nodes see")
    if not environment.made:
        said = f"package {package} is installed here; whether {environment.name} has it is found out by trials alone"
        return Finding(name, "unknown", said, f"install it there, or {move}")
    if package in _required_packages(root / "pyproject.toml"):
        return Finding(name, "ok", f"package {package} comes with the environment that machines make")
    said = f"package {package} is installed here, and pyproject.toml, of which machines make theirs, does not name it"
    return Finding(name, "not ok", said, f"add it to the dependencies there, or {move}")


def _is_installed(file: Path) -> bool:
    return any(file.is_relative_to(Path(sysconfig.get_path(kind)).resolve()) for kind in ("purelib", "platlib"))


def _required_packages(project: Path) -> set[str]:
    """Packages that pyproject.toml asks for, and what those ask for, by the names they are installed under."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in tomllib.loads(project.read_text())["project"]["dependencies"]]
    seen, found = set(), set()
    while wanted:
        requirement = wanted.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        try:
            distribution = metadata.distribution(requirement.name)
        except metadata.PackageNotFoundError:  # of another platform
            continue
        found.add(distribution.metadata["Name"])
        for further in map(Requirement, distribution.requires or ()):
            if further.marker is None or any(
                further.marker.evaluate({"extra": extra}) for extra in (requirement.extras or {""})
            ):
                wanted.append(further)
    return found
