"""Odd inputs of commands, and what must hold whatever a command was given."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MOST_CHARACTERS = 4_000
ODD: list[Any] = [None, True, 0, -1, 2**70, 1.5, "", "x" * 3000, "a\0b", "\x1b[31m", [], [1], {}, {"a": 1}, [[[]]]]
Run = Callable[..., tuple[int, str]]


def assert_refused(found: tuple[int, str]) -> None:
    code, text = found
    assert code == 1, text[-2000:]
    assert_short(text)


def assert_short(text: str) -> None:
    assert "Traceback" not in text and "defect" not in text, text[-2000:]
    assert len(text) < MOST_CHARACTERS, len(text)
    assert "\x1b" not in text and "\0" not in text


def write_bundle(path: Path, files: dict[str, bytes]) -> Path:
    """Write a bundle as a careful stranger would: bundle.json has the hashes of all files, if it has any."""
    try:
        body = json.loads(files["bundle.json"])
        others = {name: data for name, data in files.items() if name != "bundle.json"}
        body["files"] = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in others.items()}
        files = {**files, "bundle.json": json.dumps(body).encode()}
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside of a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        yield from places(item, (*path, name))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy of a JSON value with another value at a path."""
    if not path:
        return new
    made = copy.copy(value)
    made[path[0]] = replaced(value[path[0]], path[1:], new)
    return made


def odd_copies(value: Any, seed: int, count: int) -> Iterator[Any]:
    """Yield copies of a JSON value, each with an odd value at a random place."""
    rng = random.Random(seed)
    everywhere = list(places(value))
    for _ in range(count):
        yield replaced(value, rng.choice(everywhere), rng.choice(ODD))


def assert_said(found: tuple[int, str]) -> None:
    """Assert that a verb ends in order: with all differences for `verify`, which may be many."""
    code, text = found
    assert code in (0, 1)
    assert "Traceback" not in text and "defect" not in text, text[-2000:]
    assert "\x1b" not in text and "\0" not in text
    assert len(text) < 100_000
