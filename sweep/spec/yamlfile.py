"""Reading of YAML files into plain values, and changes by `--set a.b=c`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sweep.errors import UserError


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML loader that refuses a key given twice; plain YAML would silently use the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} cannot be a key", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read(path: Path) -> dict[str, Any]:
    """Return the contents of a YAML file that holds one mapping.

    Raises:
        UserError: no such file, a folder, not YAML (with line and column), or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError) as error:
        known = ", ".join(sorted(str(p) for p in Path("clusters").glob("*.yaml"))) or "none found"
        what = "is a folder, not a YAML file" if isinstance(error, IsADirectoryError) else "no such file"
        raise UserError(f"{path}: {what} (here: {known})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    return parse(text, str(path))


def parse(text: str, name: str) -> dict[str, Any]:
    """Return the mapping in `text`; error messages begin with `name`."""
    try:
        value = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise UserError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise UserError(f"{name}: must contain keys and values at the top level, contains {type(value).__name__}")
    return value


def override(value: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `value` with every assignment `a.b.0.c=YAML` applied.

    Raises:
        UserError: an assignment has no "=", or its path leads through a value without keys.
    """
    problems = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            problems.append(f"--set {assignment}: must look like a.b=value")
            continue
        try:
            new = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
            value = _assign(value, path.strip().split("."), new)
        except (yaml.YAMLError, LookupError, ValueError) as error:
            problems.append(f"--set {assignment}: {str(error).splitlines()[0]}")
    if problems:
        raise UserError(problems)
    return value


def _assign(value: Any, path: list[str], new: Any) -> Any:
    if not path:
        return new
    head, rest = path[0], path[1:]
    if isinstance(value, list):
        if not head.isdigit() or int(head) >= len(value):
            raise LookupError(f"{head!r} must be a position from 0 to {len(value) - 1}")
        return [_assign(v, rest, new) if i == int(head) else v for i, v in enumerate(value)]
    if value is not None and not isinstance(value, Mapping):
        raise LookupError(f"{value!r} has no key {head!r}")
    return {**(value or {}), head: _assign((value or {}).get(head), rest, new)}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated with `over`: mappings are merged key by key, everything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return result
