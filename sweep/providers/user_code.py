"""The user's own detectors: check that machines will have their code.

Other machines receive this project's tree.  Their Python environment is one of three: they make it from
pyproject.toml, they share it with this machine, or the user made it.
"""

from __future__ import annotations

import sys
import sysconfig
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from models.catalog import is_own
from sweep.errors import UserError
from sweep.providers.base import Environment, Provider
from sweep.providers.finding import Finding
from sweep.providers.shipping import ROOT, list_files
from sweep.spec.sweep import Sweep


def findings(provider: Provider[Any], root: Path = ROOT) -> list[Finding]:
    """Check that trials find each module of the user's own detectors; [] if trials run in this environment."""
    environment = provider.environment()
    if environment is None:
        return []
    return [_finding(module, file, environment, root) for module, file in _modules(provider.sweep).items()]


def cautions(provider: Provider[Any], root: Path = ROOT) -> list[Finding]:
    """Return the findings that a plan shows: modules that trials cannot find, or that are not installed here."""
    installed = {_name(module) for module, file in _modules(provider.sweep).items() if _is_installed(file)}
    found = findings(provider, root)
    return [
        line for line in found if line.state == "not ok" or (line.state == "unknown" and line.name not in installed)
    ]


def refuse(provider: Provider[Any], root: Path = ROOT) -> None:
    """Refuse a launch if its trials could not find a detector's code.

    Raises:
        UserError: names each module, with the fix.
    """
    missing = [line for line in findings(provider, root) if line.state == "not ok"]
    if missing:
        raise UserError([line.sentence() for line in missing])


def _modules(sweep: Sweep) -> dict[str, Path]:
    """Return the files of the modules with the user's own detectors; reading the YAML has imported all of them."""
    names = {name.partition(":")[0] for study in sweep.studies for name in study.detectors if is_own(name)}
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(names)}
    return {name: Path(file).resolve() for name, file in files.items() if file}


def _finding(module: str, file: Path, environment: Environment, root: Path) -> Finding:
    name, move = _name(module), f"move it into {root}"
    if _is_installed(file):
        return _package_finding(module, environment, root)
    inside = file.is_relative_to(root)
    path = file.relative_to(root).as_posix() if inside else str(file)
    if inside and path in list_files(root):
        if path in (f"{module.replace('.', '/')}.py", f"{module.replace('.', '/')}/__init__.py"):
            return Finding(name, "ok", f"{path} is shipped with the code")
        text, move = (
            f"{path} is shipped with the code, but trials import modules only from {root} itself",
            f"name it by its path relative to {root}",
        )
    elif inside:
        text, move = f"git ignores {path}, so it is not shipped with the code", "remove it from .gitignore"
    else:
        text = f"{path} is outside of the code that is shipped, {root}"
    if environment.made:
        return Finding(name, "not ok", text, move)
    text = f"{text}; trials find it only if {environment.name} has it"
    return Finding(name, "unknown", text, f"{move}, or install it there")


def _name(module: str) -> str:
    return f"detector {module}"


def _package_finding(module: str, environment: Environment, root: Path) -> Finding:
    """Return the finding for a module that is installed in this environment."""
    name, move = _name(module), f"move it into {root}"
    package = next(iter(metadata.packages_distributions().get(module.partition(".")[0], ())), module)
    if environment.shared:
        return Finding(name, "ok", f"package {package} is in {environment.name} which all nodes share")
    if not environment.made:
        text = f"package {package} is installed here; only trials can find out if {environment.name} has it"
        return Finding(name, "unknown", text, f"install it there, or {move}")
    if package in _required_packages(root / "pyproject.toml"):
        return Finding(name, "ok", f"package {package} is part of the environment that machines make")
    text = f"package {package} is installed here, but machines make their environment from pyproject.toml without it"
    return Finding(name, "not ok", text, f"add it to the dependencies in pyproject.toml, or {move}")


def _is_installed(file: Path) -> bool:
    return any(file.is_relative_to(Path(sysconfig.get_path(kind)).resolve()) for kind in ("purelib", "platlib"))


def _required_packages(project: Path) -> set[str]:
    """Return the packages that pyproject.toml requires, directly or indirectly, by their installed names."""
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
        except metadata.PackageNotFoundError:  # it is only for another platform
            continue
        found.add(distribution.metadata["Name"])
        for further in map(Requirement, distribution.requires or ()):
            if further.marker is None or any(
                further.marker.evaluate({"extra": extra}) for extra in (requirement.extras or {""})
            ):
                wanted.append(further)
    return found
