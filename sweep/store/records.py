"""Check of records as they are read: from bytes to a dict whose fields have the types that the code relies on.

A store may hold damaged files, files of other programs, and records of other versions.  `decode` is the only way from
bytes to a record, so nothing else has to test types.  A record may have more fields than its shape; a name that ends
in "?" may be missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from sweep.errors import shown

Record = dict[str, Any]

SELF = "self_sha256"  # field of a result: hash of all its other fields
FILES = "files"  # field of a result: SHA-256 of each file that belongs to it, by name
KEY_LENGTH = 20  # hexadecimal digits of a trial's key: 80 bits, enough for a billion trials without a collision
WHOLE = 2**63  # integers of a record are below it, because tables have 64 bits

# A shape is a type, None, a set of legal texts, a tuple of alternatives, [shape of each item], {str: shape of each
# value}, or {name: shape of this field}.  `float` is any finite number; `int` and `float` are never true or false.
Shape = Any
_OPTIONAL_TEXT, _OPTIONAL_NUMBER, _OPTIONAL_WHOLE = (str, None), (float, None), (int, None)
_METRICS = {
    "selection": str, "evaluation": str, "epoch": int, "auroc": float, "ap": float, "fpr95": float,
    "base_rate": float, "n_normal": int, "n_abnormal": int, "ties": float, "auroc_se?": _OPTIONAL_NUMBER,
}  # fmt: skip
RESULT: Shape = {
    "key": str,
    "spec": {"hyperparameters": {str: (bool, int, float, str)}, "timing?": (None, dict)},
    "status": frozenset({"ok", "diverged"}),
    "cause?": _OPTIONAL_TEXT,
    "metrics": [_METRICS],
    "validation": (None, {"epoch?": int, "lambda": [_OPTIONAL_NUMBER], "auroc": [float]}),
    "lam": _OPTIONAL_NUMBER,
    "seconds": float,
    "attempts?": _OPTIONAL_WHOLE,
    "timings?": [{"batch_size": int, "seconds": [float]}],
    f"{FILES}?": {str: str},
    **{f"{name}?": _OPTIONAL_TEXT for name in (
        "device", "hardware", "torch", "ray", "commit", "code", "fingerprint", "split_hash", "host")},
    **{f"{name}?": _OPTIONAL_NUMBER for name in ("train_seconds", "images_per_second", "gpus")},
    **{f"{name}?": _OPTIONAL_WHOLE for name in ("peak_bytes", "parameters", "epochs_trained")},
    "dirty?": (bool, None),
}  # fmt: skip
ATTEMPT: Shape = {
    "status": frozenset({"failed", "oom", "preempted", "hung"}),
    "cause": str, "launch": int, "sweep?": str, "log?": str, "host?": str, "time?": float,
}  # fmt: skip
LAUNCH: Shape = {
    "versions?": {str: str}, "python?": str, "commit?": _OPTIONAL_TEXT, "code?": str, "dirty?": (bool, None),
    "argv?": [str], "time?": float, "host?": str,
}  # fmt: skip
ASK: Shape = {"params": {str: (bool, int, float, str)}}
PRUNE: Shape = {"step": int}
_KINDS = (
    (re.compile(r"trials/[^/]+/result\.json"), RESULT),
    (re.compile(r"trials/[^/]+/attempts/[0-9]+\.json"), ATTEMPT),
    (re.compile(r"sweeps/[^/]+/specs/[0-9]+\.json"), LAUNCH),
    (re.compile(r"sweeps/[^/]+/studies/[^/]+/asks/[0-9]+\.json"), ASK),
    (re.compile(r"sweeps/[^/]+/studies/[^/]+/prunes/[0-9]+\.json"), PRUNE),
)
_NAMES = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a record", tuple: "a list",
    None: "null",
}  # fmt: skip


def parse_json(data: bytes | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not JSON, or no JSON that this program writes: too deep, with NaN, or with endless integers.
    """
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None


def decode(path: str, data: bytes) -> Record:
    """Return the record of an object in a store.

    Raises:
        ValueError: the bytes are no record of the kind that belongs to this path; the message says why.
    """
    record = parse_json(data)
    if not isinstance(record, dict) or not record:
        raise ValueError("not a record")
    shape, fits = next((kind[1:] for kind in _SHAPES if kind[0].fullmatch(path)), ({}, _is_record))
    if shape is not RESULT and not fits(record):
        raise ValueError(mismatch(record, shape))
    problem: str | None = None
    if problem is None and shape is RESULT:
        problem = result_problem(path.split("/")[1], record)
    if problem is not None:
        raise ValueError(problem)
    return record


def result_problem(key: str, result: Any) -> str | None:
    """Return why a value is not the result of the trial with this key; None if it is."""
    if not _FITS_RESULT(result):
        return mismatch(result, RESULT)
    try:
        own_key, own_hash = key_of(result["spec"]), self_hash(result) if SELF in result else None
    except (ValueError, RecursionError):
        return "it is nested too deeply, or has an infinite number"
    if own_key != key or result["key"] != key:
        return "the key is not that of the trial's spec"
    validation = result["validation"]
    if validation is not None and not 0 < len(validation["lambda"]) == len(validation["auroc"]):
        return '"validation" has not one AUROC for each lambda'
    problem = None
    if result["spec"].get("timing") is not None:
        problem = _timing_problem(result)
    if problem is None and result.get(SELF) != own_hash:
        problem = "it was changed after it was written: its SHA-256 of itself differs"
    return problem


