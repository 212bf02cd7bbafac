"""Reading of YAML files into plain values, and changes by `--set a.b=c`.

A YAML may be damaged, or made to harm.  What is read is bounded: the size of the file, the depth, and the number of
values after aliases are written out, because a few lines of aliases can stand for billions of values.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sweep.console import printable
from sweep.errors import UserError, shown
from sweep.files import why_no_file

MOST_BYTES = 2**20
MOST_DEPTH = 50
MOST_VALUES = 200_000
_ILLEGAL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters, and halves of characters


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML loader that refuses a key given twice; plain YAML would silently use the last one.

    It also refuses what has no bounds, control characters, and values that YAML allows but Python does not have.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"more than {MOST_DEPTH} levels", None)
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _count(node, {}) > MOST_VALUES:
            raise yaml.composer.ComposerError(None, None, f"aliases make more than {MOST_VALUES:,} values", None)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if isinstance(node, yaml.ScalarNode) and _ILLEGAL.search(node.value):
            raise _problem("control character in a text", node)
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError, TypeError) as error:  # a date such as 2001-99-99, an integer of 5,000 digits
            raise _problem(f"{shown(node.value)} cannot be read: {error}", node) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _problem(f"{shown(key)} cannot be a key", key_node)
            if key in seen:
                raise _problem(f"key {shown(key)} is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _problem(text: str, node: yaml.Node) -> yaml.YAMLError:
    """Return an error about a node, with its line and column."""
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


def read(path: Path) -> dict[str, Any]:
    """Return the contents of a YAML file that holds one mapping.

    Raises:
        UserError: no such file, a folder, not YAML (with line and column), or not a mapping.
    """
    name = printable(str(path))
    if os.path.isdir(path) or not os.path.exists(path):
        known = ", ".join(sorted(str(p) for p in Path("clusters").glob("*.yaml"))) or "none found"
        what = "is a folder, not a YAML file" if os.path.isdir(path) else "no such file"
        raise UserError(f"{name}: {what} (here: {known})")
    if reason := why_no_file(path):
        raise UserError(f"{name}: cannot be read: {reason}; give a YAML file")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{name}: is larger than 1 MB, so it is no YAML of a sweep; give a YAML file")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: cannot be read: {error}; save it as UTF-8 text") from None
    return parse(text, name)


def parse(text: str, name: str) -> dict[str, Any]:
    """Return the mapping in `text`; error messages begin with `name`."""
    try:
        value = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise UserError(f"{where}: not valid YAML: {_one_line(error)}") from None
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
            problems.append(f"--set {shown(assignment)[1:-1]}: must look like a.b=value")
            continue
        if path.count(".") >= MOST_DEPTH:
            problems.append(f"--set {shown(assignment)[1:-1]}: a key has fewer than {MOST_DEPTH} parts")
            continue
        try:
            new = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
            value = _assign(value, path.strip().split("."), new)
        except (yaml.YAMLError, LookupError, ValueError) as error:
            problems.append(f"--set {shown(assignment)[1:-1]}: {_one_line(error)}")
    if problems:
        raise UserError(problems)
    return value


def _one_line(error: Exception) -> str:
    """Return the first line of an error, without the position, which is known already."""
    text = str(getattr(error, "problem", None) or error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def _count(node: yaml.Node, known: dict[int, float]) -> float:
    """Return the number of values of a node with all aliases written out; infinite if it contains itself.

    Args:
        node: node of a document whose depth is bounded.
        known: numbers of the nodes that were counted; a node that is being counted has infinitely many.
    """
    if id(node) not in known:
        known[id(node)] = math.inf
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [one for pair in node.value for one in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        known[id(node)] = 1 + sum(_count(one, known) for one in inner)
    return known[id(node)]


_POSITION = re.compile(r"[0-9]{1,9}")


def _assign(value: Any, path: list[str], new: Any) -> Any:
    if not path:
        return new
    head, rest = path[0], path[1:]
    if isinstance(value, list):
        if not _POSITION.fullmatch(head) or int(head) >= len(value):
            raise LookupError(f"{head!r} must be a position from 0 to {len(value) - 1}")
        return [_assign(v, rest, new) if i == int(head) else v for i, v in enumerate(value)]
    if value is not None and not isinstance(value, Mapping):
        raise LookupError(f"{shown(value)} has no key {shown(head)}")
    return {**(value or {}), head: _assign((value or {}).get(head), rest, new)}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` updated with `over`: mappings are merged key by key, everything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return result
