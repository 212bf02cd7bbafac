"""Typed training hyperparameters: declared once beside their default, checked all at once.

Standard library only, so that planning a sweep loads no torch.
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
    """Of a detector that has nothing to set."""


@dataclass(frozen=True)
class Hyperparameter:
    """One field of a detector's hyperparameters.

    Attributes:
        name, type, default: of the field; the type is bool, int, float or str.
        doc: one line.
        low, high: legal range, both ends included; None for no end.
        choices: the only legal values; empty for any within the range.
        search: range for a search as plain data: {"low", "high", "log"} or {"choices"}; None where
            searching makes no sense.
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
        """`value` as this field's type, within its legal range.

        Text that reads as a number is one: YAML takes `2e-4` for text.

        Raises:
            ValueError: naming the field, the value and the legal ones.
        """
        coerced = _as_type(value, self.type)
        if coerced is None or not self._is_legal(coerced):
            raise ValueError(f"{self.name}={value!r} is not legal: {self.legal()}")
        return coerced

    def legal(self) -> str:
        """The legal values in words, e.g. "an integer from 1 to 4096"."""
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
    """A field of a hyperparameter dataclass; the arguments are those of `Hyperparameter`."""
    metadata = {"doc": doc, "low": low, "high": high, "choices": choices, "search": search}
    return dataclasses.field(default=default, metadata=metadata)


def describe(hyperparameters: type[Any]) -> tuple[Hyperparameter, ...]:
    """Every hyperparameter of a dataclass, in order; fields without metadata have no range.

    Raises:
        ValueError: if the class is no frozen dataclass, or a field has no default or another type
            than bool, int, float, str.
    """
    if hyperparameters not in _described:  # a plan of many trials asks once per trial
        _described[hyperparameters] = _describe(hyperparameters)
    return _described[hyperparameters]


def resolve_values(hyperparameters: type[Any], overrides: Mapping[str, object]) -> dict[str, Scalar]:
    """Defaults with `overrides`, coerced and checked.

    Returns:
        every field by name, in the dataclass's order.

    Raises:
        ValueError: listing every unknown name and every illegal value at once.
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
    """The legal names as one line, those that look like `name` first."""
    names = list(legal)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return "legal are " + (", ".join([*near, *(other for other in names if other not in near)]) or "none")


def _as_type(value: object, kind: type[Any]) -> Scalar | None:
    """`value` as `kind` if nothing is lost by that, else None."""
    if kind is str:
        return value if isinstance(value, str) else None
    if kind is bool:
        return value if isinstance(value, bool) else TRUTH.get(str(value).lower())
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        if kind is int and not isinstance(value, float):
            return int(value)
        number = float(value)
    except ValueError:
        return None
    if kind is float:
        return number
    return int(number) if number.is_integer() else None


_described: dict[type[Any], tuple[Hyperparameter, ...]] = {}


def _describe(hyperparameters: type[Any]) -> tuple[Hyperparameter, ...]:
    name = getattr(hyperparameters, "__name__", hyperparameters)
    if not (isinstance(hyperparameters, type) and dataclasses.is_dataclass(hyperparameters)):
        raise ValueError(f"hyperparameters {name} must be a frozen dataclass")
    if not hyperparameters.__dataclass_params__.frozen:  # type: ignore[attr-defined]  # absent from typeshed
        raise ValueError(f"hyperparameters {name} must be frozen: write @dataclass(frozen=True)")
    hints = get_type_hints(hyperparameters)
    found = []
    for field in dataclasses.fields(hyperparameters):
        if hints[field.name] not in TYPES or field.default is dataclasses.MISSING:
            raise ValueError(f"{name}.{field.name} needs a default and one of the types bool, int, float, str")
        known = {key: value for key, value in field.metadata.items() if key in METADATA}
        found.append(Hyperparameter(field.name, hints[field.name], field.default, **known))
    return tuple(found)


CHANNELS = (1, 3)


SIZES = (16, 32, 64, 128, 256)  # 4 * 2^k, what networks that halve their map down to 4x4 can take
