"""The catalog of datasets needs the standard library alone, and refuses wrong names with the legal ones."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from data.catalog import DATASETS, UnknownDataset, dataset
from data.protocols import RULES

PROJECT = Path(__file__).parents[2]


def test_the_catalog_loads_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import data.catalog; "
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(loaded - set(sys.stdlib_module_names) - {'data'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_is_complete(name: str) -> None:
    info = dataset(name)
    assert info.name == name
    assert info.default_size in info.sizes
    assert info.default_protocol in info.protocols
    assert set(info.protocols) <= set(RULES)
    assert len(set(info.classes)) == len(info.classes) >= 2
    assert callable(import_module(info.source).read)


def test_an_unknown_dataset_is_refused_with_the_nearest_name_first() -> None:
    with pytest.raises(UnknownDataset, match=r"'MNITS': use one of mnist, .*digits"):
        dataset("MNITS")
    with pytest.raises(UnknownDataset, match=r"'digit': use one of digits, "):
        dataset("digit")


def test_an_illegal_size_is_refused_with_the_legal_ones() -> None:
    with pytest.raises(ValueError, match=r"size 30 is not legal for mnist: use one of 8, 16, 28, 32, 64"):
        dataset("mnist").preparation(30)


def test_preparation_ids_never_change() -> None:
    assert dataset("digits").preparation(32) == "s32-bilinear-1"
    assert dataset("mnist").preparation(64) == "s64-bilinear-1"
