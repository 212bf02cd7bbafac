"""Records of made-up trials, as a store has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweep.store.records import key_of, seal


def result_record(number: int = 0, **fields: Any) -> dict[str, Any]:
    """Return the result of a made-up trial, with the fields that every result has; each number has its own key."""
    spec: dict[str, Any] = {"hyperparameters": {}, "seed": number}
    common: dict[str, Any] = {"status": "ok", "metrics": [], "validation": None, "lam": None, "seconds": 1.0}
    return {"key": key_of(spec), "spec": spec, **common, **fields}


def change_result(trial: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """Rewrite the result in a trial's folder as if it was written so; return its key: another spec has another one."""
    record = json.loads((trial / "result.json").read_text())
    change(record)
    record["key"] = key_of(record["spec"])
    new = trial.rename(trial.with_name(record["key"]))
    (new / "result.json").write_text(json.dumps(seal(record)))
    return new.name
