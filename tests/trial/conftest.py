"""Fixtures of trials that train on small digits: a store with them, and a cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from data.storage import shards
from sweep.store import open_store
from sweep.store.base import Store


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store that holds digits of 16 x 16, to be copied."""
    folder = tmp_path_factory.mktemp("prepared")
    shards.put(open_store(str(folder)), "digits", size=16, root=None)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> Store:
    """Return a separate store for one test, with the prepared digits."""
    shutil.copytree(prepared / "datasets", tmp_path / "store" / "datasets")
    return open_store(str(tmp_path / "store"))
