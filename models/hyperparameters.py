"""Typed training hyperparameters: each is declared once, with its default, and all are checked together.

This module imports the standard library alone, so that planning a sweep does not load torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

Scalar = bool | int | float | str
TYPES: tuple[type[Any], ...] = (bool, int, float, str)
TRUTH = {"true": True, "false": False}
METADATA = ("doc", "low", "high", "choices", "search")


@dataclass(frozen=True)
class NoHyperparameters:
    """Hyperparameters of a detector that has none."""


@dataclass(frozen=True)
class Hyperparameter:
    """One field of a detector's hyperparameters.

    Attributes:
        name, type, default: name, type and default of the field; the type is bool, int, float or str.
        doc: one line for users.
        low, high: legal range, both ends included; None for no limit.
        choices: the only legal values; empty if every value in the range is legal.
        search: range for a search as plain data: {"low", "high", "log"} or {"choices"}; None for a
            hyperparameter that should not be searched.
    """

    name: str
    type: type[Any]
    default: Scalar
    doc: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[Scalar, ...] = ()
    search: Mapping[str, Any] | None = None

    def coerce(self, value: object) -> Scalar:
        """Convert a value to this field's type and check its range.

        Text that can be read as a number is converted, because YAML reads `2e-4` as text.

        Raises:
            ValueError: if the value is not legal; the message names the field, the value and the legal values.
        """
        coerced = _as_type(value, self.type)
        if coerced is None or not self._is_legal(coerced):
            raise ValueError(f"{self.name}={value!r} is not legal: {self.legal()}")
        return coerced

    def legal(self) -> str:
        """Return the legal values in words, such as "an integer from 1 to 4096"."""
        if self.choices:
            return "one of " + ", ".join(str(choice) for choice in self.choices)
        noun = {bool: "true or false", int: "an integer", float: "a number", str: "text"}[self.type]
        low = "" if self.low is None else f" from {self.low:g}"
        high = "" if self.high is None else f" up to {self.high:g}" if not low else f" to {self.high:g}"
        return noun + low + high

    def _is_legal(self, value: Scalar) -> bool:
        if self.choices:
            return value in self.choices
        if isinstance(value, str):
            return True
        above = self.low is None or value >= self.low
        return math.isfinite(value) and above and (self.high is None or value <= self.high)


def hyperparameter(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Scalar, ...] = (),
    search: Mapping[str, Any] | None = None,
) -> Any:
    """Declare a field of a dataclass of hyperparameters; the arguments are the attributes of `Hyperparameter`."""
    metadata = {"doc": doc, "low": low, "high": high, "choices": choices, "search": search}
    return dataclasses.field(default=default, metadata=metadata)


def describe(hyperparameters: type[Any]) -> tuple[Hyperparameter, ...]:
    """Return all hyperparameters of a dataclass, in order; fields without metadata have no range.

    Raises:
        ValueError: if the class is not a frozen dataclass, or a field has no default, or its type is not
            bool, int, float or str.
    """
    if hyperparameters not in _described:  # a cache, because a plan calls this once per trial
        _described[hyperparameters] = _describe(hyperparameters)
    return _described[hyperparameters]


def resolve_values(hyperparameters: type[Any], overrides: Mapping[str, object]) -> dict[str, Scalar]:
    """Return the defaults with `overrides` applied, converted to the fields' types and checked.

    Returns:
        every field by name, in the dataclass's order.

    Raises:
        ValueError: if a name is unknown or a value is not legal; the message lists all problems.
    """
    known = {field.name: field for field in describe(hyperparameters)}
    problems = [
        f"{name} is not a hyperparameter: {nearest_first(name, known)}" for name in overrides if name not in known
    ]
    values: dict[str, Scalar] = {}
    for name, field in known.items():
        try:
            values[name] = field.coerce(overrides.get(name, field.default))
        except ValueError as problem:
            problems.append(str(problem))
    if problems:
        raise ValueError("; ".join(problems))
    return values


def nearest_first(name: str, legal: Iterable[str]) -> str:
    """Return the legal names as one line; those that are similar to `name` come first."""
    names = list(legal)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return "legal names are " + (", ".join([*near, *(other for other in names if other not in near)]) or "none")


def _as_type(value: object, kind: type[Any]) -> Scalar | None:
    """Convert `value` to `kind`; return None if that is impossible or would lose information."""
    if kind is str:
        return value if isinstance(value, str) else None
    if kind is bool:
        return value if isinstance(value, bool) else TRUTH.get(str(value).lower())
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        if kind is int and not isinstance(value, float):
            whole = int(value)
            return whole if abs(whole) < 2**63 else None  # tables have integers of 64 bits
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if kind is float:
        return number
    return int(number) if number.is_integer() and abs(number) < 2**63 else None


_described: dict[type[Any], tuple[Hyperparameter, ...]] = {}


def _describe(hyperparameters: type[Any]) -> tuple[Hyperparameter, ...]:
    name = getattr(hyperparameters, "__name__", hyperparameters)
    if not (isinstance(hyperparameters, type) and dataclasses.is_dataclass(hyperparameters)):
        raise ValueError(f"hyperparameters {name} must be a frozen dataclass")
    if not hyperparameters.__dataclass_params__.frozen:  # type: ignore[attr-defined]  # absent from typeshed
        raise ValueError(f"hyperparameters {name} must be frozen: write @dataclass(frozen=True)")
    hints = get_type_hints(hyperparameters)
    described = []
    for field in dataclasses.fields(hyperparameters):
        if hints[field.name] not in TYPES or field.default is dataclasses.MISSING:
            raise ValueError(f"{name}.{field.name} needs a default and one of the types bool, int, float, str")
        known = {key: value for key, value in field.metadata.items() if key in METADATA}
        described.append(Hyperparameter(field.name, hints[field.name], field.default, **known))
    return tuple(described)


CHANNELS = (1, 3)
SIZES = (16, 32, 64, 128, 256)  # 4 * 2^k, because networks halve their maps down to 4x4
PUBLISHED_SIDE = 28  # of MNIST, and of the networks that EGBAD's authors published for it
ANY_SIZE = tuple(sorted((*SIZES, PUBLISHED_SIDE)))