def _timing_problem(result: Record) -> str | None:
    problem = mismatch(result, {"timings": list, "hardware": str, "torch": str})
    if problem is None and any(len(t["seconds"]) < 2 or t["batch_size"] < 1 for t in result["timings"]):
        problem = '"timings" has not two times for each batch size'
    return problem


def matcher(shape: Shape) -> Callable[[Any], bool]:
    """Return a fast test whether a value has a shape: a report tests thousands of records.

    `mismatch` is as strict, and says what is wrong, but takes fifty times as long.
    """
    if isinstance(shape, tuple):
        first, *others = map(matcher, shape)
        rest = matcher(shape[1:]) if len(others) > 1 else others[0]
        return lambda value: first(value) or rest(value)
    if isinstance(shape, list):
        each = matcher(shape[0])
        return lambda value: type(value) is list and all(map(each, value))
    if isinstance(shape, dict) and str in shape:
        each = matcher(shape[str])
        return lambda value: type(value) is dict and all(map(each, value.values()))
    if isinstance(shape, dict):
        needed = [(name, matcher(inner)) for name, inner in shape.items() if not name.endswith("?")]
        optional = [(name[:-1], matcher(inner)) for name, inner in shape.items() if name.endswith("?")]
        return lambda value: (
            type(value) is dict
            and all(name in value and fits(value[name]) for name, fits in needed)
            and all(name not in value or fits(value[name]) for name, fits in optional)
        )
    if isinstance(shape, frozenset):
        return lambda value: type(value) is str and value in shape
    return _LEAVES.get(shape) or (lambda value: _is(value, shape))


_LEAVES: dict[Any, Callable[[Any], bool]] = {
    str: lambda value: type(value) is str,
    bool: lambda value: type(value) is bool,
    None: lambda value: value is None,
    int: lambda value: type(value) is int and -WHOLE <= value < WHOLE,
    float: lambda value: (
        -math.inf < value < math.inf if type(value) is float else type(value) is int and -WHOLE <= value < WHOLE
    ),
}


def mismatch(value: Any, shape: Shape, where: str = "") -> str | None:
    """Return the first thing in a value that does not have its shape; None if all has."""
    if isinstance(shape, tuple):
        problems = [mismatch(value, one, where) for one in shape]
        return None if None in problems else problems[0]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f'"{where}" must be a list, is {shown(value)}'
        return _first(mismatch(item, shape[0], f"{where}[{n}]") for n, item in enumerate(value))
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            return f'"{where}" must be a record, is {shown(value)}'
        if str in shape:
            return _first(mismatch(item, shape[str], _join(where, name)) for name, item in value.items())
        return _first(_field(value, name, inner, where) for name, inner in shape.items())
    if isinstance(shape, frozenset):
        legal = isinstance(value, str) and value in shape
        return None if legal else f'"{where}" must be one of {", ".join(sorted(shape))}, is {shown(value)}'
    return None if _is(value, shape) else f'"{where}" must be {_NAMES.get(shape, "a list")}, is {shown(value)}'


def _field(record: Record, name: str, shape: Shape, where: str) -> str | None:
    bare = name.removesuffix("?")
    if bare in record:
        return mismatch(record[bare], shape, _join(where, bare))
    return None if bare != name else f'it lacks "{_join(where, bare)}"'


def _is(value: Any, kind: Any) -> bool:
    if kind is None:
        return value is None
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, int | float) and abs(value) < math.inf and (isinstance(value, float) or _fits(value))
    return isinstance(value, kind) and (kind is not int or _fits(value))


def _fits(value: int) -> bool:
    return -WHOLE <= value < WHOLE


def _first(problems: Any) -> str | None:
    return next((problem for problem in problems if problem is not None), None)


def _join(where: str, name: str) -> str:
    return shown_name(f"{where}.{name}" if where else name)


def shown_name(name: str) -> str:
    """Return a name of a field, cut if it is long."""
    return name if len(name) <= 100 else f"{name[:97]}..."


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _is_record(value: Any) -> bool:
    return isinstance(value, dict)


_FITS_RESULT = matcher(RESULT)
_SHAPES = tuple((pattern, shape, matcher(shape)) for pattern, shape in _KINDS)


# -- hashes ---------------------------------------------------------------------------------------------


def sha256(data: bytes) -> str:
    """Return the SHA-256 of the data, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def key_of(spec: Mapping[str, Any]) -> str:
    """Return the key of a trial: the hash of its spec."""
    return sha256(canonical_json(dict(spec)).encode())[:KEY_LENGTH]


def self_hash(result: Mapping[str, Any]) -> str:
    """Return the hash of all fields of a result but `SELF`."""
    return sha256(canonical_json({name: value for name, value in result.items() if name != SELF}).encode())


def seal(result: Record) -> Record:
    """Return a result with the hash of itself."""
    return {**result, SELF: self_hash(result)}


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, shortest decimals that read back equal."""
    return _ENCODER.encode(value)
