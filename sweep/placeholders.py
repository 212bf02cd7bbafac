"""What a user has to edit in the YAMLs that come with the package, and has not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sweep.faults import UserError
from sweep.spec import Sweep

PLACEHOLDER = "EDIT-THIS"


def unedited(sweep: Sweep) -> dict[str, str]:
    """Keys, with their text, that stand as they came and have no meaning."""
    raw = sweep.model_dump(mode="json", exclude={"studies"})
    return {place: text for key, value in raw.items() for place, text in _texts(key, value) if PLACEHOLDER in text}


def refuse_unedited(sweep: Sweep) -> None:
    """Where a placeholder is left in the YAML.

    Raises:
        UserError: naming every one, with the mend.
    """
    faults = [f"{place}: {text} is a placeholder; {edit(place)}" for place, text in unedited(sweep).items()]
    if faults:
        raise UserError(faults)


def edit(place: str) -> str:
    """How to mend a placeholder."""
    example = ", e.g. s3://your-bucket/prefix" if place == "storage" else ""
    return f"edit that line of the YAML{example}, or give --set {place}=..."


def _texts(place: str, value: Any) -> Iterator[tuple[str, str]]:
    """Every text in a value, with its place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(f"{place}.{key}", inner)
    elif isinstance(value, list):  # --set replaces one as a whole
        yield place, "[" + ", ".join(text for inner in value for _, text in _texts(place, inner)) + "]"
